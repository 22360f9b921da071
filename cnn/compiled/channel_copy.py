"""Compiled copies of some channels of all pixels, as concatenations and their gradients need."""

from typing import Any

import numpy as np
from numba import njit, prange

from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import FLOATS, INNER, INTEGER, PARALLEL, start_of

U = np.uintp


@njit(**INNER)
def _copy_part(x: Any, out: Any, width: int, start: int, wide: int, at: int, count: int, first: int, last: int) -> None:
    """Rows first to last."""
    for row in range(first, last):
        source, target = x[row * width + start :], out[row * wide + at :]
        for c in range(count):
            target[c] = source[c]


@rare_kernel(PARALLEL, FLOATS, FLOATS, *[INTEGER] * 6)
def copy(x: Any, out: Any, width: int, start: int, wide: int, at: int, count: int, parts: int) -> None:
    """In each row, `count` elements from `start` of x's `width` to `at` of out's `wide`."""
    rows, sizes = U(x.size) // U(width), (U(width), U(start), U(wide), U(at), U(count))
    for part in prange(parts):
        _copy_part(x, out, *sizes, start_of(part, parts, rows), start_of(part + 1, parts, rows))
