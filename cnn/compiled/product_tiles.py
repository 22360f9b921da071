"""Products of matrices in bfloat16 by tiles: both factors are rounded and laid out once, then multiplied."""

import numpy as np
from numba import njit, prange

from cnn.arrays import Array, Buffers
from cnn.compiled import rounding
from cnn.compiled.direct import UNBOUNDED, ceiling
from cnn.compiled.direct_tiles import whole
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import (
    ADDRESS,
    BYTES,
    FLAG,
    FLOATS,
    INNER,
    INTEGER,
    INTEGERS,
    PARALLEL,
    parts_for,
    parts_for_flops,
)
from cnn.compiled.rounding import PAIR_ROWS
from cnn.compiled.tileproduct import SIDE, SPACE, TERMS, configured, multiply, released
from cnn.precision import SHORT

PIECE, MANY = 16, 8
"""Steps of a panel that fit into a first-level cache, and strips from which on rereading them there pays."""

_NOTHING = np.zeros(SIDE, np.float32)
_ONE_PIECE = np.zeros(2, np.int64)


@njit(**INNER)
def _part(microkernel, left, panels, m, n, steps, length, table, accumulate, zeros, out, size, first, last, space):
    strips, row = ceiling(m, SIDE), (steps + 1) * TERMS * 2
    own = configured(microkernel, space)
    for done in range(0, steps, length):
        onto = accumulate or done > 0
        for unit in range(first, last):
            number, i = unit // strips, unit % strips * SIDE
            j = number * SIDE
            to = np.intp(out.ctypes.data) + size * (i * n + j)
            start = to if onto else np.intp(zeros.ctypes.data)
            start_row = 4 * n if onto else 0
            multiply(
                *(microkernel, own, min(SIDE, m - i), min(SIDE, n - j)),
                *(np.intp(left) + i * row + done * TERMS * 2, row),
                *(np.intp(table.ctypes.data), 1, min(length, steps - done)),
                *(np.intp(panels.ctypes.data) + 4 * (number * panels.shape[1] + done * TERMS // 2 * SIDE), 4 * SIDE),
                *(start, start_row, UNBOUNDED),
                *(to, size * n, size == 2),
            )
    released(microkernel, own)


@rare_kernel(PARALLEL, ADDRESS, ADDRESS, PAIR_ROWS, *[INTEGER] * 4, INTEGERS, FLAG, FLOATS, BYTES, INTEGER, PAIR_ROWS)
def _multiply(microkernel, left, panels, m, n, steps, length, table, accumulate, zeros, out, size, spaces):
    """out (m, n) = left @ panels, or +=. `left` is the address of m rows of TERMS more numbers than products.

    `length` steps are taken at a time. out is bytes, `size` for each number: 4 for float32, 2 for bfloat16, which only
    a product in one piece may have.
    """
    count, parts = panels.shape[0] * ceiling(m, SIDE), spaces.shape[0]
    if parts == 1:
        _part(microkernel, left, panels, m, n, steps, length, table, accumulate, zeros, out, size, 0, count, spaces[0])
    else:
        for part in prange(parts):
            first, last = count * part // parts, count * (part + 1) // parts
            _part(
                *(microkernel, left, panels, m, n, steps, length, table, accumulate, zeros, out, size),
                *(first, last, spaces[part]),
            )


def product(
    microkernel: int,
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
    """out (M, N) = or += op(a) (M, K) @ op(b) (K, N) with both rounded; all contiguous and none empty.

    Each is float32 or SHORT.
    """
    (m, n), k = out.shape, a.shape[0 if transpose_a else 1]
    terms, count, strips = whole(k), -(-n // SIDE), -(-m // SIDE)
    steps = terms // TERMS
    length = steps if strips < MANY else min(steps, PIECE)
    given = out
    if out.dtype == SHORT and (accumulate or length < steps):
        out = rounding.float32_for(given, scratch, kept=accumulate)
    panels = rounding.right_panels(b, k, n, terms, SIDE, scratch, transposed=transpose_b)
    # Tiles read whole rows, as many as fit into tiles. Rows a power of two apart would share places in caches.
    left = scratch.get("left rows", (strips * SIDE, terms + TERMS), np.uint16)
    if transpose_a:
        rounding.turned_rows(a.reshape(-1), k, m, left.view(np.uint32)[:m], parts_for(a.size))
    else:
        rounding.rows(a.reshape(-1), m, k, left[:m].reshape(-1), parts_for(a.size))
    if multiplies:
        parts = parts_for_flops(2 * m * n * k, most=count * strips)
        spaces = scratch.get("tile spaces", (parts, SPACE // 4), np.uint32)
        _multiply(
            *(microkernel, np.uintp(left.ctypes.data), panels, m, n, steps, length, _ONE_PIECE, accumulate, _NOTHING),
            *(out.reshape(-1).view(np.uint8), out.itemsize, spaces),
        )
    if out is not given:
        rounding.store(out, given)
