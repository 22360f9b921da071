"""Kernels compiled by Numba for this CPU, and the classes that run them with one BLAS."""

import os
import sys

from cnn.errors import BackendUnavailable
from cnn.system.threads import NUMBA_VARIABLE, affinity_count

# Numba reads its number of threads once, when it is imported, and by default it is what this thread is bound to.
_given = os.environ.get(NUMBA_VARIABLE)
if _given is None and "numba" not in sys.modules:
    os.environ[NUMBA_VARIABLE] = str(affinity_count())
try:
    import numba
finally:
    if _given is None:
        os.environ.pop(NUMBA_VARIABLE, None)

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise BackendUnavailable(
        "NUMBA_DISABLE_JIT is set, so that no kernel can be compiled; unset it or choose the numpy backend."
    )

# Numba's own pool ("workqueue") loses whole time slices when another process takes a core, and crashes when two
# threads enter it. libgomp does neither if a waiting thread spins for only some ten microseconds: its default wastes
# time slices that the awaited thread may need, and without any spinning each wait costs a wake-up.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
numba.config.THREADING_LAYER = "omp"  # type: ignore[attr-defined]

# All kernels, so that `preparing` compiles them at once.
from cnn.compiled import direct, im2col, ops, winograd  # noqa: E402

__all__ = ["direct", "im2col", "ops", "winograd"]
