"""The triad of McCalpin's STREAM benchmark, for a calibration."""

from functools import partial

import numpy as np
from numba import njit, prange

from cnn.compiled.parts import PARALLEL, start_of, thread_count
from cnn.system.timing import series

ELEMENTS = 1 << 24
"""The elements of each of three arrays, 64 MiB."""


@njit(**PARALLEL)
def triad(a, b, c, parts):
    """a = b + 3 c."""
    for part in prange(parts):
        for i in range(start_of(part, parts, len(a)), start_of(part + 1, parts, len(a))):
            a[i] = b[i] + np.float32(3) * c[i]


def triad_bytes_per_second(rounds: int = 10) -> float:
    """The best rate over `rounds`, three arrays counted as STREAM does (McCalpin 1995)."""
    a, b, c = (np.ones(ELEMENTS, np.float32) for _ in range(3))
    return 3 * a.nbytes / series(partial(triad, a, b, c, thread_count()), rounds).least
