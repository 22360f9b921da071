"""The compiled sum of squares, in blocks of one size and one order: the number of threads does not change its bits."""

from typing import Any

import numpy as np
from numba import njit, prange, types

from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import FLOATS, INNER, INTEGER, PARALLEL

U = np.uintp
BLOCK = 4096
"""Numbers whose squares one thread adds up."""
DOUBLES = types.Array(types.float64, 1, "C")


@njit(**INNER)
def _squares(x: Any, first: int, last: int) -> Any:
    """The sum over first to last, as four sums of every fourth number."""
    one = two = three = four = 0.0
    whole = first + (last - first) // U(4) * U(4)
    for i in range(first, whole, U(4)):
        a, b, c, d = np.float64(x[i]), np.float64(x[i + U(1)]), np.float64(x[i + U(2)]), np.float64(x[i + U(3)])
        one += a * a
        two += b * b
        three += c * c
        four += d * d
    for i in range(whole, last):
        a = np.float64(x[i])
        one += a * a
    return (one + two) + (three + four)


@rare_kernel(PARALLEL, FLOATS, DOUBLES, INTEGER)
def squares(x: Any, sums: Any, parts: int) -> None:
    """sums = the sum of squares of each block of x."""
    size = U(x.size)
    if parts == 1:
        for block in range(sums.size):
            sums[block] = _squares(x, U(block) * U(BLOCK), min(U(block + 1) * U(BLOCK), size))
    else:
        for block in prange(sums.size):
            sums[block] = _squares(x, U(block) * U(BLOCK), min(U(block + 1) * U(BLOCK), size))
