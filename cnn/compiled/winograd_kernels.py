"""The compiled kernels of Winograd convolution: blocks of tiles through transforms and SGEMMs, in parallel.

Arrays are passed as addresses; a plane is (H, W, C) of one input or output image. The reasons for the blocks are
in `winograd`.
"""

import numpy as np
from numba import njit, prange, types

from cnn.compiled.calls import NO, YES, sgemm
from cnn.compiled.kernels import kernel
from cnn.compiled.parts import ADDRESS, INTEGER, PARALLEL
from cnn.compiled.transforms import (
    data_4,
    data_6,
    gradient_2_4,
    gradient_2_6,
    gradient_4_6,
    result_4_2,
    result_6_2,
    result_6_4,
)
from cnn.compiled.vectors import WIDTH

PAIR, PLANE = types.UniTuple(INTEGER, 2), types.UniTuple(INTEGER, 3)

LINE = 16
"""float32 elements of a cache line."""


@njit
def spacing(size):
    """Elements from one plane of `size` to the next: whole cache lines, and one more.

    Planes at powers of two would all map to the same few sets of the cache.
    """
    return (size + LINE - 1) // LINE * LINE + LINE


@njit
def _locate(pixels, side, image, height, width, row, column, stride, outside):
    """Fills the table with the addresses of side x side pixels from (row, column) on, `outside` beyond the image."""
    at = 0
    for i in range(row, row + side):
        for j in range(column, column + side):
            inside = i >= 0 and i < height and j >= 0 and j < width
            pixels[at] = image + (i * width + j) * stride if inside else outside
            at += 1


@njit
def _place(number, tile, rows, columns):
    """The image of a tile, and the first row and column of its results."""
    image, rest = divmod(number, rows * columns)
    row, column = divmod(rest, columns)
    return image, row * tile, column * tile


@njit
def _gather(source, plane, shift, tile, side, gradients, grid, first, count, target, zeros, pixels):
    """Transforms the tiles `first` to first + count of source (N, *plane) into planes (count, channels) at `target`.

    Data are side x side pixels that start `shift` before the results; gradients are tile x tile, at the results.
    """
    height, width, channels = plane
    stride = 4 * channels
    gap = 4 * spacing(count * channels)
    table = np.int64(pixels.ctypes.data)
    for t in range(count):
        image, row, column = _place(first + t, tile, *grid)
        if not gradients:
            row, column = row - shift[0], column - shift[1]
        read, start = tile if gradients else side, source + image * height * width * stride
        _locate(pixels, read, start, height, width, row, column, stride, zeros)
        for channel in range(0, channels, WIDTH):
            # The last vector ends with the last channel and repeats some channels.
            offset = 4 * min(channel, channels - WIDTH)
            to = target + t * stride + offset
            if gradients:
                if tile == 4:
                    gradient_4_6(table, offset, to, gap)
                elif side == 4:
                    gradient_2_4(table, offset, to, gap)
                else:
                    gradient_2_6(table, offset, to, gap)
            elif side == 4:
                data_4(table, offset, to, gap)
            else:
                data_6(table, offset, to, gap)


@njit
def _scatter(source, plane, tile, side, grid, first, count, bias, floor, target, waste, pixels):
    """Transforms planes (count, channels) at `source` back into tiles of target (N, *plane), with bias and floor."""
    height, width, channels = plane
    stride = 4 * channels
    gap = 4 * spacing(count * channels)
    table = np.int64(pixels.ctypes.data)
    for t in range(count):
        image, row, column = _place(first + t, tile, *grid)
        _locate(pixels, tile, target + image * height * width * stride, height, width, row, column, stride, waste)
        for channel in range(0, channels, WIDTH):
            offset = 4 * min(channel, channels - WIDTH)
            start = source + t * stride + offset
            if tile == 4:
                result_6_4(start, gap, table, offset, bias, floor)
            elif side == 4:
                result_4_2(start, gap, table, offset, bias, floor)
            else:
                result_6_2(start, gap, table, offset, bias, floor)


@njit
def _multiply(blas, largest, planes, transpose, m, n, k, a, b, beta, c):
    """c (m, n) = op(a) (m, k) @ b (k, n) + beta * c for every plane, in pieces of `largest` multiply-accumulates."""
    lda = m if transpose == YES else k
    step = min(n, max(LINE, largest // (m * k) // LINE * LINE))
    for plane in range(planes):
        left = np.uintp(a + 4 * plane * spacing(m * k))
        for j in range(0, n, step):
            right = np.uintp(b + 4 * (plane * spacing(k * n) + j))
            to = np.uintp(c + 4 * (plane * spacing(m * n) + j))
            sgemm(blas, transpose, NO, m, min(step, n - j), k, left, lda, right, n, beta, to, n)


@kernel(PARALLEL, ADDRESS, *[INTEGER] * 11)
def combine(blas, parts, matrix, rows, depth, sources, source, gap, line, target, target_line, columns):
    """target (rows, columns) = the sum over `sources` of matrix (rows, depth) @ source (depth, columns).

    Sources are `gap` elements apart, their rows `line`, the target's rows `target_line`. A part is a range of columns.
    """
    for part in prange(parts):
        first, last = columns * part // parts, columns * (part + 1) // parts
        for i in range(sources):
            beta, right = np.float32(i > 0), np.uintp(source + 4 * (i * gap + first))
            to = np.uintp(target + 4 * first)
            if first < last:
                sgemm(blas, NO, NO, rows, last - first, depth, matrix, depth, right, line, beta, to, target_line)


@kernel(PARALLEL, ADDRESS, *[INTEGER] * 6, PLANE, PAIR, PLANE, *[INTEGER] * 3, types.float32, *[INTEGER] * 4)
def convolve(
    blas,
    parts,
    block,
    largest,
    tile,
    side,
    images,
    plane,
    shift,
    out,
    source,
    weights,
    bias,
    floor,
    target,
    zeros,
    space,
    size,
):
    """target (N, *out) from source (N, *plane) and transformed weights; `size` bytes of work space for each part."""
    grid = (out[0] + tile - 1) // tile, (out[1] + tile - 1) // tile
    planes, tiles = side**2, images * grid[0] * grid[1]
    for part in prange(parts):
        pixels = np.empty(36, np.int64)
        first, last = tiles * part // parts, tiles * (part + 1) // parts
        waste = space + part * size
        data = waste + 4 * spacing(out[2])
        for start in range(first, last, block):
            count = min(block, last - start)
            results = data + 4 * planes * spacing(count * plane[2])
            _gather(source, plane, shift, tile, side, False, grid, start, count, data, zeros, pixels)
            _multiply(blas, largest, planes, NO, count, out[2], plane[2], data, weights, np.float32(0), results)
            _scatter(results, out, tile, side, grid, start, count, bias, floor, target, waste, pixels)


@kernel(PARALLEL, ADDRESS, *[INTEGER] * 6, PLANE, PAIR, PLANE, *[INTEGER] * 6)
def correlate(
    blas,
    parts,
    block,
    largest,
    tile,
    side,
    images,
    plane,
    shift,
    out,
    source,
    gradients,
    sums,
    zeros,
    space,
    size,
):
    """sums (parts, planes of (C, K)): each part's transformed gradient of the weights."""
    grid = (out[0] + tile - 1) // tile, (out[1] + tile - 1) // tile
    planes, tiles = side**2, images * grid[0] * grid[1]
    for part in prange(parts):
        pixels = np.empty(36, np.int64)
        first, last = tiles * part // parts, tiles * (part + 1) // parts
        data, total = space + part * size, sums + 4 * part * planes * spacing(plane[2] * out[2])
        for start in range(first, last, block):
            count = min(block, last - start)
            turned = data + 4 * planes * spacing(count * plane[2])
            _gather(source, plane, shift, tile, side, False, grid, start, count, data, zeros, pixels)
            _gather(gradients, out, shift, tile, side, True, grid, start, count, turned, zeros, pixels)
            beta = np.float32(start > first)
            _multiply(blas, largest, planes, YES, plane[2], out[2], count, data, turned, beta, total)
