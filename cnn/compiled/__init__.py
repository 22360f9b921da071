"""Kernels compiled by Numba for this CPU, and what runs them with one BLAS."""

import hashlib
import os
from pathlib import Path

import numba

from cnn.cache import cache_folder

# Numba's own pool ("workqueue") loses whole time slices when another process takes a core, and crashes when two
# threads enter it. libgomp does neither if a waiting thread spins for some ten microseconds only: its default spins
# away time slices that the thread it waits for may need, and with none at all each wait costs a wake-up.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
numba.config.THREADING_LAYER = "omp"  # type: ignore[attr-defined]


def _digest() -> str:
    """Of all sources: Numba notices a change in a kernel's own file, not in another one that it uses."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256(sources + numba.__version__.encode()).hexdigest()[:16]


# Where a function is cached is settled when it is decorated: on the import of the modules below.
_before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
numba.config.CACHE_DIR = str(Path(_before or cache_folder() / "kernels") / _digest())  # type: ignore[attr-defined]
try:
    from cnn.compiled import convolution, ops, winograd
finally:
    numba.config.CACHE_DIR = _before  # type: ignore[attr-defined]

KERNELS = [*convolution.KERNELS, *ops.KERNELS, *winograd.KERNELS]
"""Every kernel that Python calls, with the types it is compiled for."""
