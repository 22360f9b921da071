"""The arrays of a backend: making them, copying them in and out of its memory, checking that they are finite."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array

ALIGNMENT = 64
"""Bytes of a cache line. MKL promises the same bits from run to run only for arrays aligned to it."""


class Memory:
    """Makes, copies and checks the arrays that all operations take."""

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """A new array with arbitrary content, aligned to ALIGNMENT bytes."""
        return _aligned(np.empty, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """A new array of zeros, aligned as `empty` is; a large one takes no memory before it is written to."""
        if type(self).empty is Memory.empty:
            return _aligned(np.zeros, shape, dtype)
        x = self.empty(shape, dtype)
        x.fill(0)
        return x

    def asarray(self, host: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """A copy of a host array in the backend's memory."""
        source = np.asarray(host, dtype)
        x = self.empty(source.shape, source.dtype)
        np.copyto(x, source)
        return x

    def to_numpy(self, x: Array) -> npt.NDArray[Any]:
        """A copy of x in host memory."""
        return np.array(x)

    def copy(self, host: npt.NDArray[Any], out: Array) -> None:
        """Overwrites out with a host array of its shape."""
        np.copyto(out, host)

    def all_finite(self, x: Array) -> bool:
        """Whether x holds neither NaN nor infinity."""
        return bool(np.isfinite(x).all())


def _aligned(make: Callable[..., Array], shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = make(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
