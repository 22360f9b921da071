"""The triad of McCalpin's STREAM benchmark, for a calibration."""

from functools import partial

import numpy as np
from numba import prange

from cnn.compiled.kernels import Kernel
from cnn.compiled.parts import FLOATS, INTEGER, PARALLEL, start_of, thread_count
from cnn.system.timing import series

ELEMENTS = 1 << 24
"""The elements of each of three arrays, 64 MiB."""


def _triad(a, b, c, parts):
    """a = b + 3 c."""
    for part in prange(parts):
        for i in range(start_of(part, parts, len(a)), start_of(part + 1, parts, len(a))):
            a[i] = b[i] + np.float32(3) * c[i]


# Not in KERNELS, because only a calibration needs it.
triad = Kernel(_triad, (FLOATS, FLOATS, FLOATS, INTEGER), PARALLEL)


def triad_bytes_per_second(rounds: int = 10) -> float:
    """The best rate over `rounds`, three arrays counted as STREAM does (McCalpin 1995)."""
    triad.compile()
    a, b, c = (np.ones(ELEMENTS, np.float32) for _ in range(3))
    return 3 * a.nbytes / series(partial(triad, a, b, c, thread_count()), rounds).least
