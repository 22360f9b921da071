"""Gets every kernel ready at once: compiled for this CPU the first time, read from Numba's cache from then on."""

import sys
from functools import cache

from cnn.compiled import KERNELS


@cache
def prepare() -> None:
    """Compiles or loads all kernels, once a process; says on standard error when it has to compile."""
    told = False
    for kernel, signature in KERNELS:
        kernel.compile(signature)
        if kernel.stats.cache_misses and not told:
            print("compiling kernels for this CPU, once", file=sys.stderr, flush=True)
            told = True
