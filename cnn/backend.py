"""The backend interface: one abstract method, `gemm`; convolution and all else a layer needs is built on it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers
from cnn.convolution import Convolution, Window, col2im, im2col, pad, padded_size
from cnn.energy.reader import Part
from cnn.errors import ShapeError
from cnn.ops.elementwise import Elementwise
from cnn.ops.input import Input
from cnn.ops.losses import Losses
from cnn.ops.normalization import Normalization
from cnn.ops.updates import Updates
from cnn.product import ProductReport


@dataclass(frozen=True)
class Library:
    """The BLAS a backend calls: its name, version and file (None where it has none).

    `remark` is what every output must say of results that were computed with it; None where there is nothing to say.
    """

    name: str
    version: str
    path: str | None = None
    remark: str | None = None

    def __str__(self) -> str:
        path, remark = f" ({self.path})" if self.path else "", f"; {self.remark}" if self.remark else ""
        return f"{self.name} {self.version}{path}{remark}"


class Recording(Protocol):
    """Work of a backend, taken down to be done again on the same arrays."""

    def taking_down(self) -> AbstractContextManager[None]:
        """Adds what this thread has the backend do within the block."""
        ...

    def repeat(self) -> Any:
        """Does it all again; what that returned last which returned anything."""
        ...


@dataclass
class Clock:
    """Seconds counted so far."""

    seconds: float = 0.0


class Backend(Input, Elementwise, Normalization, Losses, Updates, ABC):
    """Runs what layers compute. A subclass must give `gemm` and may override any other method for speed.

    Arrays are passed by position, numbers by name. Arrays are contiguous and row-major, images NHWC, filters
    (R, S, C, K); only the rows of gemm's matrices may be apart. Every `out` is overwritten whatever it held. Methods
    keep no state and may be called from several threads with different arguments; temporary space is taken from the
    caller's `scratch`. Constructing a backend that cannot run here raises BackendUnavailable.
    """

    name: ClassVar[str]
    library: Library
    """What computes the products."""
    on_product: Callable[[ProductReport], None] | None = None
    """Hears of each product, while it is set, of a backend that has more than one place for them."""
    dtypes: ClassVar[tuple[npt.DTypeLike, ...]] = (np.float32, np.float64)
    powered: ClassVar[tuple[Part, ...]] = ("processor",)
    """The parts of the computer whose energy a run takes."""

    multiplies = True
    """False while products are left out."""

    @abstractmethod
    def gemm(
        self,
        a: Array,
        b: Array,
        *,
        out: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        """out (M, N) = op(a) (M, K) @ op(b) (K, N), or += with accumulate; op transposes where asked.

        Rows may be strided; out overlaps neither a nor b. Element by element the result is within
        (K + 2) * eps * (|op(a)| @ |op(b)|) of the exact product (plus eps * |out| when accumulating).
        Raises ShapeError where shapes, types or strides do not fit.
        """

    @contextmanager
    def without_products(self) -> Iterator[None]:
        """Makes every product leave `out` as it is, so that a profiler can tell products from what is around them."""

        def nothing(*arrays: Array, **options: object) -> None:
            pass

        vars(self)["gemm"] = nothing
        self.multiplies = False
        try:
            yield
        finally:
            self.multiplies = True
            del vars(self)["gemm"]

    @contextmanager
    def timed_kernels(self) -> Iterator[Clock | None]:
        """Times what runs in compiled kernels within the block; None for a backend whose work is not in such."""
        yield None

    def recording(self) -> Recording | None:
        """An empty recording; None for a backend whose work cannot be recorded."""
        return None

    def recordings_hold_for(self) -> Hashable:
        """What a recording depends on beside its arrays: where it has changed, another one is needed."""
        return None

    def algorithm_times(self) -> dict[str, dict[str, float]]:
        """Seconds of each algorithm for every convolution run by now that there is a choice for, by its shape."""
        return {}

    def option_candidates(self) -> dict[str, Sequence[Any]]:
        """The values of its options that `cnn tune` is to try here; those that others depend on come first."""
        return {}

    def im2col(self, x: Array, window: Window, out: Array, scratch: Buffers) -> None:
        """Copies every window of x (N, H, W, C) into a row of out (N*P*Q, R*S*C); padding reads as zero."""
        if any(window.padding):
            padded = scratch.get("padded", (x.shape[0], *padded_size(window), x.shape[3]), x.dtype)
            pad(x, window, padded)
            x = padded
        im2col(x, window, out)

    def col2im(self, columns: Array, window: Window, out: Array) -> None:
        """Adds every row of columns (N*P*Q, R*S*C) to the pixels it came from; out (N, H, W, C) is overwritten."""
        col2im(columns, window, out)

    def conv2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        convolution: Convolution,
        activation: str | None,
        out: Array,
        scratch: Buffers,
    ) -> None:
        """out (N, P, Q, K) = activation(x (N, H, W, C) correlated with w (R, S, C / groups, K) + bias (K,))."""
        if convolution.groups > 1:
            run = partial(self.conv2d, convolution=convolution.group, activation=activation, scratch=scratch)
            _by_group(run, convolution.groups, (x, w, bias), out, scratch)
            return
        filters = convolution.filters
        self.gemm(self._columns(x, convolution, scratch), w.reshape(-1, filters), out=out.reshape(-1, filters))
        self.bias_activation(out, bias, activation)

    def conv2d_weight_gradient(
        self, x: Array, dy: Array, convolution: Convolution, out: Array, scratch: Buffers
    ) -> None:
        """out (R, S, C / groups, K) = the gradient of w for dy (N, P, Q, K)."""
        if convolution.groups > 1:
            run = partial(self.conv2d_weight_gradient, convolution=convolution.group, scratch=scratch)
            _by_group(run, convolution.groups, (x, dy), out, scratch)
            return
        filters = convolution.filters
        columns = self._columns(x, convolution, scratch)
        self.gemm(columns, dy.reshape(-1, filters), transpose_a=True, out=out.reshape(-1, filters))

    def conv2d_data_gradient(self, dy: Array, w: Array, convolution: Convolution, out: Array, scratch: Buffers) -> None:
        """out (N, H, W, C) = the gradient of x for dy (N, P, Q, K)."""
        if convolution.groups > 1:
            run = partial(self.conv2d_data_gradient, convolution=convolution.group, scratch=scratch)
            _by_group(run, convolution.groups, (dy, w), out, scratch)
            return
        filters = convolution.filters
        slopes, weights = dy.reshape(-1, filters), w.reshape(-1, filters)
        if convolution.copyless:
            self.gemm(slopes, weights, transpose_b=True, out=out.reshape(len(slopes), -1))
            return
        columns = scratch.get("columns", (len(slopes), len(weights)), dy.dtype)
        self.gemm(slopes, weights, transpose_b=True, out=columns)
        self.col2im(columns, convolution.window, out)

    def _columns(self, x: Array, convolution: Convolution, scratch: Buffers) -> Array:
        """The column matrix of x, (N*P*Q, R*S*C); x itself where that is one."""
        if convolution.copyless:
            return x.reshape(-1, convolution.depth)
        rows, columns = convolution.out
        matrix = scratch.get("columns", (len(x) * rows * columns, convolution.depth), x.dtype)
        self.im2col(x, convolution.window, matrix, scratch)
        return matrix


def _by_group(
    run: Callable[..., None], groups: int, inputs: Sequence[Array | None], out: Array, scratch: Buffers
) -> None:
    """Has `run` compute each group of a convolution from its part of each input, and puts the results into out.

    All are cut along their last axis. The parts are copied, as operations take contiguous arrays.
    """
    for group, target in enumerate(np.split(out, groups, axis=-1)):
        parts: list[Array | None] = []
        for number, whole in enumerate(inputs):
            part = None
            if whole is not None:
                source = np.split(whole, groups, axis=-1)[group]
                part = scratch.get(f"group {number}", source.shape, source.dtype)
                np.copyto(part, source)
            parts.append(part)
        result = scratch.get("group out", target.shape, target.dtype)
        run(*parts, out=result)
        np.copyto(target, result)


def gemm_sizes(a: Array, b: Array, out: Array, *, transpose_a: bool, transpose_b: bool) -> tuple[int, int, int]:
    """(M, N, K) of a product; raises ShapeError unless all three are matrices that fit, of one type, in rows."""
    for name, x in (("a", a), ("b", b), ("out", out)):
        if x.ndim != 2:
            raise ShapeError(f"gemm takes matrices; {name} has shape {x.shape}.")
        step, remainder = divmod(x.strides[0], x.itemsize)
        if (x.shape[1] > 1 and x.strides[1] != x.itemsize) or (x.shape[0] > 1 and (step < x.shape[1] or remainder)):
            raise ShapeError(f"gemm takes row-major matrices; {name} {x.shape} has strides {x.strides} bytes.")
    m, k = a.shape[::-1] if transpose_a else a.shape
    depth, n = b.shape[::-1] if transpose_b else b.shape
    if k != depth or out.shape != (m, n):
        raise ShapeError(f"gemm: ({m}, {k}) times ({depth}, {n}) does not give {out.shape}.")
    if not a.dtype == b.dtype == out.dtype:
        raise ShapeError(f"gemm takes one type; got {a.dtype}, {b.dtype} and {out.dtype}.")
    return m, n, k
