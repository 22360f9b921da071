"""How one kernel serves arrays of float32 and of bfloat16: what it reads is widened, what it computes is float32.

A kernel works on blocks that stay in the first-level cache. It computes those of a float32 array in the array itself,
and those of a bfloat16 array in a buffer of float32, which is rounded into the array once, when all is computed.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic, overload

from cnn.arrays import Array
from cnn.compiled.kernels import Kernel, RareKernel, kernel, rare_kernel
from cnn.compiled.parts import FLOATS, INNER, flat
from cnn.compiled.rounding import SHORTS, nearest
from cnn.precision import SHORT, shortened, widened

Result = TypeVar("Result")

STORED = "stored"
"""Among the argument types of a kernel: FLOATS in one kernel, SHORTS in its twin."""

LINE = 16
"""Numbers of float32 in a cache line."""
APART = 20 * LINE
"""Added between buffers: if they are nearly 4096 bytes apart, reading from one waits for what is written to another."""


class Twins:
    """A kernel for float32 arrays and a rare one for bfloat16; which of them runs, the first stored array decides."""

    def __init__(self, floats: Kernel, shorts: RareKernel, place: int) -> None:
        self.floats = floats
        self.shorts = shorts
        self._place = place

    def __call__(self, *arguments: Any) -> Any:
        return (self.shorts if arguments[self._place].dtype.char == SHORT.char else self.floats)(*arguments)


def twin_kernels(options: dict[str, Any], *kinds: Any, rare: bool = False) -> Callable[[Callable[..., Any]], Twins]:
    """Makes the decorated function a kernel twice: its arguments of kind STORED are FLOATS in one, SHORTS in the other.

    The one for SHORTS is compiled at its first call; with `rare`, so is the other.
    """

    def make(function: Callable[..., Any]) -> Twins:
        floats, shorts = ([each if kind is STORED else kind for kind in kinds] for each in (FLOATS, SHORTS))
        first = (rare_kernel if rare else kernel)(options, *floats)(function)
        return Twins(first, rare_kernel(options, *shorts)(function), kinds.index(STORED))

    return make


def alike(*arrays: Array) -> list[Array] | None:
    """The arrays as vectors, or None unless all are contiguous, writeable and of one type, float32 or SHORT."""
    kind = arrays[0].dtype.char
    return flat(*arrays, kinds=kind) if kind in "fH" else None


def in_float32(operation: Callable[..., Result], *arguments: Any, **numbers: Any) -> Result:
    """Calls the operation with float32 copies of all arrays of SHORT; what it changes in them is rounded back.

    The slow way, for whatever no kernel takes.
    """
    given = {id(x): x for x in arguments if isinstance(x, np.ndarray) and x.dtype == SHORT}
    if not given:
        return operation(*arguments, **numbers)
    copies = {key: widened(x) for key, x in given.items()}
    before = {key: copy.copy() for key, copy in copies.items()}
    result = operation(*(copies.get(id(x), x) for x in arguments), **numbers)
    for key, x in given.items():
        changed = copies[key].view(np.uint32) != before[key].view(np.uint32)
        if changed.any():  # else it may be an input that is read-only
            np.copyto(x, shortened(copies[key]), where=changed)
    return result


def _wide(typing_context: Any, x: Any):
    """An element of an array, float32 or bfloat16, as float32."""

    def shifted(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.zext(arguments[0], word), word(16)), ir.FloatType())

    def same(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return types.float32(x), shifted if x == types.uint16 else same


wide: Any = intrinsic(_wide)


def memory_for(x: Any, size: Any) -> Any:
    """Where a kernel computes up to `size` elements of x at a time: x itself, or a buffer of float32."""
    raise NotImplementedError


def place_in(x: Any, start: Any) -> Any:
    """Where in the memory of `memory_for` stands element `start` of x, the first of those computed at a time."""
    raise NotImplementedError


def read(x: Any, start: Any, end: Any, memory: Any) -> Any:
    """Brings elements start to end of x into the memory; returns their place in it."""
    raise NotImplementedError


def write(memory: Any, out: Any, start: Any, end: Any) -> None:
    """Brings elements start to end of out from the memory, where they were computed, rounding them."""
    raise NotImplementedError


_OPTIONS: Any = INNER


@overload(memory_for, jit_options=_OPTIONS)
def _memory_for(x, size):
    if x.dtype == types.float32:
        return lambda x, size: x
    return lambda x, size: _aligned(size)


@overload(place_in, jit_options=_OPTIONS)
def _place_in(x, start):
    if x.dtype == types.float32:
        return lambda x, start: start
    return lambda x, start: np.uintp(0)


@overload(read, jit_options=_OPTIONS)
def _read(x, start, end, memory):
    if x.dtype == types.float32:
        return lambda x, start, end, memory: start
    return lambda x, start, end, memory: _widen(x, start, end, memory)


@overload(write, jit_options=_OPTIONS)
def _write(memory, out, start, end):
    if out.dtype == types.float32:
        return lambda memory, out, start, end: None
    return lambda memory, out, start, end: _round(memory, out, start, end)


@njit(**INNER)
def _aligned(size: Any) -> Any:
    """A new array at the start of a cache line, so that no vector lies in two."""
    spare = np.empty(np.int64(size) + LINE + APART, np.float32)
    start = -np.int64(spare.ctypes.data) % (4 * LINE) // 4
    return spare[start : start + np.int64(size)]


@njit(**INNER)
def _widen(x: Any, start: Any, end: Any, memory: Any) -> Any:
    for i in range(end - start):
        memory[i] = wide(x[start + i])
    return np.uintp(0)


@njit(**INNER)
def _round(memory, out, start, end):
    for i in range(end - start):
        out[start + i] = nearest(memory[i])
