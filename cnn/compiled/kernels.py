"""Gets every kernel ready at once, from Numba's cache or compiled for this CPU, and times what runs inside them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any

from cnn.backend import Clock
from cnn.compiled import FOLDER, KERNELS


@cache
def prepare() -> None:
    """Compiles or loads all kernels, once a process; says on standard error when it has to compile."""
    helper = None
    for kernel, signature in KERNELS:
        kernel.compile(signature)
        if kernel.stats.cache_misses and not helper:
            print("compiling kernels for this CPU, once", file=sys.stderr, flush=True)
            helper = _start_helper()
    if helper:
        helper.wait()


def compile_from_the_end() -> None:
    """Compiles the kernels, the last one first, until it comes to one that is in the cache."""
    for kernel, signature in reversed(KERNELS):
        kernel.compile(signature)
        if kernel.stats.cache_hits:
            break


def _start_helper() -> subprocess.Popen[bytes]:
    """A process that works towards this one through the same cache, as Numba compiles on one core only."""
    return subprocess.Popen(
        [sys.executable, "-c", "from cnn.compiled.kernels import compile_from_the_end as run; run()"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(FOLDER.parent), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def timed() -> Iterator[Clock]:
    """Times every call of a kernel from Python within the block."""
    clock = Clock()
    kernels = {id(kernel): kernel for kernel, _ in KERNELS}
    found = [
        (module, name, value)
        for module in list(sys.modules.values())
        for name, value in list(vars(module).items())
        if id(value) in kernels
    ]
    for module, name, kernel in found:
        setattr(module, name, _timed(kernel, clock))
    try:
        yield clock
    finally:
        for module, name, kernel in found:
            setattr(module, name, kernel)


def _timed(kernel: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        started = perf_counter()
        result = kernel(*arguments)
        clock.seconds += perf_counter() - started
        return result

    return run
