"""Convolution as im2col + GEMM on tiles that stay in a core's cache, forward and both gradients.

A tile is some consecutive output rows, of one image or of several. Every thread owns a fixed range of tiles,
so that the same number of threads gives the same bits. Indices are flat and unsigned: signed ones carry a
wrap-around check that keeps the loops from being vectorised.
"""

import numpy as np
from numba import njit, prange, types

from cnn.compiled.calls import NO, YES, leading_dimension, sgemm
from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.kernels import kernel
from cnn.compiled.parts import ADDRESS, FLAG, FLOATS, INNER, INTEGER, MATRIX, PARALLEL, add_up

U = np.uintp
ZERO = np.float32(0)
FACTOR = types.Array(types.float32, 2, "A", readonly=True)


@njit(**INNER)
def _depth(g):
    """Elements under a window, R * S * C: the length of a row of columns."""
    return g.kernel_rows * g.kernel_columns * g.channels


@njit(**INNER)
def _lower(x, g, start, end, columns):
    """Columns ((end - start) * Q, R*S*C) of the output rows start..end, counted through all images."""
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
def _add_rows(columns, g, start, end, dx):
    """Adds the columns of the output rows start..end to the pixels of dx they came from."""
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
def _forward_part(blas, x, w, bias, relu, y, g, first, last, height, tile):
    Q, K, depth = g.out_columns, g.filters, _depth(g)
    for start in range(first, last, height):
        end = min(last, start + height)
        m = (end - start) * Q
        out = y.ctypes.data + U(start * Q * K * 4)
        _lower(x, g, start, end, tile)
        sgemm(blas, NO, NO, m, K, depth, tile.ctypes.data, depth, w.ctypes.data, K, ZERO, out, K)
        if len(bias):
            _finish(y, start * Q * K, m, K, bias, relu)


@kernel(PARALLEL, ADDRESS, *[FLOATS] * 3, FLAG, FLOATS, GEOMETRY, INTEGER, INTEGER, MATRIX)
def forward(blas, x, w, bias, relu, y, g, rows, height, columns):
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C, K), all flat; columns (threads, one tile's columns).

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
    Q, K, depth = g.out_columns, g.filters, _depth(g)
    keep = ZERO
    for start in range(first, last, height):
        end = min(last, start + height)
        gradients = dy.ctypes.data + U(start * Q * K * 4)
        m = (end - start) * Q
        _lower(x, g, start, end, tile)
        sgemm(blas, YES, NO, depth, K, m, tile.ctypes.data, depth, gradients, K, keep, total.ctypes.data, K)
        keep = np.float32(1)


@kernel(PARALLEL, ADDRESS, FLOATS, FLOATS, GEOMETRY, INTEGER, INTEGER, MATRIX, MATRIX, FLOATS)
def weight_gradient(blas, x, dy, g, rows, height, columns, sums, dw):
    """dw (R, S, C, K) from x and dy (N, P, Q, K), all flat; sums (threads, R*S*C*K), at most one thread per row."""
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
    P, Q, K, depth = g.out_rows, g.out_columns, g.filters, _depth(g)
    plane = g.height * g.width * g.channels
    for start in range(first * P, last * P, height):
        end = min(last * P, start + height)
        # Every image is cleared before its first row is added.
        for j in range(U(-(-start // P) * plane), U(-(-end // P) * plane)):
            dx[j] = ZERO
        gradients = dy.ctypes.data + U(start * Q * K * 4)
        m = (end - start) * Q
        sgemm(blas, NO, YES, m, depth, K, gradients, K, w.ctypes.data, K, ZERO, tile.ctypes.data, depth)
        _add_rows(tile, g, start, end, dx)


@kernel(PARALLEL, ADDRESS, FLOATS, FLOATS, GEOMETRY, INTEGER, INTEGER, MATRIX, FLOATS)
def data_gradient(blas, dy, w, g, images, height, columns, dx):
    """dx (N, H, W, C) from dy (N, P, Q, K) and w (R, S, C, K), all flat.

    A thread takes whole images, because two must not add to the same pixel.
    """
    parts = columns.shape[0]
    if parts == 1:
        _data_part(blas, dy, w, g, 0, images, height, columns[0], dx)
    else:
        for part in prange(parts):
            first, last = images * part // parts, images * (part + 1) // parts
            _data_part(blas, dy, w, g, first, last, height, columns[part], dx)


@kernel(PARALLEL, FLOATS, GEOMETRY, INTEGER, FLOATS, INTEGER)
def lower(x, g, rows, columns, parts):
    """columns (N * P * Q, R * S * C) from x (N, H, W, C), both flat; `rows` is N * P."""
    row = g.out_columns * _depth(g)
    for part in prange(parts):
        first, last = rows * part // parts, rows * (part + 1) // parts
        _lower(x, g, first, last, columns[first * row : last * row])


@kernel(PARALLEL, FLOATS, GEOMETRY, INTEGER, FLOATS, INTEGER)
def restore(columns, g, images, dx, parts):
    """dx (N, H, W, C) = the sum of the columns (N * P * Q, R * S * C) that came from each pixel, both flat."""
    P, plane, row = g.out_rows, g.height * g.width * g.channels, g.out_columns * _depth(g)
    for part in prange(parts):
        first, last = images * part // parts, images * (part + 1) // parts
        dx[first * plane : last * plane] = ZERO
        _add_rows(columns[first * P * row : last * P * row], g, first * P, last * P, dx)


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
