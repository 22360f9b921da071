"""Convolutions by the fastest algorithm for their shape: tiles of im2col + GEMM, one GEMM, direct, or Winograd.

In bfloat16 there are direct algorithms that round as they read, see `bfloat16.py`. Arrays that are stored in bfloat16
are widened, and results shortened, by whatever does not read and write them itself.

Depthwise convolutions have kernels of their own.
"""

import re
from collections.abc import Callable, Container, Mapping
from functools import partial
from math import prod
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.compiled import bfloat16, depthwise, direct, im2col, rounding, sliding
from cnn.compiled.algorithms import Chooser
from cnn.compiled.calls import nothing
from cnn.compiled.elementproduct import address as elementproduct
from cnn.compiled.geometry import Geometry, of_convolution
from cnn.compiled.microkernel import address as microkernel
from cnn.compiled.parts import parts_for, parts_for_flops, thread_count
from cnn.compiled.rounding import flat
from cnn.compiled.winograd import (
    UNLIMITED,
    tiles,
    winograd_data_gradient,
    winograd_forward,
    winograd_weight_gradient,
)
from cnn.config import require
from cnn.convolution import Convolution
from cnn.instruments import AlgorithmChoice
from cnn.precision import SHORT
from cnn.system.threads import in_words

FEW_CHANNELS = 8
"""With fewer channels, direct convolution is the default where nothing is measured: im2col copies too short runs."""

TILE_BYTES = 1 << 19
"""A quarter or half of the second-level cache of current cores."""

TileBytes = Annotated[int, "bytes of the im2col columns that a thread builds and multiplies at a time"]
"""An option of backends, whose constructors pass it on."""

Run = Callable[[], None]


class Problem(NamedTuple):
    """What the fastest algorithm depends on: direction, convolution, number of images, number of threads."""

    direction: str
    convolution: Convolution
    images: int
    threads: int

    def __str__(self) -> str:
        """In words, the same in every process: the key of the times on disk."""
        return self._text(str(self.images))

    @property
    def alike(self) -> re.Pattern[str]:
        """Matches the same problem with any number of images, its group 1."""
        return re.compile(re.escape(self._text("@")).replace("@", "([0-9]+)"))

    def _text(self, images: str) -> str:
        convolution, window = self.convolution, self.convolution.window
        size = "x".join(map(str, (images, *convolution.input_shape)))
        kernel = "x".join(map(str, window.kernel))
        dilation = f"dilation {window.dilation}, " if window.dilated else ""
        groups = f"{convolution.groups} groups, " if convolution.groups > 1 else ""
        return (
            f"{self.direction}, {convolution.filters} filters {kernel} on {size}, padding {window.padding}, "
            f"stride {window.stride}, {dilation}{groups}{in_words(self.threads)}"
        )


class CompiledConvolution(Backend):
    """conv2d and its gradients on contiguous arrays of float32 or SHORT; all else in the base class.

    `sgemm` is the address of a single-threaded cblas_sgemm, which the kernels call from their own threads.
    """

    largest_product: ClassVar[int] = UNLIMITED
    """Multiply-accumulates that one sgemm call of a Winograd convolution may have; some libraries are faster on few."""

    def __init__(self, sgemm: int, tile_bytes: int = TILE_BYTES) -> None:
        require(tile_bytes > 0, f"tile_bytes is {tile_bytes}; give at least 1.")
        self._sgemm = np.uintp(sgemm)
        self.multiplies = True
        self._tile_bytes = tile_bytes
        # The time of im2col depends on the tile.
        self._chooser = Chooser(self.name if tile_bytes == TILE_BYTES else f"{self.name} tile_bytes={tile_bytes}")
        self._chosen: dict[Problem, str] = {}

    def algorithms(self) -> dict[str, AlgorithmChoice]:
        """The algorithm of every convolution run so far, by shape."""
        return {
            str(each): AlgorithmChoice(name, *self._chooser.measured(str(each))) for each, name in self._chosen.items()
        }

    @property
    def measures_algorithms(self) -> bool:
        """Whether algorithms are chosen by their times, not by the environment."""
        return self._chooser.measures

    def leave_out_products(self) -> None:
        """From now on kernels skip their products; only for a private copy, as its results are meaningless."""
        self._sgemm, self.multiplies = np.uintp(nothing().address), False

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
        # An image that is one window is a row of a single product, which is divided among threads by filters.
        single = convolution.copyless and convolution.window.kernel != (1, 1)
        if out.dtype == SHORT and (single or convolution.depthwise or activation not in (None, "relu")):
            results = rounding.float32_for(out, scratch)  # which are rounded once, after all has been added
            self.conv2d(x, w, bias, convolution, activation, results, scratch)
            rounding.store(results, out)
            return
        vectors = None if single or not len(x) else flat(x, w, out)
        if vectors is None:
            if single and self._pairs(x, w, out):
                factors = x.reshape(len(x), -1), w.reshape(-1, convolution.filters)
                self.product(*factors, out=out.reshape(len(x), -1), scratch=scratch)
                self.bias_activation(out, bias, activation)
            else:
                x, results = rounding.in_float32(x, "wide x", scratch), rounding.float32_for(out, scratch)
                super().conv2d(x, w, bias, convolution, activation, results, scratch)
                rounding.store(results, out)
            return
        given, relu, target = (x, w), activation == "relu", out
        kept = " with weights laid out before" if scratch.keeps(w) else ""
        problem = self._problem(f"forward{kept}", convolution, len(x), x=x, out=out)
        x, w, rounded = self._rounded_later(x, w, scratch)
        out, stored = _stored_later(out, scratch)
        images, kernels, result = x.reshape(-1), w.reshape(-1), out.reshape(-1)
        if convolution.depthwise:
            rounded()
            self._depthwise(x, kernels, bias, out, convolution, scratch, relu=relu)
            if activation is not None and not relu:
                self.activation(activation, out, out)
            return

        def tiled() -> None:
            geometry, rows, height, columns = self._tiles(convolution, len(x), scratch)
            added = np.zeros(convolution.filters if relu else 0, np.float32) if bias is None else bias
            im2col.forward(self._sgemm, images, kernels, added, relu, result, geometry, rows, height, columns)

        def unlowered() -> None:
            self._direct(images, kernels, bias, result, convolution, scratch, images=len(x), relu=relu)

        def winograd(tile: int) -> None:
            winograd_forward(
                *(self._sgemm, x, w, bias, convolution, out, scratch),
                relu=relu,
                tile=tile,
                threads=thread_count(),
                largest=self.largest_product,
            )

        def product() -> None:
            filters = convolution.filters
            self.gemm(x.reshape(-1, convolution.depth), w.reshape(-1, filters), out=out.reshape(-1, filters))
            self.bias_activation(out, bias, activation if relu else None)

        candidates = {"im2col": tiled}
        if convolution.copyless:
            # In tiles, bias and ReLU find the results in the cache; one product may be divided by filters instead.
            candidates["product"] = product
        elif convolution.plain:
            candidates["direct"] = unlowered

        def itself(forward: Callable[..., None]) -> None:
            forward(*given, bias, convolution, target, scratch, relu=relu, multiplies=self.multiplies)

        unrounded = {name: partial(itself, each.forward) for name, each in self._unrounded(convolution).items()}
        self._fastest(problem, candidates, winograd, (rounded, stored), unrounded, partial(scratch.forget, given[1]))
        if activation is not None and not relu:
            self.activation(activation, out, out)

    def conv2d_weight_gradient(
        self, x: Array, dy: Array, convolution: Convolution, out: Array, scratch: Buffers
    ) -> None:
        vectors = _vectors(convolution, x, dy, out)
        if vectors is None:
            if convolution.copyless and self._pairs(x, dy, out):
                if convolution.window.kernel == (1, 1):
                    run = bfloat16.of_pixels().weight_gradient
                    run(x, dy, convolution, out, scratch, multiplies=self.multiplies)
                else:
                    factors, target = (x.reshape(len(x), -1), dy.reshape(len(x), -1)), out.reshape(-1, out.shape[-1])
                    self.product(*factors, transpose_a=True, out=target, scratch=scratch)
            else:
                x, dy = rounding.in_float32(x, "wide x", scratch), rounding.in_float32(dy, "wide dy", scratch)
                super().conv2d_weight_gradient(x, dy, convolution, out, scratch)
            return
        given, result = (x, dy), vectors[2]
        problem = self._problem("weight gradient", convolution, len(x), x=x, dy=dy)
        x, dy, rounded = self._rounded_later(x, dy, scratch)
        images, gradients = x.reshape(-1), dy.reshape(-1)
        if convolution.depthwise:
            rounded()
            self._depthwise_weight_gradient(x, dy, convolution, out, scratch)
            return

        def tiled() -> None:
            geometry, rows, height, columns = self._tiles(convolution, len(x), scratch)
            sums = scratch.get("sums", (len(columns), out.size), np.float32)
            im2col.weight_gradient(self._sgemm, images, gradients, geometry, rows, height, columns, sums, result)

        def unlowered() -> None:
            geometry, planes = _planes(convolution, scratch, images=len(x), most=len(x))
            sums = scratch.get("sums", (len(planes), out.size), np.float32)
            if self.multiplies:
                direct.weight_gradient(microkernel(), images, gradients, geometry, len(x), planes, sums, result)

        def winograd(tile: int) -> None:
            winograd_weight_gradient(
                *(self._sgemm, x, dy, convolution, out, scratch),
                tile=tile,
                threads=thread_count(),
                largest=self.largest_product,
            )

        candidates = {"im2col": tiled} | ({"direct": unlowered} if convolution.plain else {})

        def itself(weight_gradient: Callable[..., None]) -> None:
            weight_gradient(*given, convolution, out, scratch, multiplies=self.multiplies)

        own = self._unrounded(convolution)
        unrounded = {name: partial(itself, each.weight_gradient) for name, each in own.items()}
        self._fastest(problem, candidates, winograd, (rounded, _nothing), unrounded)

    def conv2d_data_gradient(self, dy: Array, w: Array, convolution: Convolution, out: Array, scratch: Buffers) -> None:
        if out.dtype == SHORT and convolution.depthwise:
            results = rounding.float32_for(out, scratch)
            self.conv2d_data_gradient(dy, w, convolution, results, scratch)
            rounding.store(results, out)
            return
        vectors = _vectors(convolution, dy, w, out)
        if vectors is None:
            if convolution.copyless and self._pairs(dy, w, out):
                filters = convolution.filters
                factors = dy.reshape(-1, filters), w.reshape(-1, filters)
                target = out.reshape(len(factors[0]), -1)
                self.product(*factors, transpose_b=True, out=target, scratch=scratch)
            else:
                dy, results = rounding.in_float32(dy, "wide dy", scratch), rounding.float32_for(out, scratch)
                super().conv2d_data_gradient(dy, w, convolution, results, scratch)
                rounding.store(results, out)
            return
        given, target = (dy, w), out
        problem = self._problem("data gradient", convolution, len(dy), dy=dy, out=out)
        dy, w, rounded = self._rounded_later(dy, w, scratch)
        out, stored = _stored_later(out, scratch)
        gradients, kernels, result = dy.reshape(-1), w.reshape(-1), out.reshape(-1)
        if convolution.depthwise:
            rounded()
            self._depthwise_data_gradient(dy, kernels, convolution, out, scratch)
            return
        turned = convolution.turned if convolution.plain else None

        def tiled() -> None:
            geometry, _, height, columns = self._tiles(convolution, len(dy), scratch)
            im2col.data_gradient(self._sgemm, gradients, kernels, geometry, len(dy), height, columns, result)

        def unlowered(turned: Convolution) -> None:
            turned_kernels = _exchanged(w, True, scratch).reshape(-1)
            self._direct(gradients, turned_kernels, None, result, turned, scratch, images=len(dy), relu=False)

        def winograd(tile: int) -> None:
            winograd_data_gradient(
                *(self._sgemm, dy, _exchanged(w, False, scratch), convolution, out, scratch),
                tile=tile,
                threads=thread_count(),
                largest=self.largest_product,
            )

        candidates = {"im2col": tiled} | ({} if turned is None else {"direct": partial(unlowered, turned)})

        def itself(forward: Callable[..., None]) -> None:
            (dy, w), run = given, {"relu": False, "multiplies": self.multiplies}
            forward(dy, _exchanged(w, True, scratch), None, turned, target, scratch, **run)

        own = {} if turned is None else self._unrounded(turned)
        unrounded = {name: partial(itself, each.forward) for name, each in own.items()}
        self._fastest(problem, candidates, winograd, (rounded, stored), unrounded)

    def _direct(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        out: Array,
        convolution: Convolution,
        scratch: Buffers,
        *,
        images: int,
        relu: bool,
    ) -> None:
        """The convolution of flat arrays without lowering."""
        count = direct.units(convolution, images)
        geometry, planes = _planes(convolution, scratch, images=images, most=count)
        added = np.zeros(convolution.filters, np.float32) if bias is None else bias
        if self.multiplies:
            direct.forward(microkernel(), x, w, added, relu, out, geometry, count, planes)

    def _depthwise(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        out: Array,
        convolution: Convolution,
        scratch: Buffers,
        *,
        relu: bool,
    ) -> None:
        """A depthwise convolution; w is flat."""
        filters, plan = convolution.filters, sliding.plan(convolution.window, False)
        wide, parts = _each_filter(x, convolution, scratch), _depthwise_parts(convolution, len(x))
        added = np.zeros(filters, np.float32) if bias is None else bias
        floor = direct.ZERO if relu else direct.UNBOUNDED
        tables = plan.rows, plan.tiles, len(x), parts
        depthwise.correlate(elementproduct(), wide, w, added, floor, out.reshape(-1), plan.steps, filters, *tables)

    def _depthwise_data_gradient(
        self, dy: Array, w: Array, convolution: Convolution, out: Array, scratch: Buffers
    ) -> None:
        filters, plan = convolution.filters, sliding.plan(convolution.window, True)
        times, narrow = filters // convolution.channels, out.reshape(-1)
        wide = narrow if times == 1 else scratch.get("each filter", (narrow.size * times,), np.float32)
        zeros, tables = np.zeros(filters, np.float32), (plan.rows, plan.tiles, len(dy))
        depthwise.correlate(
            *(elementproduct(), dy.reshape(-1), w, zeros, direct.UNBOUNDED, wide, plan.steps, filters, *tables),
            _depthwise_parts(convolution, len(dy)),
        )
        if times > 1:
            depthwise.repeat_channels(narrow, wide, times, False, parts_for(wide.size))

    def _depthwise_weight_gradient(
        self, x: Array, dy: Array, convolution: Convolution, out: Array, scratch: Buffers
    ) -> None:
        wide, (rows, tiles) = _each_filter(x, convolution, scratch), sliding.meetings(convolution.window)
        sums = scratch.get("sums", (_depthwise_parts(convolution, len(x)), out.size), np.float32)
        count, height = len(x) * convolution.out[0], depthwise.height_of(convolution)
        depthwise.weight_gradient(
            *(elementproduct(), wide, dy.reshape(-1), of_convolution(convolution), height, rows, tiles, count),
            *(sums, out.reshape(-1)),
        )

    def _tiles(self, convolution: Convolution, images: int, scratch: Buffers) -> tuple[Geometry, int, int, Array]:
        """Geometry, output rows in total and per tile, and a buffer for the columns of one tile per thread."""
        row = convolution.out[1] * convolution.depth
        rows = images * convolution.out[0]
        parts = parts_for_flops(2 * images * convolution.macs, most=rows)
        height = max(1, min(-(-rows // parts), self._tile_bytes // (4 * row)))
        columns = scratch.get("tiles", (parts, 0 if convolution.copyless else height * row), np.float32)
        return of_convolution(convolution), rows, height, columns

    def _pairs(self, *arrays: Array) -> bool:
        """Whether these arrays are rounded and multiplied in pairs."""
        return self.rounds and bfloat16.here() and bool(len(arrays[0])) and flat(*arrays) is not None

    def _rounded_later(self, x: Array, y: Array, scratch: Buffers) -> tuple[Array, Array, Run]:
        """The operands of a product as float32 multiplies them, once the function that comes with them has run."""
        if not self.rounds:
            return x, y, _nothing

        def rounded(operand: Array, copy: Array) -> None:
            (rounding.widen if operand.dtype == SHORT else self.round_bfloat16)(operand, copy)

        first = scratch.get("rounded x", x.shape, np.float32)
        if scratch.keeps(y):
            second = scratch.made_of(y, "rounded y", y.shape, np.float32, partial(rounded, y))
            return first, second, partial(rounded, x, first)
        second = scratch.get("rounded y", y.shape, np.float32)
        return first, second, partial(_in_turn, partial(rounded, x, first), partial(rounded, y, second))

    def _unrounded(self, convolution: Convolution) -> Mapping[str, bfloat16.Direct]:
        """The direct algorithms that round operands themselves, the default last."""
        return bfloat16.algorithms(convolution) if self.rounds else {}

    def _problem(self, direction: str, convolution: Convolution, images: int, **arrays: Array) -> Problem:
        in_words = f"{direction} in bfloat16" if self.rounds else direction
        stored = [name for name, x in arrays.items() if x.dtype == SHORT]
        if stored:
            in_words += f" with {' and '.join(stored)} stored in it"
        return Problem(in_words, convolution, images, thread_count())

    def _fastest(
        self,
        problem: Problem,
        candidates: dict[str, Run],
        winograd: Callable[[int], None],
        around: tuple[Run, Run],
        unrounded: Mapping[str, Run],
        tidy: Run | None = None,
    ) -> None:
        """Runs the fastest of the candidates and of the Winograd tiles that fit; `tidy` follows its choice.

        If the backend rounds, they run between the two of `around`, and `unrounded` are the algorithms that do without.
        """
        for tile in tiles(problem.convolution):
            candidates[f"winograd{tile}"] = partial(winograd, tile)
        if self.rounds:
            before, after = around
            candidates = {name: partial(_in_turn, before, run, after) for name, run in candidates.items()}
        candidates |= unrounded
        chosen = self._chosen.get(problem)
        if chosen is None:
            default = [*unrounded][-1] if unrounded else _default(problem, candidates)
            if not self.multiplies:  # Times without products say nothing about those with them.
                candidates[default]()
                return
            chosen = self._chosen[problem] = self._chooser.choose(
                *(str(problem), candidates, default, problem.alike), weights=4 * prod(problem.convolution.weights_shape)
            )
            if tidy is not None:
                tidy()
        candidates[chosen]()


def _default(problem: Problem, candidates: Container[str]) -> str:
    """The algorithm where nothing is measured."""
    convolution = problem.convolution
    if "direct" in candidates and convolution.channels < FEW_CHANNELS:
        return "direct"
    if "product" in candidates and problem.images * prod(convolution.out) < convolution.filters:
        return "product"
    return "im2col"


def _nothing() -> None:
    """What has to be done before a product of operands that are not rounded."""


def _in_turn(*runs: Run) -> None:
    for run in runs:
        run()


def _stored_later(out: Array, scratch: Buffers) -> tuple[Array, Run]:
    """Where float32 results go, and what then puts them into out."""
    results = rounding.float32_for(out, scratch)
    return results, _nothing if results is out else partial(rounding.store, results, out)


def _vectors(convolution: Convolution, *arrays: Array) -> list[Array] | None:
    """The arrays as vectors, or None if the kernels cannot take them or the convolution is a single product."""
    return None if convolution.copyless or not len(arrays[0]) else flat(*arrays)


def _each_filter(x: Array, convolution: Convolution, scratch: Buffers) -> Array:
    """x (N, H, W, C), flat, with each channel repeated for each of its filters in a depthwise convolution."""
    times, narrow = convolution.filters // convolution.channels, x.reshape(-1)
    if times == 1:
        return narrow
    wide = scratch.get("each filter", (narrow.size * times,), np.float32)
    depthwise.repeat_channels(narrow, wide, times, True, parts_for(wide.size))
    return wide


def _depthwise_parts(convolution: Convolution, images: int) -> int:
    """How many parts to divide a depthwise convolution or one of its gradients into."""
    return parts_for_flops(2 * images * convolution.macs, most=images * convolution.out[0])


def _exchanged(w: Array, turned: bool, scratch: Buffers) -> Array:
    """(R, S, K, C) from w (R, S, C, K), turned by 180 degrees if asked."""
    rows, columns, channels, filters = w.shape
    out = scratch.get("exchanged", (rows, columns, filters, channels), np.float32)
    taps = rows * columns
    parts = min(parts_for(w.size), taps)
    im2col.exchange(w.reshape(-1), taps, channels, filters, turned, out.reshape(-1), parts)
    return out


def _planes(convolution: Convolution, scratch: Buffers, *, images: int, most: int) -> tuple[Geometry, Array]:
    """Geometry, and a buffer for a padded image for each of at most `most` threads."""
    parts = parts_for_flops(2 * images * convolution.macs, most=most)
    planes = scratch.get("planes", (parts, direct.plane_size(convolution)), np.float32)
    return of_convolution(convolution), planes
