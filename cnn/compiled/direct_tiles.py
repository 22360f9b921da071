"""Direct convolution in bfloat16 by tiles: images are rounded into cells, whose rows the tiles read where they lie.

A cell is what one output reads of one row of an image: kernel_columns x channels numbers, rounded, and zeros up to a
multiple of TERMS. The cells of a row lie side by side, one for each output column, and the rows follow each other in
the order in which one row of kernels meets them: with a stride of 2, first those of even numbers. So for each row of
the kernels, all outputs of an image are one matrix product, whose left factor begins at another cell; the outputs are
cut into pieces of SIDE without regard to the ends of rows.

Where rows of outputs and numbers of channels fill tiles well, a cell is a single pixel instead, and several cells in a
row are what an output reads: nothing is copied twice, but each row of outputs is cut into pieces of its own.

With a few channels, a cell is all an output reads of an image, where cells of rows would be full of zeros.

For the gradient of the weights, positions are the terms: the left factor is the gradient of an image, turned, with two
neighbouring positions in a pair, and the right one the cells, two neighbouring ones in pairs.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, prange, types

from cnn.compiled.direct import UNBOUNDED, ZERO, ceiling
from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import ADDRESS, BYTES, FLAG, FLOATS, INNER, INTEGER, INTEGERS, MATRIX, PARALLEL, start_of
from cnn.compiled.rounding import (
    AT_ONCE,
    BLOCK,
    NUMBERS,
    PAIR_ROWS,
    SHORT_ROWS,
    columns_of,
    copy,
    copy_with_zeros,
    nearest,
    pad,
    pair,
    rare_kernels,
    rows_of,
    turn,
    turned,
)
from cnn.compiled.tileproduct import SIDE, TERMS, configured, multiply, released
from cnn.convolution import Convolution, padded_size

ROWS, PIXELS, WINDOWS = range(3)
"""What a cell of the forward pass is: what an output reads of one row, a pixel, or all that an output reads."""

MOSTLY = 0.75
"""The part of tiles that has to be filled for cells of pixels."""

BLOCK_BYTES = 1 << 19
"""Bytes of what the weight gradient takes at a time: a part of a second-level cache."""


def whole(terms: int) -> int:
    """Terms rounded up to what tiles multiply."""
    return -(-terms // TERMS) * TERMS


def cell_size(convolution: Convolution) -> int:
    """Numbers of a cell that is all an output reads of a row."""
    return whole(convolution.window.kernel[1] * convolution.channels)


def cells_of(convolution: Convolution) -> int:
    """What a cell of the forward pass is."""
    (rows, columns), channels, wide = convolution.window.kernel, convolution.channels, convolution.out[1]
    filled = wide >= MOSTLY * -(-wide // SIDE) * SIDE and cell_size(convolution) >= MOSTLY * columns * whole(channels)
    if columns > 1 and convolution.window.stride[1] == 1 and filled:
        return PIXELS
    # Copying pixels once for each row of kernels takes less time than a third of the steps.
    few = 3 * whole(rows * columns * channels) <= 2 * rows * cell_size(convolution)
    return WINDOWS if few and columns * channels <= AT_ONCE else ROWS


def parts_of_sums(convolution: Convolution) -> tuple[int, int]:
    """How many parts the sum of an output has in the panels of the forward pass, and the numbers of each."""
    (rows, columns), channels = convolution.window.kernel, convolution.channels
    kind = cells_of(convolution)
    if kind == PIXELS:
        return rows * columns, channels
    return (1, rows * columns * channels) if kind == WINDOWS else (rows, columns * channels)


def panel_count(convolution: Convolution) -> int:
    """Panels of filters."""
    return -(-convolution.filters // SIDE)


def panel_size(convolution: Convolution) -> int:
    """Pairs of a panel of weights."""
    parts, numbers = parts_of_sums(convolution)
    return parts * whole(numbers) // 2 * SIDE


def _line(convolution: Convolution) -> int:
    """Numbers of a row of cells in the forward pass."""
    numbers = parts_of_sums(convolution)[1]
    if cells_of(convolution) == PIXELS:
        return padded_size(convolution.window)[1] * whole(numbers)
    return convolution.out[1] * whole(numbers)


def _slots(convolution: Convolution) -> int:
    """Rows of cells."""
    down = convolution.window.stride[0]
    return down * -(-padded_size(convolution.window)[0] // down)


def plane_size(convolution: Convolution) -> int:
    """Numbers of the cells of an image, and of those that the last tiles read beyond them."""
    if cells_of(convolution) == WINDOWS:
        return (convolution.out[0] * convolution.out[1] + SIDE) * whole(parts_of_sums(convolution)[1])
    return _slots(convolution) * _line(convolution) + SIDE * cell_size(convolution)


def line_size(convolution: Convolution) -> int:
    """Numbers of a padded row, rounded up to whole cache lines."""
    return whole(padded_size(convolution.window)[1] * convolution.channels)


def lines_size(convolution: Convolution) -> int:
    """Numbers of the padded rows that the forward pass needs at a time: of one, or of an image and some beyond it."""
    if cells_of(convolution) != WINDOWS:
        return line_size(convolution)
    rows, columns = padded_size(convolution.window)
    return whole(rows * columns * convolution.channels) + AT_ONCE


def units(convolution: Convolution, images: int) -> int:
    """How many units the forward pass divides among threads: SIDE outputs of an image in one panel of filters."""
    rows, columns = convolution.out
    pieces = rows * -(-columns // SIDE) if cells_of(convolution) == PIXELS else -(-rows * columns // SIDE)
    return images * panel_count(convolution) * pieces


class Blocks(NamedTuple):
    """What the weight gradient takes at a time, in each thread: output rows of an image, and how many images of them.

    `left` and `right` are pairs: of the turned gradient of a block, and of its cells, with what the last tiles read
    beyond them. A row of the turned gradient has a cache line more than pairs, as rows a power of two apart share
    places in caches.
    """

    height: int
    together: int
    left: int
    right: int


BLOCKS = types.NamedUniTuple(INTEGER, len(Blocks._fields), Blocks)
"""The type of Blocks in kernels."""


@cache
def blocks(convolution: Convolution) -> Blocks:
    """As many images as fit in BLOCK_BYTES, or fewer rows of one."""
    rows = convolution.out[0]
    size = sum(_block_sizes(convolution, rows)) * 4
    height = min(rows, max(1, rows * BLOCK_BYTES // size))
    return Blocks(height, max(1, BLOCK_BYTES // size), *_block_sizes(convolution, height))


def _block_sizes(convolution: Convolution, height: int) -> tuple[int, int]:
    (rows, _), (down, _), half = convolution.window.kernel, convolution.window.stride, -(-convolution.out[1] // 2)
    row = whole(2 * height * half) // 2 + TERMS // 2
    slots = down * -(-((height - 1) * down + rows) // down)
    return panel_count(convolution) * SIDE * row, (slots * half + TERMS // 2) * cell_size(convolution)


@cache
def forward_table(convolution: Convolution) -> npt.NDArray[np.int64]:
    """Where the pieces of a sum begin, one for each row of cells: bytes from the first cell, and in the panel."""
    if cells_of(convolution) == WINDOWS:
        return np.zeros(2, np.int64)
    line, rows = _line(convolution), convolution.window.kernel[0]
    row = panel_size(convolution) // rows * 4
    return np.array([(_first_slot(convolution, r) * line * 2, r * row) for r in range(rows)], np.int64).reshape(-1)


@cache
def weight_table(convolution: Convolution) -> npt.NDArray[np.int64]:
    """Where the pieces of a sum begin, one for each image: bytes from the first turned gradient and the first cells."""
    _, together, left, right = blocks(convolution)
    return np.outer(np.arange(together, dtype=np.int64), np.array((4 * left, 4 * right), np.int64)).reshape(-1)


def _first_slot(convolution: Convolution, row: int) -> int:
    """The row of cells that the first output meets in a row of the kernels."""
    down = convolution.window.stride[0]
    return row % down * (_slots(convolution) // down) + row // down


@njit(**INNER)
def _slot(g, row):
    """The row of cells in which a padded row of an image lies."""
    return row % g.down * ceiling(rows_of(g), g.down) + row // g.down


@njit(**INNER)
def _first_row(g):
    """The first row of an image that windows read."""
    return max(0, -g.top)


@njit(**INNER)
def _last_row(g):
    return min(g.height, rows_of(g) - g.top)


@njit(**INNER)
def _round_row(x, g, image, row, line):
    """Rounds the part of a row of an image that windows read into the line, which is zero everywhere else."""
    W, C, left = g.width, g.channels, g.left
    first, last = max(0, -left), min(W, columns_of(g) - left)
    source, to = np.uintp(((image * g.height + row) * W + first) * C), np.uintp((first + left) * C)
    for j in range(np.uintp(max(0, last - first) * C)):
        line[to + j] = nearest(x[source + j])


@njit(**INNER)
def _cells(x, g, image, cell, line, plane):
    """The cells of an image; what lies in padding, or beyond the numbers of a cell, is zero already."""
    Q, run, step = g.out_columns, np.uintp(g.kernel_columns * g.channels), g.right * g.channels
    for row in range(_first_row(g), _last_row(g)):
        _round_row(x, g, image, row, line)
        start = _slot(g, row + g.top) * Q
        for q in range(Q):
            source, to = np.uintp(q * step), np.uintp((start + q) * cell)
            for j in range(run):
                plane[to + j] = line[source + j]


@njit(**INNER)
def _pixels(x, g, image, cell, plane):
    """As `_cells`, a cell for each pixel of the padded image."""
    W, C, left, columns = g.width, g.channels, g.left, columns_of(g)
    first, last = max(0, -left), min(W, columns - left)
    for row in range(_first_row(g), _last_row(g)):
        start = _slot(g, row + g.top) * columns + left
        for column in range(first, last):
            source, to = np.uintp(((image * g.height + row) * W + column) * C), np.uintp((start + column) * cell)
            for j in range(np.uintp(C)):
                plane[to + j] = nearest(x[source + j])


@njit(**INNER)
def _windows(x, g, image, cell, padded, plane):
    """As `_cells`, a cell for each output, from the padded image, which is zero wherever nothing of x lies.

    Each run is copied with what lies behind it in the image, on which the next one is then put, or the next cell. The
    last one of a cell comes with zeros.
    """
    R, C, Q, columns = g.kernel_rows, g.channels, g.out_columns, columns_of(g)
    run = np.uintp(g.kernel_columns * C)
    rest = np.uintp(cell) - np.uintp(R - 1) * run
    pad(x, g, image, padded)
    for p in range(g.out_rows):
        for q in range(Q):
            source = np.uintp(padded.ctypes.data) + np.uintp((p * g.down * columns + q * g.right) * C * 2)
            to = np.uintp(plane.ctypes.data) + np.uintp((p * Q + q) * cell * 2)
            for _ in range(R - 1):
                copy(source, to)
                source, to = source + np.uintp(columns * C * 2), to + run * 2
            copy_with_zeros(source, to, run, rest)


@njit(**INNER)
def _forward_part(microkernel, x, w, bias, floor, y, size, g, cells, table, first, last, line, plane, space):
    R, C, S, P, Q, K = g.kernel_rows, g.channels, g.kernel_columns, g.out_rows, g.out_columns, g.filters
    pixels = cells == PIXELS
    cell = ceiling(C if pixels else R * S * C if cells == WINDOWS else S * C, TERMS) * TERMS
    steps = cell // TERMS * (S if pixels else 1)
    # Outputs are counted along rows of cells: in each row anew, or on and on.
    strips, length, width = (P, Q, columns_of(g)) if pixels else (1, P * Q, Q)
    outputs, filters, blocks = P * Q, size * K, ceiling(length, SIDE)
    count = w.shape[0]
    left, right, added = np.intp(plane.ctypes.data), np.intp(w.ctypes.data), np.intp(bias.ctypes.data)
    line[:] = np.uint16(0)
    plane[:] = np.uint16(0)
    own = configured(microkernel, space)
    filled = -1
    for unit in range(first, last):
        block, strip, panel = unit % blocks, unit // blocks % strips, unit // blocks // strips
        image, number = panel // count, panel % count
        if image != filled:
            if pixels:
                _pixels(x, g, image, cell, plane)
            elif cells == WINDOWS:
                _windows(x, g, image, cell, line, plane)
            else:
                _cells(x, g, image, cell, line, plane)
            filled = image
        k, m = number * SIDE, block * SIDE
        multiply(
            *(microkernel, own, min(SIDE, length - m), min(SIDE, K - k)),
            *(left + (strip * width + m) * cell * 2, cell * 2, np.intp(table.ctypes.data), len(table) // 2, steps),
            *(right + number * w.shape[1] * 4, 4 * SIDE),
            *(added + 4 * k, 0, floor),
            *(np.intp(y.ctypes.data) + (image * outputs + strip * length + m) * filters + size * k, filters),
            size == 2,
        )
    released(microkernel, own)


@rare_kernels(
    PARALLEL,
    *(ADDRESS, NUMBERS, PAIR_ROWS, FLOATS, FLAG, BYTES, INTEGER, GEOMETRY, INTEGER, INTEGERS, INTEGER),
    *(SHORT_ROWS, SHORT_ROWS, PAIR_ROWS),
)
def forward(microkernel, x, w, bias, relu, y, size, g, cells, table, count, lines, planes, spaces):
    """y (N, P, Q, K) = x (N, H, W, C) correlated with w, in panels, + bias (K,), with ReLU if `relu`.

    y is bytes, `size` for each number: 4 for float32, 2 for bfloat16. `cells` is `cells_of`, `count` the number of
    `units`. A thread has a row of lines (lines_size), of planes (plane_size) and of spaces.
    """
    floor = ZERO if relu else UNBOUNDED
    parts = planes.shape[0]
    if parts == 1:
        _forward_part(
            *(microkernel, x, w, bias, floor, y, size, g, cells, table, 0, count, lines[0], planes[0], spaces[0])
        )
    else:
        for part in prange(parts):
            first, last = count * part // parts, count * (part + 1) // parts
            _forward_part(
                *(microkernel, x, w, bias, floor, y, size, g, cells, table, first, last),
                *(lines[part], planes[part], spaces[part]),
            )


@njit(**INNER)
def _paired_cells(x, g, image, first, rows, phase, cell, line, pairs):
    """As `_cells`, of some rows of a padded image only, two neighbouring cells in pairs; beside a last one are zeros.

    `first` is the first row, less the padding above. Rows outside the image are cleared.
    """
    Q, run, step = g.out_columns, np.uintp(g.kernel_columns * g.channels), g.right * g.channels
    half = ceiling(Q, 2)
    for r in range(rows):
        row, start = first + r, (r % g.down * phase + r // g.down) * half
        if row < 0 or row >= g.height:
            pairs[start * cell : (start + half) * cell] = np.uint32(0)
            continue
        _round_row(x, g, image, row, line)
        for i in range(half):
            source, to = np.uintp(2 * i * step), np.uintp((start + i) * cell)
            beside = source + np.uintp(step)
            if 2 * i + 1 < Q:
                for j in range(run):
                    pairs[to + j] = pair(line[source + j], line[beside + j])
            else:
                for j in range(run):
                    pairs[to + j] = pair(line[source + j], np.uint16(0))


@njit(**INNER)
def _turned_gradient(dy, rows, columns, filters, pairs, out, step):
    """The gradient (rows, columns, filters), flat, as rows of `pairs` pairs for each filter, `step` pairs apart."""
    if columns % 2 == 0:  # Pairs do not cross the ends of rows.
        turned(dy, rows * columns, filters, 0, filters, pairs, out, step)
        return
    half = ceiling(columns, 2)
    for p in range(rows):
        turned(dy[p * columns * filters :], columns, filters, 0, filters, half, out[p * half :], step)
    for k in range(filters):
        out[k * step + rows * half : k * step + pairs] = np.uint32(0)


@njit(**INNER)
def _weight_part(microkernel, x, dy, g, table, first, last, blocks, line, room, space, sums):
    R, P, Q, K, down = g.kernel_rows, g.out_rows, g.out_columns, g.filters, g.down
    height, together, left, right = blocks
    run, half = g.kernel_columns * g.channels, ceiling(Q, 2)
    cell, phase = ceiling(run, TERMS) * TERMS, ceiling((height - 1) * down + R, down)
    row, width, each = left // (ceiling(K, SIDE) * SIDE), 4 * R * run, ceiling(P, height)
    lefts, rights = room[: together * left], room[together * left :]
    line[:] = np.uint16(0)
    room[:] = np.uint32(0)
    sums[:] = ZERO
    a, b = np.intp(lefts.ctypes.data), np.intp(rights.ctypes.data)
    own = configured(microkernel, space)
    for start in range(first, last, together):
        # Several blocks at once are whole images, with the same number of rows.
        count, steps = min(together, last - start), 0
        for n in range(count):
            image, block = (start + n) // each, (start + n) % each
            p, end = P * block // each, P * (block + 1) // each
            steps = ceiling(2 * (end - p) * half, TERMS)
            rows = (end - p - 1) * down + R
            _paired_cells(x, g, image, p * down - g.top, rows, phase, cell, line, rights[n * right :])
            gradients = dy[(image * P + p) * Q * K :]
            _turned_gradient(gradients, end - p, Q, K, steps * TERMS // 2, lefts[n * left :], row)
        for r in range(R):
            meets = b + (r % down * phase + r // down) * half * cell * 4
            for j in range(0, run, SIDE):
                for k in range(0, K, SIDE):
                    to = np.intp(sums.ctypes.data) + k * width + 4 * (r * run + j)
                    multiply(
                        *(microkernel, own, min(SIDE, K - k), min(SIDE, run - j)),
                        *(a + k * row * 4, row * 4, np.intp(table.ctypes.data), count, steps),
                        *(meets + 4 * j, cell * 4),
                        *(to, width, UNBOUNDED, to, width, 0),
                    )
    released(microkernel, own)


@rare_kernels(
    PARALLEL,
    *(ADDRESS, NUMBERS, NUMBERS, GEOMETRY, INTEGERS, INTEGER, BLOCKS),
    *(SHORT_ROWS, PAIR_ROWS, PAIR_ROWS, MATRIX),
)
def weight_gradient(microkernel, x, dy, g, table, count, blocks, lines, rooms, spaces, sums):
    """Sums (K, R, S, C), a row for each thread, from x (N, H, W, C) and dy (N, P, Q, K), all flat.

    Their sum, turned, is the gradient of the weights. `count` is the number of blocks of all images.

    A thread has a row of lines (line_size), of rooms (left + right, for each block taken together), of spaces and of
    sums.
    """
    parts = rooms.shape[0]
    if parts == 1:
        _weight_part(microkernel, x, dy, g, table, 0, count, blocks, lines[0], rooms[0], spaces[0], sums[0])
    else:
        for part in prange(parts):
            first, last = count * part // parts, count * (part + 1) // parts
            _weight_part(
                *(microkernel, x, dy, g, table, first, last, blocks),
                *(lines[part], rooms[part], spaces[part], sums[part]),
            )


@rare_kernel(PARALLEL, MATRIX, INTEGER, FLOATS, INTEGER)
def add_up_turned(sums, filters, out, parts):
    """out (M, K) = the sum of the rows (K, M) of sums, in order, which is left in the first."""
    K, width = np.uintp(filters), np.uintp(len(out) // filters)
    for part in prange(parts):
        first, last = start_of(part, parts, width), start_of(part + 1, parts, width)
        for number in range(1, sums.shape[0]):
            for k in range(K):
                for j in range(first, last):
                    sums[0, k * width + j] += sums[number, k * width + j]
        source, target = np.uintp(sums.ctypes.data), np.uintp(out.ctypes.data)
        for j in range(first, last, np.uintp(BLOCK)):
            for k in range(np.uintp(0), K, np.uintp(BLOCK)):
                turn(source + (k * width + j) * 4, width * 4, K - k, last - j, target + (j * K + k) * 4, K * 4)
