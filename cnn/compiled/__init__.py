"""Kernels compiled by Numba for this CPU, and the classes that run them with one BLAS."""

import atexit
import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numba

from cnn.errors import BackendUnavailable
from cnn.system.cache import cache_folder

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


def writable_folder(base: Path) -> Path:
    """A folder in `base` for the machine code of these sources, or a temporary one if `base` cannot be written.

    The name is a digest of all sources: Numba notices a change in a kernel's own file, but not in others it uses.
    """
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    digest = hashlib.sha256(sources + numba.__version__.encode()).hexdigest()[:16]
    folder = base / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    temporary = TemporaryDirectory(prefix="cnn-kernels-")
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name, digest)
    folder.mkdir()
    return folder


# Where a function is cached is decided when it is decorated, which the imports below do.
_before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
FOLDER = writable_folder(Path(_before or cache_folder() / "kernels"))
"""Where the machine code is kept."""
numba.config.CACHE_DIR = str(FOLDER)  # type: ignore[attr-defined]
try:
    from cnn.compiled import direct, im2col, ops, winograd
finally:
    numba.config.CACHE_DIR = _before  # type: ignore[attr-defined]

__all__ = ["FOLDER", "direct", "im2col", "ops", "winograd", "writable_folder"]
