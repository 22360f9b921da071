"""Products of matrices in bfloat16: both factors are rounded and laid out once, then multiplied tile by tile."""

import numpy as np
from numba import njit, prange

from cnn.arrays import Array, Buffers
from cnn.compiled import rounding
from cnn.compiled.direct import ACROSS, UNBOUNDED
from cnn.compiled.dotproduct import address
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.microkernel import ROWS, tile
from cnn.compiled.parts import ADDRESS, FLAG, FLOATS, INNER, INTEGER, PARALLEL, parts_for, parts_for_flops, start_of
from cnn.compiled.rounding import PAIR_ROWS
from cnn.compiled.vectors import WIDTH

_NOTHING = np.zeros(ACROSS, np.float32)


@njit(**INNER)
def _part(microkernel, left, down, along, panels, m, n, k, accumulate, zeros, out, first, last):
    strips = -(-m // ROWS)
    for unit in range(first, last):
        number, strip = unit // strips, unit % strips
        row, end, column = m * strip // strips, m * (strip + 1) // strips, number * ACROSS
        across = min(n - column, ACROSS)
        vectors = -(-across // WIDTH)
        to = np.intp(out.ctypes.data) + 4 * (row * n + column)
        start = to if accumulate else np.intp(zeros.ctypes.data)
        start_row = 4 * n if accumulate else 0
        tile(
            microkernel,
            *(end - row, vectors, across - (vectors - 1) * WIDTH),
            *(np.intp(left) + row * down, down, 0, along, 1, k),
            *(np.intp(panels.ctypes.data) + 4 * number * panels.shape[1], 4 * ACROSS),
            *(start, start_row, UNBOUNDED),
            *(to, 4 * n),
        )


@rare_kernel(PARALLEL, ADDRESS, ADDRESS, *[INTEGER] * 2, PAIR_ROWS, *[INTEGER] * 3, FLAG, FLOATS, FLOATS, INTEGER)
def _multiply(microkernel, left, down, along, panels, m, n, k, accumulate, zeros, out, parts):
    """out (m, n) = left (m, k) @ panels, or +=.

    `left` is an address; from row to row of it are `down` bytes, from pair to pair `along`.
    """
    count = panels.shape[0] * -(-m // ROWS)
    for part in prange(parts):
        first, last = np.intp(start_of(part, parts, count)), np.intp(start_of(part + 1, parts, count))
        _part(microkernel, left, down, along, panels, m, n, k, accumulate, zeros, out, first, last)


def product(
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
    """out (M, N) = or += op(a) (M, K) @ op(b) (K, N) with both rounded; all contiguous.

    Each is float32 or SHORT.
    """
    results = rounding.float32_for(out, scratch, kept=accumulate)
    (m, n), k = out.shape, a.shape[0 if transpose_a else 1]
    pairs = -(-k // 2)
    panels = rounding.right_panels(b, k, n, 2 * pairs, ACROSS, scratch, transposed=transpose_b)
    if transpose_a:
        # Pairs of rows side by side, so that no matrix is transposed: a row of the factor is a column of pairs.
        left = scratch.get("left pairs", (1, pairs * m), np.uint32)
        rounding.panels(a.reshape(-1), 1, k, m, m, left, 1)
        down, along = 4, 4 * m
    else:
        left = scratch.get("left rows", (m * 2 * pairs,), np.uint16)
        rounding.rows(a.reshape(-1), m, k, left, parts_for(a.size))
        down, along = 4 * pairs, 4
    if multiplies:
        parts = parts_for_flops(2 * m * n * k, most=len(panels) * -(-m // ROWS))
        _multiply(
            *(address(), np.uintp(left.ctypes.data), down, along, panels, m, n, k, accumulate, _NOTHING),
            *(results.reshape(-1), parts),
        )
    rounding.store(results, out)
