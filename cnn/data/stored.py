"""Images that stay in a file: rows of a memory-mapped array, read when they are needed, in bounded memory."""

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.errors import DataError
from cnn.paths import reading

BLOCK = 32 << 20
"""Bytes that are read at a time, and mapped bytes that a process holds before it gives them back."""


class StoredImages:
    """Images (N, H, W, C): the `rows` of a memory-mapped array, all of them by default.

    Slices and lists of numbers give arrays in memory; `rows_at` gives others of the rows without reading any. A process
    holds at most some 32 MB of the file: what it has read longer ago, the system may have again.
    """

    ndim = 4

    def __init__(self, pixels: "np.memmap[Any, Any]", rows: npt.NDArray[np.int64] | None = None) -> None:
        self._pixels = pixels
        self.pixels: Array = pixels.view(np.ndarray)
        """The whole file, which is read where it is touched."""
        self.rows = np.arange(len(pixels)) if rows is None else rows
        self.shape = (len(self.rows), *pixels.shape[1:])
        self.dtype = pixels.dtype
        self._touched = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return int(self.dtype.itemsize * prod(self.shape[1:]))

    def __getitem__(self, key: Any) -> Array:
        rest: tuple[Any, ...] = ()
        if isinstance(key, tuple):
            key, *others = key
            rest = (slice(None), *others)
        chosen = np.atleast_1d(self.rows[key])
        found = self.pixels[chosen]
        self.touched(len(chosen))
        found = found[rest] if rest else found
        result: Array = found[0] if np.ndim(self.rows[key]) == 0 else found
        return result

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return self[:].astype(dtype or self.dtype, copy=False)

    def rows_at(self, indices: npt.NDArray[np.int64]) -> "StoredImages":
        """The images at `indices` (M,), none of them read."""
        return StoredImages(self._pixels, self.rows[indices])

    def touched(self, count: int) -> None:
        """Notes that so many images were read; gives the memory back to the system from time to time."""
        self._touched += count * self._row_bytes
        if self._touched > BLOCK:
            self._touched = 0
            mapped = _mapping(self._pixels)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                # Of a mapping that nobody writes to: the pages are read again from the file, or the system's cache.
                mapped.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        pixels = self._pixels
        place = (str(pixels.filename), pixels.offset, pixels.dtype.str, pixels.shape)
        return _reopened, (*place, self.rows)

    def __repr__(self) -> str:
        return f"StoredImages({self.shape}, {self.dtype}, {Path(str(self._pixels.filename)).name})"


Images = Array | StoredImages
"""Images (N, H, W, C), in memory or in a file."""


def stored(images: Any) -> StoredImages | None:
    """Images that a file holds and that nobody can write to through this array; None for all others."""
    if isinstance(images, StoredImages):
        return images
    readable = isinstance(images, np.memmap) and images.mode == "r" and images.ndim == 4
    whole = (
        readable and images.flags.c_contiguous and images.filename is not None and isinstance(images.base, mmap.mmap)
    )
    return StoredImages(images) if whole else None


def blocks(images: Images) -> Iterator[Array]:
    """The images in order, a few at a time."""
    each = max(1, BLOCK // max(1, images.nbytes // max(1, len(images))))
    for start in range(0, len(images), each):
        yield images[start : start + each]


def _mapping(pixels: Any) -> mmap.mmap | None:
    while pixels is not None and not isinstance(pixels, mmap.mmap):
        pixels = getattr(pixels, "base", None)
    return pixels


def _reopened(name: str, offset: int, dtype: str, shape: tuple[int, ...], rows: npt.NDArray[np.int64]) -> StoredImages:
    """The images of a copy in another process. Raises DataError if the file is not there, or is shorter."""
    with reading(name, "file of images", DataError):
        try:
            return StoredImages(np.memmap(name, np.dtype(dtype), "r", offset, shape), rows)
        except ValueError as error:
            raise DataError(f"{name} is not the file of images that it was ({error}); load the data anew.") from error
