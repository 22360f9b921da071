"""Gets the kernels of networks in general ready at once, from Numba's cache or compiled for this CPU."""

import os
import subprocess
import sys
from functools import cache

from cnn.compiled import FOLDER
from cnn.compiled.kernels import KERNELS, announce


@cache
def prepare() -> None:
    """Compiles or loads all but rare kernels, once per process; reports on standard error if it has to compile."""
    helper = None
    for kernel in KERNELS:
        kernel.compile()
        if kernel.compiled.stats.cache_misses and not helper:
            announce()
            helper = _start_helper()
    if helper:
        helper.wait()


def compile_from_the_end() -> None:
    """Compiles the kernels in reverse order until it finds one in the cache."""
    for kernel in reversed(KERNELS):
        kernel.compile()
        if kernel.compiled.stats.cache_hits:
            break


def _start_helper() -> subprocess.Popen[bytes]:
    """A process that compiles from the other end into the same cache, because Numba compiles on one core only."""
    return subprocess.Popen(
        [sys.executable, "-c", "from cnn.compiled.preparing import compile_from_the_end as run; run()"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(FOLDER.parent), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
