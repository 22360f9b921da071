"""Depthwise convolution and its gradients: no columns, no products of matrices, nothing copied.

A thread owns a fixed range of units: an output row of one image in one block of channels, in the order image, block,
row. The gradient of the weights has a sum per thread, and these are added in order, so that the same number of threads
gives the same bits.
"""

import numpy as np
from numba import njit, prange, types

from cnn.compiled.elementproduct import add_products
from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import ADDRESS, FLAG, FLOATS, INNER, INTEGER, MATRIX, PARALLEL, add_up, start_of
from cnn.compiled.sliding import STEPS, TABLE
from cnn.compiled.vectors import WIDTH
from cnn.convolution import Convolution

ZERO, UNBOUNDED = np.float32(0), np.float32(-np.inf)

BLOCK = 256
"""Channels of a unit: enough for long loops, and few enough to divide a small image among threads."""
TOGETHER = 2 * WIDTH
"""Channels of the gradient of the weights at a time, all that `elementproduct` keeps in registers."""
CACHE_BYTES = 1 << 19
"""Bytes of x and dy that the gradient of the weights rereads: a quarter or half of current second-level caches."""


def height_of(convolution: Convolution) -> int:
    """Output rows of which x and dy are reread from the second-level cache."""
    return max(4, CACHE_BYTES // (4 * 2 * convolution.out[1] * convolution.filters))


@njit(**INNER)
def _correlate_part(code, x, w, bias, floor, y, g, channels, rows, tiles, first, last):
    pixel = 4 * channels
    line, kernel_line = g.width * pixel, g.kernel_columns * pixel
    blocks = (channels + BLOCK - 1) // BLOCK
    P = g.out_rows
    for unit in range(first, last):
        image, c, p = unit // (P * blocks), unit // P % blocks * BLOCK, unit % P
        count = min(BLOCK, channels - c)
        tap, terms, h = rows[p, 0], rows[p, 1], rows[p, 2]
        source = np.intp(x.ctypes.data) + (image * g.height + h) * line + 4 * c
        kernels = np.intp(w.ctypes.data) + tap * kernel_line + 4 * c
        target = np.intp(y.ctypes.data) + (image * P + p) * g.out_columns * pixel + 4 * c
        for k in range(tiles.shape[0]):
            q, outputs, s, beside, at = tiles[k, 0], tiles[k, 1], tiles[k, 2], tiles[k, 3], tiles[k, 4]
            add_products(
                code,
                *(outputs, count),
                *(source + at * pixel, g.beside * pixel, g.down * line, g.right * pixel, terms, beside),
                *(kernels + s * pixel, g.taps_down * kernel_line, g.taps_right * pixel),
                *(np.intp(bias.ctypes.data) + 4 * c, 0, floor),
                *(target + q * pixel, g.along * pixel),
            )


@rare_kernel(PARALLEL, ADDRESS, *[FLOATS] * 3, types.float32, FLOATS, STEPS, INTEGER, TABLE, TABLE, *[INTEGER] * 2)
def correlate(code, x, w, bias, floor, y, g, channels, rows, tiles, images, parts):
    """y (N, P, Q, C) = max(floor, sums of x (N, H, W, C) times w (R, S, C), plus bias (C,)), all flat.

    g, rows and tiles are a `Plan`.
    """
    count = images * g.out_rows * ((channels + BLOCK - 1) // BLOCK)
    if parts == 1:
        _correlate_part(code, x, w, bias, floor, y, g, channels, rows, tiles, 0, count)
    else:
        for part in prange(parts):
            first, last = count * part // parts, count * (part + 1) // parts
            _correlate_part(code, x, w, bias, floor, y, g, channels, rows, tiles, first, last)


@njit(**INNER)
def _weight_part(code, x, dy, g, height, rows, tiles, first, last, sums):
    """Output rows first to last, counted through all images, in pieces of `height`."""
    channels, P = g.filters, g.out_rows
    pixel = 4 * channels
    line, out_line = g.width * pixel, g.out_columns * pixel
    sums[:] = ZERO
    start = first
    while start < last:
        image = start // P
        end = min(start + height, last, (image + 1) * P)
        top, bottom = start - image * P, end - image * P
        for c in range(0, channels, TOGETHER):
            count = min(TOGETHER, channels - c)
            for r in range(rows.shape[0]):
                p, stop = max(top, rows[r, 0]), min(bottom, rows[r, 1])
                h = p * g.down + r * g.row_gap - g.top
                source = np.intp(x.ctypes.data) + (image * g.height + h) * line + 4 * c
                gradients = np.intp(dy.ctypes.data) + (image * P + p) * out_line + 4 * c
                for k in range(tiles.shape[0] if p < stop else 0):
                    s, taps, q, columns, at = tiles[k, 0], tiles[k, 1], tiles[k, 2], tiles[k, 3], tiles[k, 4]
                    to = np.intp(sums.ctypes.data) + (r * g.kernel_columns + s) * pixel + 4 * c
                    add_products(
                        code,
                        *(taps, count),
                        *(source + at * pixel, g.column_gap * pixel, g.down * line, g.right * pixel),
                        *(stop - p, columns, gradients + q * pixel, out_line, pixel),
                        *(to, pixel, UNBOUNDED, to, pixel),
                    )
        start = end


@rare_kernel(PARALLEL, ADDRESS, FLOATS, FLOATS, GEOMETRY, INTEGER, TABLE, TABLE, INTEGER, MATRIX, FLOATS)
def weight_gradient(code, x, dy, g, height, rows, tiles, count, sums, dw):
    """dw (R, S, C) from x (N, H, W, C) and dy (N, P, Q, C), all flat; sums has a row per thread.

    rows and tiles are `Meetings`; `count` is N * P, of which `height` rows at a time stay in the first-level cache.
    """
    parts = sums.shape[0]
    if parts == 1:
        _weight_part(code, x, dy, g, height, rows, tiles, 0, count, dw)
    else:
        for part in prange(parts):
            first, last = count * part // parts, count * (part + 1) // parts
            _weight_part(code, x, dy, g, height, rows, tiles, first, last, sums[part])
        add_up(sums, dw)


@njit(**INNER)
def _copy_part(narrow, wide, times, widen, first, last):
    """Channels first to last of all pixels, each of which is `times` channels of `wide`."""
    for i in range(first, last):
        if widen:
            for k in range(times):
                wide[i * times + k] = narrow[i]
        else:
            total = ZERO
            for k in range(times):
                total += wide[i * times + k]
            narrow[i] = total


@rare_kernel(PARALLEL, FLOATS, FLOATS, INTEGER, FLAG, INTEGER)
def repeat_channels(narrow, wide, times, widen, parts):
    """wide (N, H, W, C * times) = each channel of narrow (N, H, W, C) `times` times; else narrow = the sums of these.

    With it, several filters per channel become one filter for each of as many channels.
    """
    for part in prange(parts):
        first, last = start_of(part, parts, narrow.size), start_of(part + 1, parts, narrow.size)
        _copy_part(narrow, wide, np.uintp(times), widen, first, last)
