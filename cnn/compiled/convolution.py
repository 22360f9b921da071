"""Convolution as im2col + GEMM on tiles that stay in a core's cache, forward and both gradients.

A tile is some rows of outputs, of one image or of several that follow each other. Every thread owns a fixed range of
tiles, so that the same number of threads gives the same bits. Indices are flat and unsigned: signed ones carry a
wrap-around check that keeps the loops from being vectorised.
"""

import numpy as np
from numba import njit, prange, types

from cnn.compiled.calls import sgemm
from cnn.lowering import Window

U = np.uintp
NO, YES = 111, 112


def geometry(window: Window, channels: int, filters: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """What the kernels know of a convolution: H W C R S P Q K, strides, top and left padding."""
    top, _, left, _ = window.padding
    return np.array(
        [*window.size, channels, *window.kernel, *window.out, filters, *window.stride, top, left], dtype=np.int64
    )


@njit(cache=True)
def _lower(x, g, start, end, columns):
    """Columns ((end - start) * Q, R*S*C) of the output rows start..end, counted through all images."""
    H, W, C, R, S, P, Q, down, right, top, left = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[8], g[9], g[10], g[11]
    run, size = U(S * C), S * C
    to = U(0)
    for row in range(start, end):
        image, p = row // P, row % P
        for q in range(Q):
            w = q * right - left
            inside = w >= 0 and w + S <= W
            for r in range(R):
                h = p * down + r - top
                if h < 0 or h >= H:
                    for j in range(run):
                        columns[to + U(j)] = np.float32(0)
                elif inside:
                    source = U(((image * H + h) * W + w) * C)
                    for j in range(run):
                        columns[to + U(j)] = x[source + U(j)]
                else:
                    base = ((image * H + h) * W + w) * C
                    for j in range(size):
                        column = w * C + j
                        value = np.float32(0)
                        if column >= 0 and column < W * C:
                            value = x[U(base + j)]
                        columns[to + U(j)] = value
                to += run


@njit(cache=True)
def _add_rows(columns, g, start, end, dx):
    """Adds the columns of the output rows start..end to the pixels of dx they came from."""
    H, W, C, R, S, P, Q, down, right, top, left = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[8], g[9], g[10], g[11]
    run = U(S * C)
    for row in range(start, end):
        image, p = row // P, row % P
        for r in range(R):
            h = p * down + r - top
            if h < 0 or h >= H:
                continue
            source = U((((row - start) * Q) * R + r) * S * C)
            stride = U(R * S * C)
            for q in range(Q):
                w = q * right - left
                first, last = max(0, -w), min(S, W - w)
                to = U(((image * H + h) * W + w + first) * C)
                origin = source + U(first * C)
                if first == 0 and last == S:
                    for j in range(run):
                        dx[to + U(j)] += columns[origin + U(j)]
                elif last > first:
                    for j in range(U((last - first) * C)):
                        dx[to + U(j)] += columns[origin + U(j)]
                source += stride


@njit(cache=True)
def _finish(y, first, count, filters, bias, relu):
    """Bias and ReLU on `count` rows of y from element `first`, while they are in the cache."""
    to = U(first)
    zero = np.float32(0)
    for _ in range(count):
        if relu:
            for k in range(U(filters)):
                y[to + U(k)] = max(y[to + U(k)] + bias[U(k)], zero)
        else:
            for k in range(U(filters)):
                y[to + U(k)] += bias[U(k)]
        to += U(filters)


@njit(cache=True, parallel=True)
def forward(blas, x, w, bias, relu, y, g, rows, height, columns):
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C, K), all flat; columns (threads, one tile's columns).

    bias has K elements, or none where neither bias nor ReLU is to be applied.
    """
    parts = columns.shape[0]
    Q, K = g[6], g[7]
    depth = g[3] * g[4] * g[2]
    for part in prange(parts):
        for start in range(rows * part // parts, rows * (part + 1) // parts, height):
            end = min(rows * (part + 1) // parts, start + height)
            m = (end - start) * Q
            out = y.ctypes.data + U(start * Q * K * 4)
            tile = columns[part]
            _lower(x, g, start, end, tile)
            sgemm(blas, NO, NO, m, K, depth, tile.ctypes.data, depth, w.ctypes.data, K, np.float32(0), out, K)
            if len(bias):
                _finish(y, start * Q * K, m, K, bias, relu)


@njit(cache=True, parallel=True)
def weight_gradient(blas, x, dy, g, rows, height, columns, sums, dw):
    """dw (R, S, C, K) from x and dy (N, P, Q, K), all flat; sums (threads, R*S*C*K)."""
    parts = columns.shape[0]
    Q, K = g[6], g[7]
    depth = g[3] * g[4] * g[2]
    for part in prange(parts):
        keep = np.float32(0)
        tile = columns[part]
        total = sums[part]
        for start in range(rows * part // parts, rows * (part + 1) // parts, height):
            end = min(rows * (part + 1) // parts, start + height)
            m = (end - start) * Q
            slopes = dy.ctypes.data + U(start * Q * K * 4)
            _lower(x, g, start, end, tile)
            sgemm(blas, YES, NO, depth, K, m, tile.ctypes.data, depth, slopes, K, keep, total.ctypes.data, K)
            keep = np.float32(1)
        if keep == np.float32(0):
            total[:] = np.float32(0)
    for j in prange(U(len(dw))):
        value = sums[0, j]
        for part in range(1, parts):
            value += sums[part, j]
        dw[j] = value


@njit(cache=True, parallel=True)
def data_gradient(blas, dy, w, g, images, height, columns, dx):
    """dx (N, H, W, C) from dy (N, P, Q, K) and w (R, S, C, K), all flat."""
    parts = columns.shape[0]
    H, W, C, P, Q, K = g[0], g[1], g[2], g[5], g[6], g[7]
    depth = g[3] * g[4] * C
    plane = H * W * C
    for part in prange(parts):
        tile = columns[part]
        # Whole images: two threads must not add to the same pixel.
        first, last = images * part // parts, images * (part + 1) // parts
        for start in range(first * P, last * P, height):
            end = min(last * P, start + height)
            for j in range(U(-(-start // P) * plane), U(-(-end // P) * plane)):
                dx[j] = np.float32(0)
            m = (end - start) * Q
            slopes = dy.ctypes.data + U(start * Q * K * 4)
            sgemm(blas, NO, YES, m, depth, K, slopes, K, w.ctypes.data, K, np.float32(0), tile.ctypes.data, depth)
            _add_rows(tile, g, start, end, dx)


@njit(cache=True, parallel=True)
def product(blas, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc, parts, by_rows):
    """c = op(a) @ op(b) + beta * c at addresses, in `parts` strips of rows or of columns of c, one a thread."""
    for part in prange(parts):
        if by_rows:
            start, end = m * part // parts, m * (part + 1) // parts
            left = a + U(start * 4 if transpose_a == YES else start * lda * 4)
            sgemm(
                blas, transpose_a, transpose_b, end - start, n, k, left, lda, b, ldb, beta, c + U(start * ldc * 4), ldc
            )
        else:
            start, end = n * part // parts, n * (part + 1) // parts
            right = b + U(start * ldb * 4 if transpose_b == YES else start * 4)
            sgemm(blas, transpose_a, transpose_b, m, end - start, k, a, lda, right, ldb, beta, c + U(start * 4), ldc)


_FLAT, _TILES, _SHAPE = types.float32[::1], types.float32[:, ::1], types.int64[::1]
_INT, _BOOL, _ADDRESS, _REAL = types.int64, types.boolean, types.uintp, types.float32
KERNELS = [
    (forward, (_ADDRESS, _FLAT, _FLAT, _FLAT, _BOOL, _FLAT, _SHAPE, _INT, _INT, _TILES)),
    (weight_gradient, (_ADDRESS, _FLAT, _FLAT, _SHAPE, _INT, _INT, _TILES, _TILES, _FLAT)),
    (data_gradient, (_ADDRESS, _FLAT, _FLAT, _SHAPE, _INT, _INT, _TILES, _FLAT)),
    (product, (_ADDRESS, *[_INT] * 5, *(_ADDRESS, _INT) * 2, _REAL, _ADDRESS, _INT, _INT, _BOOL)),
]
"""Every kernel that Python calls, with the types it is compiled for."""
