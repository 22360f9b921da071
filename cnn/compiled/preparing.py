"""Gets the kernels of networks in general ready at once, from the cache or compiled for this CPU."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Lock

from cnn.compiled.forks import survive_forks
from cnn.compiled.kernels import KERNELS, announce
from cnn.compiled.store import STORE
from cnn.system.affinity import inherited
from cnn.terminal.printing import tell

_preparing = Lock()


def prepare() -> None:
    """Compiles or loads all but rare kernels, once per process; reports on standard error if it has to compile."""
    with _preparing:  # several threads may make their first backends at once
        _prepare()


@cache
def _prepare() -> None:
    survive_forks()
    helper = None
    for kernel in KERNELS:
        kernel.compile()
        if kernel.compiled.stats.cache_misses and not helper:
            told = STORE.trouble
            announce()
            helper = _start_helper()
    if helper:
        helper.wait()
        if STORE.trouble and not told:
            tell(f"the next start compiles again: {STORE.trouble}")


def compile_from_the_end(folder: str) -> None:
    """Compiles the kernels in reverse order into the folder, until it finds one that has been compiled."""
    STORE.folder = Path(folder)
    for kernel in reversed(KERNELS):
        kernel.compile()
        if kernel.compiled.stats.cache_hits:
            break


def _start_helper() -> subprocess.Popen[bytes]:
    """A process that compiles from the other end into the same folder, because Numba compiles on one core only."""
    code = "import sys; from cnn.compiled.preparing import compile_from_the_end as run; run(sys.argv[1])"
    with inherited():
        return subprocess.Popen(
            [sys.executable, "-c", code, str(STORE.folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
