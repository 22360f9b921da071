"""A backend for any shared library that exports the CBLAS interface: compiled lowering around its sgemm."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

import cnn.threads as threads
from cnn.arrays import Array, Buffers
from cnn.backend import Backend, gemm_sizes
from cnn.compiled import convolution
from cnn.compiled.algorithms import DEFAULT, Chooser
from cnn.compiled.calls import NO, ROW_MAJOR, YES, nothing
from cnn.compiled.kernels import prepare
from cnn.compiled.ops import CompiledOps
from cnn.compiled.parts import flat, thread_count
from cnn.compiled.winograd import (
    UNLIMITED,
    tiles,
    winograd_data_gradient,
    winograd_forward,
    winograd_weight_gradient,
)
from cnn.errors import BackendUnavailable, ShapeError
from cnn.lowering import Window

TILE_BYTES = 1 << 19
"""Columns of one tile: a quarter or half of the second-level cache of current cores."""

PART_FLOPS = 4_000_000
"""The least work worth a thread: about what its wake-up costs."""


class Shape(NamedTuple):
    """What the fastest algorithm depends on."""

    direction: str
    window: Window
    images: tuple[int, ...]
    filters: int
    threads: int


class CblasBackend(CompiledOps, Backend):
    """Runs float32 on compiled kernels that call one library's sgemm from each thread; a subclass names the library.

    The threads are the kernels', so the library itself is held at one. float64 is computed as every backend does it,
    with the library's dgemm.
    """

    largest_product: ClassVar[int] = UNLIMITED
    """Multiply-adds that one call of many small products is cut to, where a library is faster on small ones."""

    def __init__(self, path: str, *, symbol: str = "cblas_{}gemm", integer: type[Any] = ctypes.c_int) -> None:
        """Loads the library at `path`, or by a name the system's loader finds.

        `symbol` names its products, with s or d in the braces; `integer` is its index type (c_int64 for ILP64).
        Raises BackendUnavailable if the library cannot be loaded or lacks a symbol.
        """
        try:
            library = ctypes.CDLL(path)
            single, double = (getattr(library, symbol.format(letter)) for letter in "sd")
        except OSError as error:
            raise BackendUnavailable(
                f"Backend {self.name!r} cannot load {path} ({error}); install it or choose another backend."
            ) from error
        except AttributeError as error:
            raise BackendUnavailable(
                f"Backend {self.name!r} cannot use {path} ({error}); choose a library with the CBLAS interface."
            ) from error
        matrix = [ctypes.c_void_p, integer]
        double.argtypes = (
            [ctypes.c_int] * 3 + [integer] * 3 + [ctypes.c_double, *matrix, *matrix, ctypes.c_double, *matrix]
        )
        double.restype = None
        self._dgemm = double
        self._sgemm = np.uintp(ctypes.cast(single, ctypes.c_void_p).value or 0)
        self._chooser = Chooser(self.name)
        self._chosen: dict[Shape, str] = {}
        threads.hold_at_one(path)
        prepare()

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
        m, n, k = gemm_sizes(a, b, out, transpose_a, transpose_b)
        sizes = (YES if transpose_a else NO, YES if transpose_b else NO, m, n, k)
        left, right, result = ((x.ctypes.data, leading_dimension(x)) for x in (a, b, out))
        beta = 1.0 if accumulate else 0.0
        if out.dtype == np.float32:
            parts = _parts(2 * m * n * k, max(m, n))
            convolution.product(self._sgemm, *sizes, *left, *right, beta, *result, parts)
        elif out.dtype == np.float64:
            self._dgemm(ROW_MAJOR, *sizes, 1.0, *left, *right, beta, *result)
        else:
            raise ShapeError(f"Backend {self.name!r} multiplies float32 and float64, not {out.dtype}.")

    @contextmanager
    def without_products(self) -> Iterator[None]:
        address, self._sgemm = self._sgemm, np.uintp(nothing().address)
        try:
            with super().without_products():
                yield
        finally:
            self._sgemm = address

    def algorithm_times(self) -> dict[str, dict[str, float]]:
        times = self._chooser.times()
        return {text: times[text] for text in map(_shape_text, self._chosen) if text in times}

    def conv2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        window: Window,
        activation: str | None,
        out: Array,
        scratch: Buffers,
    ) -> None:
        vectors = flat(x, w, out) if len(x) and not window.pointwise else None
        if vectors is None:
            super().conv2d(x, w, bias, window, activation, out, scratch)
            return
        relu = activation == "relu"

        def tiled() -> None:
            geometry, rows, height, columns = _tiles(window, w.shape, len(x), scratch)
            added = np.zeros(w.shape[3] if relu else 0, np.float32) if bias is None else bias
            images, weights, results = vectors
            convolution.forward(self._sgemm, images, weights, added, relu, results, geometry, rows, height, columns)

        def winograd(tile: int) -> None:
            winograd_forward(
                self._sgemm, x, w, bias, window, relu, out, tile, thread_count(), scratch, self.largest_product
            )

        self._fastest("forward", window, x.shape, w.shape[3], tiled, winograd)
        if activation is not None and not relu:
            self.activation(activation, out, out)

    def conv2d_weight_gradient(self, x: Array, dy: Array, window: Window, out: Array, scratch: Buffers) -> None:
        vectors = flat(x, dy, out) if len(x) and not window.pointwise else None
        if vectors is None:
            super().conv2d_weight_gradient(x, dy, window, out, scratch)
            return

        def tiled() -> None:
            geometry, rows, height, columns = _tiles(window, out.shape, len(x), scratch)
            sums = scratch.get("sums", (len(columns), out.size), np.float32)
            images, slopes, result = vectors
            convolution.weight_gradient(self._sgemm, images, slopes, geometry, rows, height, columns, sums, result)

        def winograd(tile: int) -> None:
            winograd_weight_gradient(
                self._sgemm, x, dy, window, out, tile, thread_count(), scratch, self.largest_product
            )

        self._fastest("weight gradient", window, x.shape, dy.shape[3], tiled, winograd)

    def conv2d_data_gradient(self, dy: Array, w: Array, window: Window, out: Array, scratch: Buffers) -> None:
        vectors = flat(dy, w, out) if len(dy) and not window.pointwise else None
        if vectors is None:
            super().conv2d_data_gradient(dy, w, window, out, scratch)
            return

        def tiled() -> None:
            geometry, _, height, columns = _tiles(window, w.shape, len(dy), scratch)
            convolution.data_gradient(self._sgemm, *vectors[:2], geometry, len(dy), height, columns, vectors[2])

        def winograd(tile: int) -> None:
            winograd_data_gradient(self._sgemm, dy, w, window, out, tile, thread_count(), scratch, self.largest_product)

        self._fastest("data gradient", window, out.shape, w.shape[3], tiled, winograd)

    def _fastest(
        self,
        direction: str,
        window: Window,
        images: tuple[int, ...],
        filters: int,
        tiled: Callable[[], None],
        winograd: Callable[[int], None],
    ) -> None:
        """Runs the algorithm that is the fastest for this shape and number of threads."""
        key = Shape(direction, window, images, filters, thread_count())
        chosen = self._chosen.get(key)
        if chosen is None:
            candidates = {DEFAULT: tiled}
            candidates |= {f"winograd{tile}": partial(winograd, tile) for tile in tiles(window, images[3], filters)}
            chosen = self._chosen[key] = self._chooser.choose(_shape_text(key), candidates)
        if chosen == DEFAULT:
            tiled()
        else:
            winograd(4 if chosen == "winograd4" else 2)


def _tiles(
    window: Window, weights: tuple[int, ...], images: int, scratch: Buffers
) -> tuple[convolution.Geometry, int, int, Array]:
    """Geometry, rows of outputs in all and in a tile, and a buffer for the columns of one tile for each thread."""
    channels, filters = weights[2:]
    row = window.out[1] * window.taps * channels
    rows = images * window.out[0]
    parts = _parts(2 * rows * row * filters, rows)
    height = max(1, min(-(-rows // parts), TILE_BYTES // (4 * row)))
    columns = scratch.get("tiles", (parts, height * row + convolution.SLACK), np.float32)
    return convolution.geometry(window, channels, filters), rows, height, columns


def _parts(flops: int, most: int) -> int:
    """Threads to divide the work among."""
    return max(1, min(thread_count(), flops // PART_FLOPS, most))


def leading_dimension(x: Array) -> int:
    """Elements from one row of x to the next; BLAS wants at least one row's worth, whatever NumPy says of one row."""
    rows, columns = x.shape
    return max(1, int(columns), int(x.strides[0]) // x.itemsize if rows > 1 else 0)


def _shape_text(shape: Shape) -> str:
    """A convolution in words, the same in every process."""
    direction, window, images, filters, threads = shape
    size, kernel = "x".join(map(str, images)), "x".join(map(str, window.kernel))
    count = f"{threads} thread{'s' * (threads > 1)}"
    return (
        f"{direction}, {filters} filters {kernel} on {size}, padding {window.padding}, stride {window.stride}, {count}"
    )
