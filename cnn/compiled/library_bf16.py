"""Products by a library's cblas_gemm_bf16bf16f32: both factors are rounded once, then multiplied in strips."""

import numpy as np
from numba import njit, prange

from cnn.arrays import Array, Buffers
from cnn.compiled.calls import NO, YES, sgemm
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import (
    ADDRESS,
    FLAG,
    INNER,
    INTEGER,
    MATRIX,
    PARALLEL,
    parts_for,
    parts_for_flops,
)
from cnn.compiled.rounding import SHORT_ROWS, to_bfloat16
from cnn.precision import SHORT

U = np.uintp


@njit(**INNER)
def _strip(blas, ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc, by_rows, start, end):
    # Its arguments are those of sgemm; only the elements of both factors have 2 bytes.
    if by_rows:
        left = a + U(start * 2 if ta == YES else start * lda * 2)
        sgemm(blas, ta, tb, end - start, n, k, left, lda, b, ldb, beta, c + U(start * ldc * 4), ldc)
    else:
        right = b + U(start * ldb * 2 if tb == YES else start * 2)
        sgemm(blas, ta, tb, m, end - start, k, a, lda, right, ldb, beta, c + U(start * 4), ldc)


@rare_kernel(PARALLEL, ADDRESS, SHORT_ROWS, SHORT_ROWS, FLAG, FLAG, FLAG, MATRIX, INTEGER)
def _multiply(blas, a, b, transpose_a, transpose_b, accumulate, c, parts):
    """c (M, N) = op(a) @ op(b), or += with accumulate, in `parts` strips of its longer side, one per thread."""
    m, n = c.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    ta, tb = YES if transpose_a else NO, YES if transpose_b else NO
    left, right, result = U(a.ctypes.data), U(b.ctypes.data), U(c.ctypes.data)
    size, beta = max(m, n), np.float32(accumulate)
    for part in prange(parts):
        start, end = size * part // parts, size * (part + 1) // parts
        _strip(blas, ta, tb, m, n, k, left, a.shape[1], right, b.shape[1], beta, result, n, m >= n, start, end)


def product(
    library: int,
    a: Array,
    b: Array,
    *,
    out: Array,
    scratch: Buffers,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
    multiplies: bool = True,
) -> None:
    """out (M, N) = or += op(a) (M, K) @ op(b) (K, N), with both rounded; all contiguous and none empty.

    a and b are float32 or SHORT, out is float32.

    `library` is the address of a cblas_gemm_bf16bf16f32 that runs on one thread. Without `multiplies` it only rounds.
    """
    factors = []
    for name, x in (("bfloat16 a", a), ("bfloat16 b", b)):
        if x.dtype != SHORT:
            rounded = scratch.get(name, x.shape, np.uint16)
            to_bfloat16(x.reshape(-1), rounded.reshape(-1), parts_for(x.size))
            x = rounded
        factors.append(x)
    if multiplies:
        depth = a.shape[0 if transpose_a else 1]
        parts = parts_for_flops(2 * out.size * depth, most=max(out.shape))
        _multiply(np.uintp(library), *factors, transpose_a, transpose_b, accumulate, out, parts)
