"""Records kernel calls as they are made and repeats them later by one call of machine code written for them."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakSet

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from cnn.compiled.kernels import Kernel, Native, watched
from cnn.instruments import Recording

_ADDRESS = ir.IntType(64)
_NAME = "repeat"
_numbers = count()

MOST = 10_000
"""Recordings of a process with machine code, which takes two memory maps: Linux allows 65,530 of these by default."""

Call = tuple[Kernel, tuple[Any, ...], npt.NDArray[Any]]
"""A kernel, its arguments, and a place for its result."""


class KernelRecording(Recording):
    """The kernel calls of a block, with their arguments: the same arrays, and the same numbers, every time."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._code: Native | None = None
        self._result: npt.NDArray[Any] | None = None
        """The result of the last call that returns anything."""

    @contextmanager
    def record(self) -> Iterator[None]:
        """Adds the kernel calls of this thread within the block."""

        def run(native: Native, arguments: tuple[Any, ...]) -> Any:
            assert isinstance(native, Kernel)
            place = np.zeros(1, native.result)
            self._calls.append((native, arguments, place))
            result = native.compiled(*arguments)
            if result is not None:
                self._result = place
            return result

        with watched(run):
            yield

    def prepare(self) -> bool:
        if self._code is None and len(_prepared) < MOST:
            # LLVM raises RuntimeError where the system gives it no memory.
            with suppress(RuntimeError, MemoryError):
                self._code = Native(_machine_code(self._calls))
                _prepared.add(self)
        return self._code is not None

    def repeat(self) -> Any:
        """Makes all calls again, once prepared. Raises MemoryError if a kernel finds no memory for its own arrays."""
        assert self._code is not None
        if self._code():
            raise MemoryError("A kernel found no memory for its sums; take a smaller batch or fewer threads.")
        return None if self._result is None else self._result.item()


_prepared: WeakSet[KernelRecording] = WeakSet()


@global_compiler_lock
def _machine_code(calls: list[Call]) -> Callable[[], int]:
    """A function that makes the calls in order up to the first that fails; returns its status, or 0."""
    convention = cpu_target.target_context.call_conv
    module = ir.Module(_NAME)
    module.triple = llvm.get_process_triple()
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), []), _NAME)
    builder = ir.IRBuilder(function.append_basic_block())
    error = np.zeros(1, np.uintp)
    for kernel, arguments, result in calls:
        description = kernel.description
        kind = convention.get_function_type(description.restype, description.argtypes)
        # First come the addresses of the result and of an error description, which is not read.
        values = [result.ctypes.data, error.ctypes.data]
        for each, argument in zip(kernel.kinds, arguments, strict=True):
            values += _words(each, argument)
        code = builder.inttoptr(_ADDRESS(kernel.address), kind.as_pointer())
        status = builder.call(code, [_constant(each, value) for each, value in zip(kind.args, values, strict=True)])
        with builder.if_then(builder.icmp_signed("!=", status, status.type(0)), likely=False):
            builder.ret(status)
    builder.ret(ir.IntType(32)(0))
    library = llvm.JITLibraryBuilder().add_ir(module).export_symbol(_NAME).link(_linker(), f"{_NAME}{next(_numbers)}")
    entry = ctypes.CFUNCTYPE(ctypes.c_int32)(library[_NAME])
    # The code is unloaded with the last reference to its library.
    entry.kept = library, error, calls  # type: ignore[attr-defined]
    return entry


@cache
def _linker() -> Any:
    """The only one of the process, because each takes more memory than everything it links."""
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True)
    return llvm.create_lljit_compiler(machine)


def _words(kind: Any, value: Any) -> list[Any]:
    """A value as Numba passes it: an array as owner, size, address, shape and strides; a tuple as its elements."""
    if isinstance(kind, types.Array):
        return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    if isinstance(value, tuple):
        return [word for each, element in zip(kind.types, value, strict=True) for word in _words(each, element)]
    return [value]


def _constant(kind: Any, value: Any) -> Any:
    if isinstance(kind, ir.PointerType):
        return _ADDRESS(int(value)).inttoptr(kind)
    return ir.Constant(kind, float(value) if isinstance(kind, ir.FloatType | ir.DoubleType) else int(value))
