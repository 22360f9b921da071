"""Records every matrix product that a backend is asked for."""

from types import TracebackType
from typing import Self

from cnn.arrays import Array
from cnn.backend import Backend, gemm_sizes
from cnn.product import Product


class Recorder:
    """Within `with Recorder(backend) as recorder:`, `recorder.products` lists the calls of its `gemm` in order.

    Calls from any thread count. A product that a backend computes without its `gemm` is not seen.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.products: list[Product] = []

    @property
    def flops(self) -> int:
        """FLOP of all products."""
        return sum(product.flops for product in self.products)

    def __enter__(self) -> Self:
        # An attribute of the instance comes before the class's method, for the backend's own calls too.
        self._before = vars(self.backend).get("gemm")
        self._gemm = self.backend.gemm
        vars(self.backend)["gemm"] = self._record
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is None:
            del vars(self.backend)["gemm"]
        else:
            vars(self.backend)["gemm"] = self._before

    def _record(
        self,
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
        self._gemm(a, b, out=out, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate)
