"""Compiled copies of some channels of all pixels, as concatenations and their gradients need."""

from typing import Any

import numpy as np
from numba import njit, prange

from cnn.compiled.parts import INNER, INTEGER, PARALLEL, start_of
from cnn.compiled.widening import STORED, twin_kernels

U = np.uintp


@njit(**INNER)
def _copy_part(x: Any, out: Any, width: int, start: int, wide: int, at: int, count: int, first: int, last: int) -> None:
    """Rows first to last."""
    for row in range(first, last):
        source, target = x[row * width + start :], out[row * wide + at :]
        for c in range(count):
            target[c] = source[c]


@twin_kernels(PARALLEL, STORED, STORED, *[INTEGER] * 6, rare=True)
def copy(x: Any, out: Any, width: int, start: int, wide: int, at: int, count: int, parts: int) -> None:
    """In each row, `count` elements from `start` of x's `width` to `at` of out's `wide`."""
    rows, sizes = U(x.size) // U(width), (U(width), U(start), U(wide), U(at), U(count))
    for part in prange(parts):
        _copy_part(x, out, *sizes, start_of(part, parts, rows), start_of(part + 1, parts, rows))
