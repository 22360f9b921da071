"""How compiled kernels divide their work into parts, one per thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from numba import njit, types

from cnn.arrays import Array

SERIAL = 1 << 15
"""With fewer elements, starting the threads, about 3 us, costs more than it saves."""

PART_FLOPS = 250_000
"""The least work per thread in products: some microseconds, about the time to wake a spinning thread."""

INNER: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""How functions that only kernels call are compiled: without an entry from Python, which saves compile time."""

SINGLE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
PARALLEL: dict[str, Any] = {**SINGLE, "parallel": True}
"""How kernels are compiled. They release the interpreter's lock and divide by zero as NumPy does."""

INTEGER, FLAG, ADDRESS = types.int64, types.boolean, types.uintp
INTEGERS, FLOATS, BYTES = (types.Array(each, 1, "C") for each in (types.int64, types.float32, types.uint8))
MATRIX = types.Array(types.float32, 2, "C")
"""The argument types of kernels."""


_local = threading.local()


def thread_count() -> int:
    """Threads that a kernel called from this thread divides its work among."""
    # Asking Numba takes as long as running a small kernel.
    return getattr(_local, "count", 0) or int(numba.get_num_threads())


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Limits the threads of kernels called from this thread to `count`, at most Numba's; restores them after."""
    before = thread_count()
    try:
        _set_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        yield
    finally:
        _set_threads(before)


def _set_threads(count: int) -> None:
    numba.set_num_threads(count)
    _local.count = count


def parts_for(elements: int) -> int:
    """How many parts to divide work on `elements` elements into."""
    return 1 if elements < SERIAL else thread_count()


def parts_for_flops(flops: int, *, most: int) -> int:
    """How many parts, at most `most`, to divide products of `flops` floating-point operations into."""
    return 1 if flops < 2 * PART_FLOPS else max(1, min(thread_count(), flops // PART_FLOPS, most))


def flat(*arrays: Array, kinds: str = "f") -> list[Array] | None:
    """The arrays as vectors, or None unless all are contiguous, writeable and of one of `kinds`, as the kernels need.

    Kinds are NumPy's letters of types: "f" is float32, "H" SHORT.
    """
    vectors = []
    for x in arrays:
        if x.dtype.char not in kinds or not x.flags.carray:
            return None
        vectors.append(x if x.ndim == 1 else x.reshape(-1))
    return vectors


@njit(**INNER)
def add_up(sums: Any, out: Any) -> None:
    """out (K,) = the sum of the rows of sums, one per part, in order."""
    for j in range(np.uintp(len(out))):
        value = sums[0, j]
        for part in range(1, sums.shape[0]):
            value += sums[part, j]
        out[j] = value


@njit(**INNER)
def start_of(part: int, parts: int, count: int) -> Any:
    """The first of `count` pieces of work that belongs to `part`; it ends where the next part starts.

    Unsigned: Numba checks a signed index for wrap-around, and loops with the check are not vectorised.
    """
    return np.uintp(part) * np.uintp(count) // np.uintp(parts)
