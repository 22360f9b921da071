"""Array types, and named buffers that are allocated once and reused at every step."""

from collections.abc import Callable
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cnn.errors import UsageError

# What a backend computes on: NumPy arrays for every CPU backend, another array type with the same interface for a
# backend that keeps its data elsewhere.
Array = npt.NDArray[Any]
Shape = tuple[int, ...]


MOST_VIEWS = 1000
"""Views of different shapes that a set of buffers keeps."""


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """A random generator made from a seed, or the one given. Raises UsageError for anything else."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The seed must be a whole number of at least 0 or a generator, not {seed!r}.") from error


class Allocator(Protocol):
    """What allocates new arrays: a backend."""

    def empty(self, shape: Shape, dtype: npt.DTypeLike = np.float32) -> Array:
        """A new array with arbitrary content."""
        ...


class Buffers:
    """Named arrays of one backend that keep their memory between calls.

    A buffer grows to the largest shape requested and is returned as a contiguous view, so that a smaller last batch
    needs no allocation. Its content is whatever the last user left.
    """

    def __init__(
        self, backend: Allocator, dtype: npt.DTypeLike = np.float32, on_move: Callable[[], None] = lambda: None
    ) -> None:
        """`on_move` is called whenever a buffer moves to other memory."""
        self.backend = backend
        self.dtype = np.dtype(dtype)
        self._on_move = on_move
        self._flat: dict[str, Array] = {}
        self._views: dict[tuple[str, Shape, object], Array] = {}
        self.constants: set[int] = set()
        """The addresses of arrays that nobody changes."""

    def get(self, name: str, shape: Shape, dtype: npt.DTypeLike | None = None) -> Array:
        """The buffer `name` as an array of `shape`; `dtype` defaults to `self.dtype`."""
        # A step requests about fifty buffers, so the views are kept too.
        view = self._views.get((name, shape, dtype))
        if view is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            view = self._views[name, shape, dtype] = self._view(name, shape, dtype)
        return view

    def made_of(
        self, source: Array, name: str, shape: Shape, dtype: npt.DTypeLike | None, make: Callable[[Array], None]
    ) -> Array:
        """The buffer `name`, filled by `make` from `source`.

        What is made of an array that nobody changes is kept in a buffer of its own, and made only once.
        """
        address = source.ctypes.data
        if address not in self.constants:
            found = self.get(name, shape, dtype)
            make(found)
            return found
        found = self.get(f"{name} {shape} of {address}", shape, dtype)
        if found.ctypes.data not in self.constants:
            make(found)
            self.constants.add(found.ctypes.data)  # only now: it may have been interrupted
        return found

    def forget(self, source: Array) -> None:
        """Frees all that was made of an array and kept."""
        ending = f" of {source.ctypes.data}"
        for name in [each for each in self._flat if each.endswith(ending)]:
            made = self._flat[name]
            # The memory goes last, so that an interruption leaves nothing that names it.
            self.constants.discard(made.ctypes.data)
            self._on_move()
            self.forget(made)
            self._views = {key: view for key, view in self._views.items() if key[0] != name}
            del self._flat[name]

    def keeps(self, source: Array) -> bool:
        """Whether nobody changes the array, so that what is made of it is kept."""
        return source.ctypes.data in self.constants

    def beginning(self, name: str, shape: Shape, dtype: npt.DTypeLike) -> Array:
        """The beginning of the memory of the buffer `name`, which has been requested, as an array of another type."""
        key = (name, shape, f"beginning as {np.dtype(dtype)}")
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._flat[name].view(dtype)[: prod(shape)].reshape(shape)
        return view

    def _view(self, name: str, shape: Shape, dtype: npt.DTypeLike | None) -> Array:
        kind = self.dtype if dtype is None else np.dtype(dtype)
        size = prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.size < size or flat.dtype != kind:
            if flat is not None:
                self._views = {key: view for key, view in self._views.items() if key[0] != name}
                self._on_move()
            flat = self._flat[name] = self.backend.empty((size,), kind)
        return flat[:size].reshape(shape)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies of views would no longer share memory, and the content is temporary: a copy starts empty.
        return type(self), (self.backend, self.dtype)

    def arrays(self) -> list[Array]:
        """The memory of each buffer as a one-dimensional array."""
        return list(self._flat.values())

    def nbytes(self) -> int:
        """Bytes held by all buffers."""
        return sum(flat.nbytes for flat in self.arrays())
