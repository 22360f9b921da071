"""Records every matrix product that a backend computes by `gemm`."""

from cnn.arrays import Array
from cnn.backend import Backend, gemm_sizes
from cnn.instruments import Around, private
from cnn.product import Product


class Recorder:
    """`recorder.products` lists the calls of `recorder.backend.gemm` in order.

    `recorder.backend` is a private copy of the given backend, so calls on the original are not recorded. Calls from any
    thread are. A product that a backend computes without its `gemm` is not recorded.
    """

    def __init__(self, backend: Backend) -> None:
        self.products: list[Product] = []
        self.backend = private(backend, gemm=self._record)

    @property
    def flops(self) -> int:
        """FLOP of all products."""
        return sum(product.flops for product in self.products)

    def _record(
        self,
        gemm: Around,
        a: Array,
        b: Array,
        *,
        out: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        m, n, k = gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        self.products.append(Product(m, n, k, transpose_a, transpose_b, accumulate, out.dtype))
        gemm(a, b, out=out, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate)
