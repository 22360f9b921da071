"""Convolution as im2col + GEMM on tiles that stay in a core's cache, forward and both gradients.

A tile is some consecutive output rows, of one image or of several. Groups have their columns and products one after
the other; the rows of kernels and outputs then have gaps, which BLAS allows. Every thread owns a fixed range of tiles,
so that the same number of threads gives the same bits. Indices are flat and unsigned: signed ones carry a
wrap-around check that keeps the loops from being vectorised.
"""

import numpy as np
from numba import njit, prange, types

from cnn.compiled.calls import NO, YES, leading_dimension, sgemm
from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.kernels import kernel, rare_kernel
from cnn.compiled.parts import ADDRESS, FLAG, FLOATS, INNER, INTEGER, MATRIX, PARALLEL, add_up

U = np.uintp
ZERO = np.float32(0)
FACTOR = types.Array(types.float32, 2, "A", readonly=True)


@njit(**INNER)
def _depth(g):
    """Elements under a window in the channels of a group, R * S * C / groups: the length of a row of columns."""
    return g.kernel_rows * g.kernel_columns * (g.channels // g.groups)


@njit(**INNER)
def _lower(x, g, group, start, end, columns):
    """Columns ((end - start) * Q, R*S*C/groups) of one group and the output rows start..end, through all images."""
    if g.groups > 1 or g.row_gap > 1 or g.column_gap > 1:
        _lower_pixels(x, g, group, start, end, columns)
        return
    H, W, C, R, S, P, Q = g.height, g.width, g.channels, g.kernel_rows, g.kernel_columns, g.out_rows, g.out_columns
    run = U(S * C)
    to = U(0)
    for row in range(start, end):
        image, p = row // P, row % P
        for q in range(Q):
            w = q * g.right - g.left
            first, last = max(0, -w), min(S, W - w)
            for r in range(R):
                h = p * g.down + r - g.top
                if h < 0 or h >= H or last <= first:
                    for j in range(run):
                        columns[to + j] = ZERO
                elif last - first == S:
                    source = U(((image * H + h) * W + w) * C)
                    for j in range(run):
                        columns[to + j] = x[source + j]
                else:
                    begin, stop = U(first * C), U(last * C)
                    source = U(((image * H + h) * W + w + first) * C)
                    for j in range(begin):
                        columns[to + j] = ZERO
                    for j in range(stop - begin):
                        columns[to + begin + j] = x[source + j]
                    for j in range(stop, run):
                        columns[to + j] = ZERO
                to += run


@njit(**INNER)
def _lower_pixels(x, g, group, start, end, columns):
    """The same where the channels under a kernel row do not lie next to each other: pixel by pixel."""
    H, W, C, P = g.height, g.width, g.channels, g.out_rows
    run = U(C // g.groups)
    shift = U(group) * run
    to = U(0)
    for row in range(start, end):
        image, p = row // P, row % P
        for q in range(g.out_columns):
            for r in range(g.kernel_rows):
                h = p * g.down + r * g.row_gap - g.top
                for s in range(g.kernel_columns):
                    w = q * g.right + s * g.column_gap - g.left
                    if h < 0 or h >= H or w < 0 or w >= W:
                        for j in range(run):
                            columns[to + j] = ZERO
                    else:
                        source = U(((image * H + h) * W + w) * C) + shift
                        for j in range(run):
                            columns[to + j] = x[source + j]
                    to += run


@njit(**INNER)
def _add_pixels(columns, g, group, start, end, dx):
    """Adds the columns of one group and the output rows start..end to the pixels of dx they came from."""
    H, W, C, P = g.height, g.width, g.channels, g.out_rows
    run = U(C // g.groups)
    shift = U(group) * run
    source = U(0)
    for row in range(start, end):
        image, p = row // P, row % P
        for q in range(g.out_columns):
            for r in range(g.kernel_rows):
                h = p * g.down + r * g.row_gap - g.top
                for s in range(g.kernel_columns):
                    w = q * g.right + s * g.column_gap - g.left
                    if h >= 0 and h < H and w >= 0 and w < W:
                        to = U(((image * H + h) * W + w) * C) + shift
                        for j in range(run):
                            dx[to + j] += columns[source + j]
                    source += run


@njit(**INNER)
def _add_rows(columns, g, group, start, end, dx):
    """The same; faster without groups and gaps."""
    if g.groups > 1 or g.row_gap > 1 or g.column_gap > 1:
        _add_pixels(columns, g, group, start, end, dx)
        return
    H, W, C, R, S, P, Q = g.height, g.width, g.channels, g.kernel_rows, g.kernel_columns, g.out_rows, g.out_columns
    stride = U(R * S * C)
    for row in range(start, end):
        image, p = row // P, row % P
        for r in range(R):
            h = p * g.down + r - g.top
            if h < 0 or h >= H:
                continue
            source = U((((row - start) * Q) * R + r) * S * C)
            for q in range(Q):
                w = q * g.right - g.left
                first, last = max(0, -w), min(S, W - w)
                if last > first:
                    to = U(((image * H + h) * W + w + first) * C)
                    origin = source + U(first * C)
                    for j in range(U((last - first) * C)):
                        dx[to + j] += columns[origin + j]
                source += stride


@njit(**INNER)
def _finish(y, first, count, filters, bias, relu):
    """Bias and ReLU on `count` rows of y from element `first`, while they are in the cache."""
    to = U(first)
    for _ in range(count):
        if relu:
            for k in range(U(filters)):
                y[to + k] = max(y[to + k] + bias[k], ZERO)
        else:
            for k in range(U(filters)):
                y[to + k] += bias[k]
        to += U(filters)


@njit(**INNER)
def _each_pixel(g):
    """Whether each window is one pixel of its own, so that an image is its own column matrix."""
    padded = g.top > 0 or g.bottom > 0 or g.left > 0 or g.over > 0
    return g.kernel_rows == 1 and g.kernel_columns == 1 and g.down == 1 and g.right == 1 and not padded


@njit(**INNER)
def _columns(x, g, group, start, end, tile):
    """The address of the columns of one group and the output rows start..end, and the elements from row to row."""
    if _each_pixel(g):
        first = start * g.out_columns * g.channels + group * (g.channels // g.groups)
        return x.ctypes.data + U(first * 4), g.channels
    _lower(x, g, group, start, end, tile)
    return tile.ctypes.data + U(0), _depth(g)


@njit(**INNER)
def _forward_part(blas, x, w, bias, relu, y, g, first, last, height, tile):
    Q, K, depth, across = g.out_columns, g.filters, _depth(g), g.filters // g.groups
    for start in range(first, last, height):
        end = min(last, start + height)
        m = (end - start) * Q
        out = y.ctypes.data + U(start * Q * K * 4)
        for group in range(g.groups):
            shift = U(group * across * 4)
            columns, line = _columns(x, g, group, start, end, tile)
            sgemm(
                *(blas, NO, NO, m, across, depth, columns, line),
                *(w.ctypes.data + shift, K, ZERO, out + shift, K),
            )
        if len(bias):
            _finish(y, start * Q * K, m, K, bias, relu)


@kernel(PARALLEL, ADDRESS, *[FLOATS] * 3, FLAG, FLOATS, GEOMETRY, INTEGER, INTEGER, MATRIX)
def forward(blas, x, w, bias, relu, y, g, rows, height, columns):
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C / groups, K), all flat; columns (threads, one tile's columns).

    bias has K elements, or is empty if neither bias nor ReLU is to be applied.
    """
    parts = columns.shape[0]
    if parts == 1:
        _forward_part(blas, x, w, bias, relu, y, g, 0, rows, height, columns[0])
    else:
        for part in prange(parts):
            first, last = rows * part // parts, rows * (part + 1) // parts
            _forward_part(blas, x, w, bias, relu, y, g, first, last, height, columns[part])


@njit(**INNER)
def _weight_part(blas, x, dy, g, first, last, height, tile, total):
    Q, K, depth, across = g.out_columns, g.filters, _depth(g), g.filters // g.groups
    keep = ZERO
    for start in range(first, last, height):
        end = min(last, start + height)
        gradients = dy.ctypes.data + U(start * Q * K * 4)
        m = (end - start) * Q
        for group in range(g.groups):
            shift = U(group * across * 4)
            columns, line = _columns(x, g, group, start, end, tile)
            sgemm(
                *(blas, YES, NO, depth, across, m, columns, line),
                *(gradients + shift, K, keep, total.ctypes.data + shift, K),
            )
        keep = np.float32(1)


@kernel(PARALLEL, ADDRESS, FLOATS, FLOATS, GEOMETRY, INTEGER, INTEGER, MATRIX, MATRIX, FLOATS)
def weight_gradient(blas, x, dy, g, rows, height, columns, sums, dw):
    """dw (R, S, C / groups, K) from x and dy (N, P, Q, K), all flat; sums (threads, its size), at most one per row."""
    parts = columns.shape[0]
    if parts == 1:
        _weight_part(blas, x, dy, g, 0, rows, height, columns[0], dw)
    else:
        for part in prange(parts):
            first, last = rows * part // parts, rows * (part + 1) // parts
            _weight_part(blas, x, dy, g, first, last, height, columns[part], sums[part])
        add_up(sums, dw)


@njit(**INNER)
def _data_part(blas, dy, w, g, first, last, height, tile, dx):
    P, Q, K, depth, across = g.out_rows, g.out_columns, g.filters, _depth(g), g.filters // g.groups
    plane = g.height * g.width * g.channels
    for start in range(first * P, last * P, height):
        end = min(last * P, start + height)
        gradients = dy.ctypes.data + U(start * Q * K * 4)
        m = (end - start) * Q
        if _each_pixel(g):
            C = g.channels
            for group in range(g.groups):
                shift, to = U(group * across * 4), dx.ctypes.data + U((start * Q * C + group * depth) * 4)
                sgemm(blas, NO, YES, m, depth, across, gradients + shift, K, w.ctypes.data + shift, K, ZERO, to, C)
            continue
        # Every image is cleared before its first row is added.
        for j in range(U(-(-start // P) * plane), U(-(-end // P) * plane)):
            dx[j] = ZERO
        for group in range(g.groups):
            shift = U(group * across * 4)
            sgemm(
                *(blas, NO, YES, m, depth, across, gradients + shift, K),
                *(w.ctypes.data + shift, K, ZERO, tile.ctypes.data, depth),
            )
            _add_rows(tile, g, group, start, end, dx)


@kernel(PARALLEL, ADDRESS, FLOATS, FLOATS, GEOMETRY, INTEGER, INTEGER, MATRIX, FLOATS)
def data_gradient(blas, dy, w, g, images, height, columns, dx):
    """dx (N, H, W, C) from dy (N, P, Q, K) and w (R, S, C / groups, K), all flat.

    A thread takes whole images, because two must not add to the same pixel.
    """
    parts = columns.shape[0]
    if parts == 1:
        _data_part(blas, dy, w, g, 0, images, height, columns[0], dx)
    else:
        for part in prange(parts):
            first, last = images * part // parts, images * (part + 1) // parts
            _data_part(blas, dy, w, g, first, last, height, columns[part], dx)


@rare_kernel(PARALLEL, FLOATS, GEOMETRY, INTEGER, FLOATS, INTEGER)
def lower(x, g, rows, columns, parts):
    """columns (N * P * Q, R * S * C) from x (N, H, W, C), both flat; `rows` is N * P."""
    row = g.out_columns * _depth(g)
    for part in prange(parts):
        first, last = rows * part // parts, rows * (part + 1) // parts
        _lower(x, g, 0, first, last, columns[first * row : last * row])


@rare_kernel(PARALLEL, FLOATS, GEOMETRY, INTEGER, FLOATS, INTEGER)
def restore(columns, g, images, dx, parts):
    """dx (N, H, W, C) = the sum of the columns (N * P * Q, R * S * C) that came from each pixel, both flat."""
    P, plane, row = g.out_rows, g.height * g.width * g.channels, g.out_columns * _depth(g)
    for part in prange(parts):
        first, last = images * part // parts, images * (part + 1) // parts
        dx[first * plane : last * plane] = ZERO
        _add_rows(columns[first * P * row : last * P * row], g, 0, first * P, last * P, dx)


@kernel(PARALLEL, FLOATS, INTEGER, INTEGER, INTEGER, FLAG, FLOATS, INTEGER)
def exchange(w, taps, channels, filters, turned, out, parts):
    """out (R, S, K, C) from w (R, S, C, K), both flat, rotated by 180 degrees if `turned`; `taps` is R * S."""
    C, K = U(channels), U(filters)
    for part in prange(parts):
        for tap in range(taps * part // parts, taps * (part + 1) // parts):
            source, to = U(tap) * C * K, U(taps - 1 - tap if turned else tap) * C * K
            for k in range(K):
                for c in range(C):
                    out[to + k * C + c] = w[source + c * K + k]


@njit(**INNER)
def _product_part(blas, ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc, by_rows, start, end):
    if by_rows:
        left = a + U(start * 4 if ta == YES else start * lda * 4)
        sgemm(blas, ta, tb, end - start, n, k, left, lda, b, ldb, beta, c + U(start * ldc * 4), ldc)
    else:
        right = b + U(start * ldb * 4 if tb == YES else start * 4)
        sgemm(blas, ta, tb, m, end - start, k, a, lda, right, ldb, beta, c + U(start * 4), ldc)


@kernel(PARALLEL, ADDRESS, FACTOR, FACTOR, FLAG, FLAG, FLAG, types.float32[:, :], INTEGER)
def product(blas, a, b, transpose_a, transpose_b, accumulate, c, parts):
    """c (M, N) = op(a) @ op(b), or += with accumulate, in `parts` strips of its longer side, one per thread."""
    m, n = c.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    ta, tb = YES if transpose_a else NO, YES if transpose_b else NO
    lda, ldb, ldc = leading_dimension(a), leading_dimension(b), leading_dimension(c)
    beta = np.float32(accumulate)
    left, right, result = U(a.ctypes.data), U(b.ctypes.data), U(c.ctypes.data)
    by_rows = m >= n
    size = max(m, n)
    if parts == 1:
        sgemm(blas, ta, tb, m, n, k, left, lda, right, ldb, beta, result, ldc)
    else:
        for part in prange(parts):
            start, end = size * part // parts, size * (part + 1) // parts
            _product_part(blas, ta, tb, m, n, k, left, lda, right, ldb, beta, result, ldc, by_rows, start, end)
