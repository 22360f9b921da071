"""Which kernel elements meet which pixels, as tables that the kernels of depthwise convolutions follow.

Along an axis, an output of a convolution sums some kernel elements over as many inputs, and both lie at equal
distances: in the forward pass, next to each other and a dilation apart. In the gradient of x they do too, with a
distance that depends on the stride. So one kernel with one more table computes both, without padding x.
"""

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from cnn.compiled.elementproduct import ROWS
from cnn.compiled.parts import INTEGER
from cnn.convolution import Window

Table = npt.NDArray[np.int64]
TABLE = types.Array(types.int64, 2, "C")
"""The type of a table in kernels."""


class Steps(NamedTuple):
    """Rows and columns of the source and the target, columns of a kernel, and distances.

    From term to term of a sum: `taps_down` and `taps_right` in the kernel, `down` and `right` in the source. From
    output to output of a tile: `along` in the target and `beside` in the source.
    """

    height: int
    width: int
    out_rows: int
    out_columns: int
    kernel_columns: int
    taps_down: int
    taps_right: int
    down: int
    right: int
    along: int
    beside: int


STEPS = types.NamedUniTuple(INTEGER, len(Steps._fields), Steps)
"""The type of Steps in kernels."""


class Plan(NamedTuple):
    """A convolution, or the gradient of x, as sums.

    `rows` has the first kernel row, the number of them, and the first row of the source, for each row of the target;
    `tiles` the first column of the target, how many, the first kernel column, the number of them, and the first column
    of the source, for up to ROWS columns of the target that are summed at a time.
    """

    steps: Steps
    rows: Table
    tiles: Table


@cache
def plan(window: Window, gradient: bool) -> Plan:
    """The sums of a convolution; of the gradient of x from dy if `gradient`."""
    source, target = (window.out, window.size) if gradient else (window.size, window.out)
    common = [gcd(*pair) if gradient else 1 for pair in zip(window.stride, window.dilation, strict=True)]
    sign = -1 if gradient else 1
    taps = [step // each if gradient else 1 for step, each in zip(window.stride, common, strict=True)]
    apart = [sign * gap // each for gap, each in zip(window.dilation, common, strict=True)]
    along, beside = (window.stride[1], 1) if gradient else (1, window.stride[1])
    rows = [_sum(window, 0, at, gradient) for at in range(target[0])]
    columns = [_sum(window, 1, at, gradient) for at in range(target[1])]
    tiles = []
    for start, count in (run for first in range(along) for run in _runs(columns, first, along)):
        tap, terms, place = columns[start]
        at = 0
        for each in _pieces(count):
            tiles.append((start + at * along, each, tap, terms, place + at * beside))
            at += each
    steps = Steps(*source, *target, window.kernel[1], taps[0], taps[1], apart[0], apart[1], along, beside)
    return Plan(steps, _table(rows, 3), _table(tiles, 5))


def _sum(window: Window, axis: int, at: int, gradient: bool) -> tuple[int, int, int]:
    """The first kernel element, their number, and the first input, of output `at` along an axis."""
    stride, gap, before = window.stride[axis], window.dilation[axis], window.padding[2 * axis]
    terms = []
    for tap in range(window.kernel[axis]):
        if gradient:
            place, rest = divmod(at + before - tap * gap, stride)
            inside = not rest and 0 <= place < window.out[axis]
        else:
            place = at * stride + tap * gap - before
            inside = 0 <= place < window.size[axis]
        if inside:
            terms.append((tap, place))
    return (terms[0][0], len(terms), terms[0][1]) if terms else (0, 0, 0)


def _runs(sums: list[tuple[int, int, int]], first: int, step: int) -> Iterator[tuple[int, int]]:
    """The first and the number of outputs that use the same kernel elements, among first, first + step, ..."""
    same = groupby(range(first, len(sums), step), lambda at: sums[at][:2])
    for _, run in same:
        start, *others = run
        yield start, 1 + len(others)


def _pieces(count: int) -> Iterator[int]:
    """`count` in about equal pieces of at most ROWS."""
    pieces = -(-count // ROWS)
    yield from (count * (k + 1) // pieces - count * k // pieces for k in range(pieces))


class Meetings(NamedTuple):
    """The outputs that each kernel element meets, for the gradient of the weights.

    `rows` has the first output row and the one after the last, for each kernel row; `tiles` the first kernel column,
    up to ROWS of them, the first output column, the number of them, and the first column of the image.
    """

    rows: Table
    tiles: Table


@cache
def meetings(window: Window) -> Meetings:
    """The outputs that the kernel elements of a window meet."""
    rows = [(tap.p.start, tap.p.stop) for tap in window.each_tap()][:: window.kernel[1]]
    columns = [_sum(window, 1, at, False) for at in range(window.out[1])]
    tiles = []
    for start, count in _runs(columns, 0, 1):
        tap, taps, at = columns[start]
        for each in _pieces(taps):
            tiles.append((tap, each, start, count, at))
            tap, at = tap + each, at + each * window.dilation[1]
    return Meetings(_table(rows, 2), _table(tiles, 5))


def _table(rows: Any, columns: int) -> Table:
    return np.array(rows, np.int64).reshape(-1, columns)
