"""Convolutions by whichever algorithm is the fastest for their shape: tiles of im2col + GEMM, direct, or Winograd."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from cnn.arrays import Array, Buffers, Shape
from cnn.backend import Backend
from cnn.compiled import direct, im2col
from cnn.compiled.algorithms import Chooser
from cnn.compiled.calls import nothing
from cnn.compiled.microkernel import address as microkernel
from cnn.compiled.parts import flat, parts_for, parts_for_flops, thread_count
from cnn.compiled.winograd import (
    UNLIMITED,
    tiles,
    winograd_data_gradient,
    winograd_forward,
    winograd_weight_gradient,
)
from cnn.config import require
from cnn.lowering import Window
from cnn.threads import in_words

FEW_CHANNELS = 8
"""Below that, direct convolution is taken where nothing may be measured: im2col would copy too short runs."""

TILE_BYTES = 1 << 19
"""A quarter or half of the second-level cache of current cores."""

TileBytes = Annotated[int, "bytes of the im2col columns that a thread makes and multiplies at a time"]
"""The option of a backend whose constructor hands it on."""

Run = Callable[[], None]


class Problem(NamedTuple):
    """What the fastest algorithm depends on: direction, window, shape of the images, filters, threads."""

    direction: str
    window: Window
    images: Shape
    filters: int
    threads: int

    def __str__(self) -> str:
        """In words, the same in every process."""
        size, kernel = "x".join(map(str, self.images)), "x".join(map(str, self.window.kernel))
        return (
            f"{self.direction}, {self.filters} filters {kernel} on {size}, padding {self.window.padding}, "
            f"stride {self.window.stride}, {in_words(self.threads)}"
        )


class CompiledConvolution(Backend):
    """conv2d and its gradients on contiguous float32 arrays; all else goes to the base class.

    `sgemm` is the address of a single-threaded cblas_sgemm, which the kernels call from threads of their own.
    """

    largest_product: ClassVar[int] = UNLIMITED
    """Multiply-adds that one call of many small products is cut to, where a library is faster on small ones."""

    def __init__(self, sgemm: int, tile_bytes: int = TILE_BYTES) -> None:
        require(tile_bytes > 0, f"tile_bytes is {tile_bytes}; give at least 1.")
        self._sgemm = np.uintp(sgemm)
        self.multiplies = True
        self._tile_bytes = tile_bytes
        # How long im2col takes depends on the tile.
        self._chooser = Chooser(self.name if tile_bytes == TILE_BYTES else f"{self.name} tile_bytes={tile_bytes}")
        self._chosen: dict[Problem, str] = {}

    def algorithm_times(self) -> dict[str, dict[str, float]]:
        """Seconds of each algorithm for every convolution run by now that there is a choice for, by its shape."""
        times = self._chooser.times()
        return {text: times[text] for text in map(str, self._chosen) if text in times}

    def leave_out_products(self) -> None:
        """From now on kernels do all but their products; only for a private copy, as its results say nothing."""
        self._sgemm, self.multiplies = np.uintp(nothing().address), False

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
        vectors = _vectors(window, x, w, out)
        if vectors is None:
            super().conv2d(x, w, bias, window, activation, out, scratch)
            return
        images, kernels, result = vectors
        channels, filters = w.shape[2:]
        relu = activation == "relu"

        def tiled() -> None:
            geometry, rows, height, columns = self._tiles(window, channels, filters, len(x), scratch)
            added = np.zeros(filters if relu else 0, np.float32) if bias is None else bias
            im2col.forward(self._sgemm, images, kernels, added, relu, result, geometry, rows, height, columns)

        def unlowered() -> None:
            self._direct(images, kernels, bias, relu, result, window, (len(x), channels, filters), scratch)

        def winograd(tile: int) -> None:
            winograd_forward(
                *(self._sgemm, x, w, bias, window, relu, out),
                *(tile, thread_count(), scratch, self.largest_product),
            )

        problem = Problem("forward", window, x.shape, filters, thread_count())
        self._fastest(problem, {"im2col": tiled, "direct": unlowered}, winograd)
        if activation is not None and not relu:
            self.activation(activation, out, out)

    def conv2d_weight_gradient(self, x: Array, dy: Array, window: Window, out: Array, scratch: Buffers) -> None:
        vectors = _vectors(window, x, dy, out)
        if vectors is None:
            super().conv2d_weight_gradient(x, dy, window, out, scratch)
            return
        images, slopes, result = vectors
        channels, filters = out.shape[2:]

        def tiled() -> None:
            geometry, rows, height, columns = self._tiles(window, channels, filters, len(x), scratch)
            sums = scratch.get("sums", (len(columns), out.size), np.float32)
            im2col.weight_gradient(self._sgemm, images, slopes, geometry, rows, height, columns, sums, result)

        def unlowered() -> None:
            geometry, planes = _planes(window, channels, filters, len(x), len(x), scratch)
            sums = scratch.get("sums", (len(planes), out.size), np.float32)
            if self.multiplies:
                direct.weight_gradient(microkernel(), images, slopes, geometry, len(x), planes, sums, result)

        def winograd(tile: int) -> None:
            winograd_weight_gradient(
                *(self._sgemm, x, dy, window, out),
                *(tile, thread_count(), scratch, self.largest_product),
            )

        problem = Problem("weight gradient", window, x.shape, filters, thread_count())
        self._fastest(problem, {"im2col": tiled, "direct": unlowered}, winograd)

    def conv2d_data_gradient(self, dy: Array, w: Array, window: Window, out: Array, scratch: Buffers) -> None:
        vectors = _vectors(window, dy, w, out)
        if vectors is None:
            super().conv2d_data_gradient(dy, w, window, out, scratch)
            return
        slopes, kernels, result = vectors
        channels, filters = w.shape[2:]
        turned = direct.turned(window)

        def tiled() -> None:
            geometry, _, height, columns = self._tiles(window, channels, filters, len(dy), scratch)
            im2col.data_gradient(self._sgemm, slopes, kernels, geometry, len(dy), height, columns, result)

        def unlowered(turned: Window) -> None:
            turned_kernels = _exchanged(w, True, scratch).reshape(-1)
            self._direct(slopes, turned_kernels, None, False, result, turned, (len(dy), filters, channels), scratch)

        def winograd(tile: int) -> None:
            winograd_data_gradient(
                *(self._sgemm, dy, _exchanged(w, False, scratch), window, out),
                *(tile, thread_count(), scratch, self.largest_product),
            )

        candidates = {"im2col": tiled} | ({} if turned is None else {"direct": partial(unlowered, turned)})
        problem = Problem("data gradient", window, out.shape, filters, thread_count())
        self._fastest(problem, candidates, winograd)

    def _direct(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        relu: bool,
        out: Array,
        window: Window,
        sizes: tuple[int, int, int],
        scratch: Buffers,
    ) -> None:
        """The convolution of vectors without lowering; `sizes` are the images and the channels of x and of out."""
        images, channels, filters = sizes
        count = direct.units(window, images, filters)
        geometry, planes = _planes(window, channels, filters, images, count, scratch)
        added = np.zeros(filters, np.float32) if bias is None else bias
        if self.multiplies:
            direct.forward(microkernel(), x, w, added, relu, out, geometry, count, planes)

    def _tiles(
        self, window: Window, channels: int, filters: int, images: int, scratch: Buffers
    ) -> tuple[im2col.Geometry, int, int, Array]:
        """Geometry, rows of outputs in all and in a tile, and a buffer for the columns of one tile for each thread."""
        row = window.out[1] * window.taps * channels
        rows = images * window.out[0]
        parts = parts_for_flops(2 * rows * row * filters, rows)
        height = max(1, min(-(-rows // parts), self._tile_bytes // (4 * row)))
        columns = scratch.get("tiles", (parts, height * row), np.float32)
        return im2col.geometry(window, channels, filters), rows, height, columns

    def _fastest(self, problem: Problem, candidates: dict[str, Run], winograd: Callable[[int], None]) -> None:
        """Runs the fastest of the candidates and of Winograd's tiles that fit."""
        for tile in tiles(problem.window, problem.images[3], problem.filters):
            candidates[f"winograd{tile}"] = partial(winograd, tile)
        chosen = self._chosen.get(problem)
        if chosen is None:
            default = "direct" if problem.images[3] < FEW_CHANNELS and "direct" in candidates else "im2col"
            if not self.multiplies:  # No time without products says anything of one with them.
                candidates[default]()
                return
            chosen = self._chosen[problem] = self._chooser.choose(str(problem), candidates, default)
        candidates[chosen]()


def _vectors(window: Window, *arrays: Array) -> list[Array] | None:
    """The arrays as vectors, or None where the kernels cannot take them or a product alone is the convolution."""
    return None if window.copyless or not len(arrays[0]) else flat(*arrays)


def _exchanged(w: Array, turned: bool, scratch: Buffers) -> Array:
    """(R, S, K, C) from w (R, S, C, K), turned by 180 degrees if asked."""
    rows, columns, channels, filters = w.shape
    out = scratch.get("exchanged", (rows, columns, filters, channels), np.float32)
    taps = rows * columns
    parts = min(parts_for(w.size), taps)
    im2col.exchange(w.reshape(-1), taps, channels, filters, turned, out.reshape(-1), parts)
    return out


def _planes(
    window: Window, channels: int, filters: int, images: int, most: int, scratch: Buffers
) -> tuple[im2col.Geometry, Array]:
    """Geometry, and a buffer for an image with its padding for each of at most `most` threads."""
    flops = 2 * images * prod(window.out) * window.taps * channels * filters
    size = direct.plane_size(window, channels)
    planes = scratch.get("planes", (parts_for_flops(flops, most), size), np.float32)
    return im2col.geometry(window, channels, filters), planes
