"""The backend interface: one abstract method, `gemm`, and all other operations of layers, with defaults."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers
from cnn.convolution import Convolution, Window, col2im, im2col, pad, padded_size
from cnn.errors import ShapeError, UsageError
from cnn.instruments import Instruments, private
from cnn.ops.elementwise import Elementwise
from cnn.ops.input import Input
from cnn.ops.losses import Losses
from cnn.ops.memory import Memory
from cnn.ops.normalization import Normalization
from cnn.ops.pooling import Pooling
from cnn.ops.updates import Updates
from cnn.precision import BFLOAT16, PRECISIONS
from cnn.system.machine import Part
from cnn.words import unknown


@dataclass(frozen=True)
class Library:
    """The BLAS a backend calls: its name, version and file (None if it has no file).

    `remark` is what every output must say about results computed with it, or None.
    """

    name: str
    version: str
    path: str | None = None
    remark: str | None = None

    def __str__(self) -> str:
        path, remark = f" ({self.path})" if self.path else "", f"; {self.remark}" if self.remark else ""
        return f"{self.name} {self.version}{path}{remark}"


class Backend(Memory, Input, Elementwise, Normalization, Pooling, Losses, Updates, ABC):
    """Computes the operations of layers: they are its methods, and those of its bases.

    A subclass must give `name`, `library` and `gemm`. It may override any other operation for speed, and return its own
    `instruments` if it has candidates for the options of its constructor, or more to report.

    Arrays are passed by position, numbers by name. Arrays are contiguous and row-major, images NHWC, filters
    (R, S, C, K); only gemm's matrices may have gaps between their rows. Every `out` is overwritten whatever it held.
    Methods keep no state and may be called from several threads with different arguments; temporary space is taken
    from the caller's `scratch`. Constructing a backend that cannot run here raises BackendUnavailable. A copy of a
    backend is the backend itself; pickled, it is its name and options.
    """

    name: ClassVar[str]
    """The name of its entry point."""
    library: Library
    """The library that computes the products."""
    dtypes: ClassVar[tuple[npt.DTypeLike, ...]] = (np.float32, np.float64)
    powered: ClassVar[tuple[Part, ...]] = ("processor",)
    """The parts of the computer whose energy a run uses."""
    rounds: bool = False
    """Whether the float32 operands of products are rounded to bfloat16; see `in_precision`."""
    remade: Callable[[], "Backend"] | None = None
    """Makes the equal of this backend in another process; the registry sets it."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.remade is None:
            raise UsageError(
                f"Backend {self.name!r} was not made by its name, so that no other process can make it again; "
                "register it as an entry point and name it."
            )
        return (_remade_to_round, (self.remade,)) if self.rounds else (self.remade, ())

    def in_precision(self, precision: str) -> Self:
        """This backend with products in one of `cnn.precision.PRECISIONS`. Raises UsageError for anything else.

        It shares the library and all else that the backend holds.
        """
        if precision not in PRECISIONS:
            raise unknown("There is no precision", precision, PRECISIONS)
        rounds = precision == BFLOAT16
        if rounds == self.rounds:
            return self
        twin = private(self)
        twin.rounds = rounds
        return twin

    @property
    def bfloat16_by(self) -> str:
        """How it computes products in bfloat16, in the words of a header."""
        return "bfloat16: rounded, multiplied in float32, no faster here"

    @property
    def stores_bfloat16(self) -> bool:
        """Whether operations take activations and their gradients as arrays of `cnn.precision.SHORT`, too.

        All of one call that are images, vectors or gradients of either have the same type, except for convolutions
        and products: each of their arrays is float32 or SHORT. Weights, sums and statistics are float32.
        """
        return False

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
        """out (M, N) = op(a) (M, K) @ op(b) (K, N), or += with accumulate; op transposes if requested.

        Rows may be strided; out must overlap neither a nor b. Element by element the result is within
        (K + 2) * eps * (|op(a)| @ |op(b)|) of the exact product (plus eps * |out| when accumulating).
        Raises ShapeError if shapes, types or strides do not fit.
        """

    def product(
        self,
        a: Array,
        b: Array,
        *,
        out: Array,
        scratch: Buffers,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        """As `gemm`, of contiguous matrices in the backend's precision: if it `rounds`, of their rounded elements."""
        a, b = self._operands(a, b, scratch)
        self.gemm(a, b, out=out, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate)

    def _operands(self, x: Array, y: Array, scratch: Buffers) -> tuple[Array, Array]:
        """The operands of a product as they are multiplied: rounded copies if the backend `rounds` float32."""
        if not self.rounds or x.dtype != np.float32:
            return x, y
        rounded = scratch.get("rounded x", x.shape, x.dtype), scratch.get("rounded y", y.shape, y.dtype)
        for operand, copy in zip((x, y), rounded, strict=True):
            self.round_bfloat16(operand, copy)
        return rounded

    @property
    def instruments(self) -> Instruments:
        """What tools such as the profiler, recorded passes and `cnn tune` use besides the operations."""
        return Instruments(self)

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
        x, w = self._operands(x, w, scratch)
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
        x, dy = self._operands(x, dy, scratch)
        columns = self._columns(x, convolution, scratch)
        self.gemm(columns, dy.reshape(-1, filters), transpose_a=True, out=out.reshape(-1, filters))

    def conv2d_data_gradient(self, dy: Array, w: Array, convolution: Convolution, out: Array, scratch: Buffers) -> None:
        """out (N, H, W, C) = the gradient of x for dy (N, P, Q, K)."""
        if convolution.groups > 1:
            run = partial(self.conv2d_data_gradient, convolution=convolution.group, scratch=scratch)
            _by_group(run, convolution.groups, (dy, w), out, scratch)
            return
        filters = convolution.filters
        dy, w = self._operands(dy, w, scratch)
        gradients, weights = dy.reshape(-1, filters), w.reshape(-1, filters)
        if convolution.copyless:
            self.gemm(gradients, weights, transpose_b=True, out=out.reshape(len(gradients), -1))
            return
        columns = scratch.get("columns", (len(gradients), len(weights)), dy.dtype)
        self.gemm(gradients, weights, transpose_b=True, out=columns)
        self.col2im(columns, convolution.window, out)

    def _columns(self, x: Array, convolution: Convolution, scratch: Buffers) -> Array:
        """The column matrix of x, (N*P*Q, R*S*C); a view of x if no copy is needed."""
        if convolution.copyless:
            return x.reshape(-1, convolution.depth)
        rows, columns = convolution.out
        matrix = scratch.get("columns", (len(x) * rows * columns, convolution.depth), x.dtype)
        self.im2col(x, convolution.window, matrix, scratch)
        return matrix


def _remade_to_round(remade: Callable[[], Backend]) -> Backend:
    return remade().in_precision(BFLOAT16)


def _by_group(
    run: Callable[..., None], groups: int, inputs: Sequence[Array | None], out: Array, scratch: Buffers
) -> None:
    """Calls `run` for each group of a convolution on its part of each input, and puts the results into out.

    All arrays are cut along their last axis. The parts are copied, because operations take contiguous arrays.
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


class Downloadable(ABC):
    """A second base class for a backend whose library `cnn backends get` can fetch."""

    fetches: ClassVar[str]
    """What `download` fetches, from where, and its size."""

    @classmethod
    @abstractmethod
    def download(cls, root: Path | None = None) -> str:
        """Fetches the library into the folder `root`, or to where the backend finds it by itself.

        Returns a sentence that says what was put where. Raises CnnError if the library cannot be fetched.
        """


def gemm_sizes(
    a: Array, b: Array, out: Array, *, transpose_a: bool, transpose_b: bool, mixed: bool = False
) -> tuple[int, int, int]:
    """(M, N, K) of a product; raises ShapeError unless all are row-major matrices that fit together.

    They must have one type, too, unless `mixed`.
    """
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
    if not (mixed or a.dtype == b.dtype == out.dtype):
        raise ShapeError(f"gemm takes matrices of one type, not {a.dtype}, {b.dtype} and {out.dtype}.")
    return m, n, k
