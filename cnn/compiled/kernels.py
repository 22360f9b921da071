"""Kernels: compiled functions that Python calls, each for one list of argument types; their calls can be watched."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import numpy as np
from numba import njit, types
from numba.np.numpy_support import as_dtype

from cnn.compiled.store import STORE, StoredKernel
from cnn.system.timing import Stopwatch, now
from cnn.terminal.printing import tell

Watch = Callable[["Native", tuple[Any, ...]], Any]
"""Receives a call instead of the machine code, which it has to call itself."""

_local = threading.local()
_compiling = threading.RLock()


class Native:
    """Machine code that Python calls."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def __call__(self, *arguments: Any) -> Any:
        watch: Watch | None = getattr(_local, "watch", None)
        return self.compiled(*arguments) if watch is None else watch(self, arguments)


class Kernel(Native):
    """A function compiled by Numba for arguments of `kinds`."""

    def __init__(self, function: Callable[..., Any], kinds: tuple[Any, ...], options: dict[str, Any]) -> None:
        super().__init__(njit(**options)(function))
        self.compiled._cache = StoredKernel(function)
        self.kinds = kinds

    def compile(self) -> None:
        """Compiles it or reads it from the cache, unless it is ready; from then on it takes no other types."""
        with _compiling:  # several threads may need it at once
            if not self.compiled.signatures:
                self.compiled.compile(self.kinds)
                self.compiled.disable_compile()

    @property
    def description(self) -> Any:
        """Numba's description of the machine code."""
        return self.compiled.overloads[self.kinds].fndesc

    @cached_property
    def result(self) -> np.dtype[Any]:
        """The type of the result: a record for a tuple, an address for None."""
        kind = self.description.restype
        if kind == types.none:
            return np.dtype(np.uintp)
        members: Any = getattr(kind, "types", None)
        if members is None:
            return as_dtype(kind)
        return np.dtype([(f"f{k}", as_dtype(each)) for k, each in enumerate(members)], align=True)

    @cached_property
    def address(self) -> int:
        """The address of the machine code, in Numba's calling convention."""
        return self.function_at(self.description.llvm_func_name)

    def function_at(self, symbol: str) -> int:
        """The address of one of its compiled symbols."""
        return int(self.compiled.overloads[self.kinds].library.get_pointer_to_function(symbol))


class RareKernel(Kernel):
    """A kernel that few networks need: it is compiled, or read from the cache, when it is first called."""

    ready = False

    def __call__(self, *arguments: Any) -> Any:
        if not self.ready:
            self.compile()
        return super().__call__(*arguments)

    def compile(self) -> None:
        super().compile()
        if self.compiled.stats.cache_misses:
            announce()
        self.ready = True


@cache
def announce() -> None:
    """Says once per process, on standard error, that kernels are being compiled."""
    tell(f"compiling kernels for this CPU, {STORE.occasion}")


KERNELS: list[Kernel] = []
"""The kernels that networks in general need, so that they can be compiled or read from the cache at once."""
RARE: list[RareKernel] = []
"""The others."""


def rare_kernel(options: dict[str, Any], *kinds: Any) -> Callable[[Callable[..., Any]], RareKernel]:
    """Makes the decorated function a kernel that is compiled at its first call, for arguments of `kinds`."""

    def make(function: Callable[..., Any]) -> RareKernel:
        RARE.append(RareKernel(function, kinds, options))
        return RARE[-1]

    return make


def kernel(options: dict[str, Any], *kinds: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Makes the decorated function a kernel for arguments of `kinds`."""

    def make(function: Callable[..., Any]) -> Kernel:
        KERNELS.append(Kernel(function, kinds, options))
        return KERNELS[-1]

    return make


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Passes the kernel calls of this thread within the block to `watch`."""
    before = getattr(_local, "watch", None)
    _local.watch = watch
    try:
        yield
    finally:
        _local.watch = before


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Times the kernel calls of this thread within the block."""
    stopwatch = Stopwatch()

    def run(native: Native, arguments: tuple[Any, ...]) -> Any:
        started = now()
        result = native.compiled(*arguments)
        stopwatch.seconds += now() - started
        return result

    with watched(run):
        yield stopwatch
