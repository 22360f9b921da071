"""Memory shared by two processes: one anonymous file, mapped as a whole, from which arrays are allocated."""

import ctypes
import mmap
import os
import weakref
from bisect import insort
from collections import deque
from math import prod
from threading import Lock

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Shape
from cnn.worker import child

ROOM = 4
"""Address space as a multiple of the machine's memory: allocating and freeing leaves gaps."""


class Arena:
    """Arrays in whole pages of one anonymous file. Pages take up memory as soon as an array has them.

    A page is returned to the system when no array uses it any more, and all of them when the last process that maps
    the file ends, however it ends. Raises OSError if the system cannot provide such a file or the addresses.
    """

    def __init__(self) -> None:
        self._most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.bytes = ROOM * self._most
        self.descriptor = os.memfd_create("cnn-arrays")
        weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, self.bytes)
        self._memory = mmap.mmap(self.descriptor, self.bytes)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._lock = Lock()
        self._free = [(0, self.bytes)]
        self._used = 0
        # A finalizer may run in the middle of anything, so it takes no lock.
        self._returned: deque[tuple[int, int]] = deque()

    def empty(self, shape: Shape, dtype: npt.DTypeLike) -> Array:
        """A new array with arbitrary content. Raises MemoryError if there is no memory for it."""
        kind = np.dtype(dtype)
        needed = prod(shape) * kind.itemsize
        size = max(1, -(-needed // mmap.PAGESIZE)) * mmap.PAGESIZE
        start = self._take(size)
        try:
            # A process that writes to a page that the system cannot provide is ended by SIGBUS.
            os.posix_fallocate(self.descriptor, start, size)
        except OSError as error:
            self._returned.append((start, size))
            raise MemoryError(f"the system refuses {size:,} bytes of shared memory ({error.strerror})") from error
        block = np.frombuffer(self._memory, np.uint8, size, start)
        # Every view of the block, direct or indirect, keeps the block alive.
        weakref.finalize(block, self._give_back, start, size).atexit = False
        return block[:needed].view(kind).reshape(shape)

    def place(self, mode: int, nodes: int) -> None:
        """Places pages that are not yet written on the NUMA nodes of a mask (mbind(2)). Raises OSError."""
        libc, mask = ctypes.CDLL(None, use_errno=True), ctypes.c_ulong(nodes)
        start, length = ctypes.c_void_p(self.base), ctypes.c_ulong(self.bytes)
        if libc.syscall(child.MBIND, start, length, mode, ctypes.byref(mask), ctypes.c_ulong(64), 0):
            raise OSError(ctypes.get_errno(), f"mbind: {os.strerror(ctypes.get_errno())}")

    def offset(self, x: Array) -> int:
        """Bytes from the start of the file to the first element of x."""
        return int(x.ctypes.data) - self.base

    def holds(self, x: Array) -> bool:
        """Whether x lies in the file."""
        return 0 <= self.offset(x) < self.bytes

    def _take(self, size: int) -> int:
        with self._lock:
            self._collect()
            place = next((k for k, (_, length) in enumerate(self._free) if length >= size), None)
            if place is None or self._used + size > self._most:
                raise MemoryError(f"{size:,} bytes do not fit into what is left of the machine's memory")
            start, length = self._free.pop(place)
            if length > size:
                self._free.insert(place, (start + size, length - size))
            self._used += size
            return start

    def _give_back(self, start: int, size: int) -> None:
        self._memory.madvise(mmap.MADV_REMOVE, start, size)
        self._returned.append((start, size))

    def _collect(self) -> None:
        """Merges freed stretches with the free stretches next to them."""
        if not self._returned:
            return
        while self._returned:
            piece = self._returned.popleft()
            self._used -= piece[1]
            insort(self._free, piece)
        joined = self._free[:1]
        for start, size in self._free[1:]:
            before, length = joined[-1]
            if before + length == start:
                joined[-1] = (before, length + size)
            else:
                joined.append((start, size))
        self._free = joined
