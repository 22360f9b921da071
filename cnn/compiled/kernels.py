"""Gets every kernel ready at once, from Numba's cache or compiled for this CPU, and times what runs inside them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any

from cnn.backend import Clock
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
