"""Convolution without lowering: the microkernel reads the windows where they lie, in the image or a padded copy of it.

It is faster where SGEMM is slow, with few channels or filters, and needs no copies like im2col. A thread owns a
fixed range of images, or of the units of a forward pass: an output row of one image in one panel of filters. Units
are taken in the order image, panel, row: image and panel stay in a core's cache for all rows, and two threads on one
image divide its panels. The same number of threads gives the same bits.
"""

import numpy as np
from numba import njit, prange

from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.kernels import kernel
from cnn.compiled.microkernel import ROWS, VECTORS, tile
from cnn.compiled.parts import ADDRESS, FLAG, FLOATS, INNER, INTEGER, MATRIX, PARALLEL, add_up
from cnn.compiled.vectors import WIDTH
from cnn.convolution import Convolution, padded_size

ZERO, UNBOUNDED = np.float32(0), np.float32(-np.inf)

ACROSS = WIDTH * VECTORS
"""Filters that the microkernel takes at once."""

BLOCK_BYTES = 1 << 14
"""Bytes of dy that the weight gradient rereads for every few weights: less than half of a first-level cache."""


def units(convolution: Convolution, images: int) -> int:
    """How many units the forward pass divides among threads."""
    return images * -(-convolution.filters // ACROSS) * convolution.out[0]


def plane_size(convolution: Convolution) -> int:
    """Elements of a padded image, or 0 if no window reads padding."""
    window = convolution.window
    rows, columns = padded_size(window)
    top, _, left, _ = window.padding
    inside = not (top or left) and rows <= window.size[0] and columns <= window.size[1]
    return 0 if inside else rows * columns * convolution.channels


@njit(**INNER)
def _pad(x, g, image, plane):
    """Copies the part of an image of x that windows read into the plane, which is zero everywhere else."""
    H, W, C, top, left = g.height, g.width, g.channels, g.top, g.left
    rows, columns = (g.out_rows - 1) * g.down + g.kernel_rows, (g.out_columns - 1) * g.right + g.kernel_columns
    first, last = max(0, -left), min(W, columns - left)
    for h in range(max(0, -top), min(H, rows - top)):
        source = np.uintp(((image * H + h) * W + first) * C)
        to = np.uintp(((h + top) * columns + first + left) * C)
        for j in range(np.uintp(max(0, last - first) * C)):
            plane[to + j] = x[source + j]


@njit(**INNER)
def ceiling(a, b):
    """a / b, rounded up."""
    return -(-a // b)


@njit(**INNER)
def _forward_part(microkernel, x, w, bias, floor, y, g, first, last, plane):
    H, W, C, R, S = g.height, g.width, g.channels, g.kernel_rows, g.kernel_columns
    P, Q, K, down, right = g.out_rows, g.out_columns, g.filters, g.down, g.right
    pixel, filters = 4 * C, 4 * K
    line = pixel * (((Q - 1) * right + S) if plane.size else W)
    plane[:] = ZERO
    panels, pieces = ceiling(K, ACROSS), ceiling(Q, ROWS)
    padded = -1
    for unit in range(first, last):
        image, panel, p = unit // P // panels, unit // P % panels, unit % P
        if plane.size and image != padded:
            _pad(x, g, image, plane)
            padded = image
        base = plane.ctypes.data if plane.size else x.ctypes.data + image * H * W * pixel
        source = np.intp(base) + p * down * line
        k = panel * ACROSS
        across = min(K - k, ACROSS)
        vectors = ceiling(across, WIDTH)
        tail = across - (vectors - 1) * WIDTH
        for piece in range(pieces):
            q, end = Q * piece // pieces, Q * (piece + 1) // pieces
            tile(
                microkernel,
                *(end - q, vectors, tail),
                *(source + q * right * pixel, right * pixel, line, 4, R, S * C),
                *(np.intp(w.ctypes.data) + 4 * k, filters),
                *(np.intp(bias.ctypes.data) + 4 * k, 0, floor),
                *(np.intp(y.ctypes.data) + ((image * P + p) * Q + q) * filters + 4 * k, filters),
            )


@kernel(PARALLEL, ADDRESS, *[FLOATS] * 3, FLAG, FLOATS, GEOMETRY, INTEGER, MATRIX)
def forward(microkernel, x, w, bias, relu, y, g, count, planes):
    """y (N, P, Q, K) = x (N, H, W, C) correlated with w (R, S, C, K) + bias (K,), with ReLU if `relu`, all flat.

    `count` is the number of `units`; planes (threads, plane_size).
    """
    floor = ZERO if relu else UNBOUNDED
    parts = planes.shape[0]
    if parts == 1:
        _forward_part(microkernel, x, w, bias, floor, y, g, 0, count, planes[0])
    else:
        for part in prange(parts):
            first, last = count * part // parts, count * (part + 1) // parts
            _forward_part(microkernel, x, w, bias, floor, y, g, first, last, planes[part])


@njit(**INNER)
def _weight_part(microkernel, x, dy, g, first, last, plane, sums):
    H, W, C, R, S = g.height, g.width, g.channels, g.kernel_rows, g.kernel_columns
    P, Q, K, down, right = g.out_rows, g.out_columns, g.filters, g.down, g.right
    pixel, filters, run = 4 * C, 4 * K, S * C
    line = pixel * (((Q - 1) * right + S) if plane.size else W)
    plane[:] = ZERO
    sums[:] = ZERO
    height, pieces = max(1, BLOCK_BYTES // (Q * filters)), ceiling(run, ROWS)
    for image in range(first, last):
        if plane.size:
            _pad(x, g, image, plane)
        base = np.intp(plane.ctypes.data if plane.size else x.ctypes.data + image * H * W * pixel)
        for p in range(0, P, height):
            gradients = np.intp(dy.ctypes.data) + (image * P + p) * Q * filters
            for k in range(0, K, ACROSS):
                across = min(K - k, ACROSS)
                vectors = ceiling(across, WIDTH)
                tail = across - (vectors - 1) * WIDTH
                for r in range(R):
                    for piece in range(pieces):
                        j, end = run * piece // pieces, run * (piece + 1) // pieces
                        to = np.intp(sums.ctypes.data) + (r * run + j) * filters + 4 * k
                        tile(
                            microkernel,
                            *(end - j, vectors, tail),
                            *(base + (p * down + r) * line + 4 * j, 4, down * line, right * pixel),
                            *(min(height, P - p), Q, gradients + 4 * k, filters),
                            *(to, filters, UNBOUNDED, to, filters),
                        )


@kernel(PARALLEL, ADDRESS, FLOATS, FLOATS, GEOMETRY, INTEGER, MATRIX, MATRIX, FLOATS)
def weight_gradient(microkernel, x, dy, g, images, planes, sums, dw):
    """dw (R, S, C, K) from x (N, H, W, C) and dy (N, P, Q, K), all flat; planes and sums have a row per thread."""
    parts = planes.shape[0]
    if parts == 1:
        _weight_part(microkernel, x, dy, g, 0, images, planes[0], dw)
    else:
        for part in prange(parts):
            first, last = images * part // parts, images * (part + 1) // parts
            _weight_part(microkernel, x, dy, g, first, last, planes[part], sums[part])
        add_up(sums, dw)
