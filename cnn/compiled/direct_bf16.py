"""Direct convolution in bfloat16: images are rounded and padded at once, and the microkernel reads windows in place.

Work is divided as in `direct.py`. The right factor is laid out in panels of filters, pairs of terms side by side: the
weights once for all images, and for the gradient of the weights the gradient of each image.
"""

from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.core.extending import overload

from cnn.compiled.direct import ACROSS, BLOCK_BYTES, UNBOUNDED, ZERO, ceiling
from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.microkernel import ROWS, tile
from cnn.compiled.parts import ADDRESS, FLAG, FLOATS, INNER, INTEGER, MATRIX, PARALLEL, add_up
from cnn.compiled.rounding import (
    NUMBERS,
    PAIR_ROWS,
    SHORT_ROWS,
    columns_of,
    nearest,
    pad,
    pad_pairs,
    panel,
    rare_kernels,
    rows_of,
)
from cnn.compiled.vectors import WIDTH
from cnn.convolution import Convolution, padded_size

SPACE = ROWS * ACROSS
"""Sums that the microkernel computes at a time, which are rounded where the results are stored in bfloat16."""

GROUP_BYTES = 1 << 18
"""Bytes of several small images that the weight gradient takes together: a part of a second-level cache."""


def panel_count(convolution: Convolution) -> int:
    """Panels of filters."""
    return -(-convolution.filters // ACROSS)


def weights_size(convolution: Convolution) -> int:
    """Pairs of a panel of weights."""
    rows, columns = convolution.window.kernel
    return rows * -(-columns * convolution.channels // 2) * ACROSS


def plane_size(convolution: Convolution) -> int:
    """Numbers of a padded image."""
    rows, columns = padded_size(convolution.window)
    return rows * columns * convolution.channels


def line_size(convolution: Convolution) -> int:
    """Numbers of a padded row and of zeros behind it, an even number."""
    count = (padded_size(convolution.window)[1] + convolution.window.stride[1]) * convolution.channels
    return count + count % 2


def gradients_size(convolution: Convolution) -> int:
    """Pairs of the gradients of an image, laid out in panels."""
    rows, columns = convolution.out
    return panel_count(convolution) * rows * -(-columns // 2) * ACROSS


def group(convolution: Convolution) -> int:
    """How many images the weight gradient takes together."""
    rows, columns = convolution.out
    if 4 * ACROSS * rows * -(-columns // 2) > BLOCK_BYTES:
        return 1
    return max(1, GROUP_BYTES // (4 * (plane_size(convolution) + gradients_size(convolution))))


def _target(y: Any, at: Any, filters: Any, space: Any) -> Any:
    """Where sums go that belong to element `at` of y and to the rows behind it, and bytes from row to row."""
    raise NotImplementedError


def _finish(y: Any, at: Any, filters: Any, space: Any, rows: Any, across: Any) -> None:
    """Brings them into y, if they are not there."""
    raise NotImplementedError


_OPTIONS: Any = INNER


@overload(_target, jit_options=_OPTIONS)
def _target_of(y, at, filters, space):
    if y.dtype == types.float32:
        return lambda y, at, filters, space: (np.intp(y.ctypes.data) + 4 * at, 4 * filters)
    return lambda y, at, filters, space: (np.intp(space.ctypes.data), 4 * ACROSS)


@overload(_finish, jit_options=_OPTIONS)
def _finish_of(y, at, filters, space, rows, across):
    if y.dtype == types.float32:
        return lambda y, at, filters, space, rows, across: None
    return lambda y, at, filters, space, rows, across: _round(y, at, filters, space, rows, across)


@njit(**INNER)
def _round(y, at, filters, space, rows, across):
    for m in range(rows):
        source, to = np.uintp(m * ACROSS), np.uintp(at + m * filters)
        for k in range(np.uintp(across)):
            y[to + k] = nearest(space[source + k])


@njit(**INNER)
def _forward_part(microkernel, x, w, bias, floor, y, g, first, last, plane, space):
    C, R, S = g.channels, g.kernel_rows, g.kernel_columns
    P, Q, K, down, right = g.out_rows, g.out_columns, g.filters, g.down, g.right
    pixel = 2 * C
    line = pixel * columns_of(g)
    plane[:] = np.uint16(0)
    pieces, count = ceiling(Q, ROWS), w.shape[0]
    padded = -1
    for unit in range(first, last):
        image, number, p = unit // P // count, unit // P % count, unit % P
        if image != padded:
            pad(x, g, image, plane)
            padded = image
        source = np.intp(plane.ctypes.data) + p * down * line
        k = number * ACROSS
        across = min(K - k, ACROSS)
        vectors = ceiling(across, WIDTH)
        tail = across - (vectors - 1) * WIDTH
        for piece in range(pieces):
            q, end = Q * piece // pieces, Q * (piece + 1) // pieces
            at = ((image * P + p) * Q + q) * K + k
            to, step = _target(y, at, K, space)
            tile(
                microkernel,
                *(end - q, vectors, tail),
                *(source + q * right * pixel, right * pixel, line, 4, R, S * C),
                *(np.intp(w.ctypes.data) + number * w.shape[1] * 4, 4 * ACROSS),
                *(np.intp(bias.ctypes.data) + 4 * k, 0, floor),
                *(to, step),
            )
            _finish(y, at, K, space, end - q, across)


@rare_kernels(PARALLEL, ADDRESS, NUMBERS, PAIR_ROWS, FLOATS, FLAG, NUMBERS, GEOMETRY, INTEGER, SHORT_ROWS, MATRIX)
def forward(microkernel, x, w, bias, relu, y, g, count, planes, spaces):
    """y (N, P, Q, K) = x (N, H, W, C) correlated with w, in panels, + bias (K,), with ReLU if `relu`.

    `count` is the number of `direct.units`; planes (threads, plane_size), spaces (threads, SPACE).
    """
    floor = ZERO if relu else UNBOUNDED
    parts = planes.shape[0]
    if parts == 1:
        _forward_part(microkernel, x, w, bias, floor, y, g, 0, count, planes[0], spaces[0])
    else:
        for part in prange(parts):
            first, last = count * part // parts, count * (part + 1) // parts
            _forward_part(microkernel, x, w, bias, floor, y, g, first, last, planes[part], spaces[part])


@njit(**INNER)
def _weight_part(microkernel, x, dy, g, first, last, together, line, space, sums):
    C, R, S = g.channels, g.kernel_rows, g.kernel_columns
    P, Q, K, down, right = g.out_rows, g.out_columns, g.filters, g.down, g.right
    pixel, filters, run = 4 * C, 4 * K, S * C
    width, size, pairs, panels = (
        pixel * columns_of(g),
        rows_of(g) * columns_of(g) * C,
        ceiling(Q, 2),
        ceiling(K, ACROSS),
    )
    planes, room = space[: together * size], space[together * size :]
    planes[:] = np.uint32(0)
    sums[:] = ZERO
    height, pieces = min(P, max(1, BLOCK_BYTES // (pairs * ACROSS * 4))), ceiling(run, ROWS)
    for start in range(first, last, together):
        images = min(together, last - start)
        for n in range(images):
            pad_pairs(x, g, start + n, planes[n * size :], line)
            own = dy[(start + n) * P * Q * K :]
            for number in range(panels):
                to = (n * panels + number) * P * pairs * ACROSS
                panel(own, P, Q, K, number * ACROSS, ACROSS, pairs, room[to:])
        for p in range(0, P, height):
            for number in range(panels):
                k = number * ACROSS
                across = min(K - k, ACROSS)
                vectors = ceiling(across, WIDTH)
                tail = across - (vectors - 1) * WIDTH
                for r in range(R):
                    for piece in range(pieces):
                        j, end = run * piece // pieces, run * (piece + 1) // pieces
                        to = np.intp(sums.ctypes.data) + (r * run + j) * filters + 4 * k
                        for n in range(images):
                            source = np.intp(planes.ctypes.data) + 4 * n * size + (p * down + r) * width + 4 * j
                            gradients = ((n * panels + number) * P + p) * pairs * ACROSS
                            tile(
                                microkernel,
                                *(end - j, vectors, tail),
                                *(source, 4, down * width, 2 * right * pixel),
                                *(min(height, P - p), Q),
                                *(np.intp(room.ctypes.data) + 4 * gradients, 4 * ACROSS),
                                *(to, filters, UNBOUNDED, to, filters),
                            )


@rare_kernels(PARALLEL, ADDRESS, NUMBERS, NUMBERS, GEOMETRY, INTEGER, INTEGER, SHORT_ROWS, PAIR_ROWS, MATRIX, FLOATS)
def weight_gradient(microkernel, x, dy, g, images, together, lines, spaces, sums, dw):
    """dw (R, S, C, K) from x (N, H, W, C) and dy (N, P, Q, K), all flat; `together` images at a time.

    A thread has a row of lines (line_size), of spaces (plane_size + gradients_size, for each image) and of sums.
    """
    parts = spaces.shape[0]
    if parts == 1:
        _weight_part(microkernel, x, dy, g, 0, images, together, lines[0], spaces[0], dw)
    else:
        for part in prange(parts):
            first, last = images * part // parts, images * (part + 1) // parts
            _weight_part(microkernel, x, dy, g, first, last, together, lines[part], spaces[part], sums[part])
        add_up(sums, dw)
