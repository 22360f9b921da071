"""A backend whose products run in a worker process; everything else runs on compiled kernels here."""

from abc import abstractmethod
from os import getpid
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.backend import gemm_sizes
from cnn.compiled.calls import NO, YES, leading_dimension
from cnn.compiled.lowering import CompiledLowering
from cnn.compiled.ops import CompiledOps
from cnn.compiled.parts import thread_count
from cnn.compiled.preparing import prepare
from cnn.errors import BackendUnavailable, CnnError, ShapeError
from cnn.product import Product
from cnn.terminal.printing import tell
from cnn.worker.arena import Arena
from cnn.worker.process import Program, Worker, WorkerDied

LARGEST_SIZE = 2**31 - 1
"""The worker's sizes are 32-bit numbers."""


class _Shared:
    """The worker that a backend shares with its private copies, for one product at a time; None until it answers."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.worker: Worker | None = None


class WorkerBackend(CompiledOps, CompiledLowering):
    """Sends each product to a worker that shares the memory of the arrays; a subclass says what the worker loads.

    If a worker ends in the middle of a product, a new one is started once and the product is repeated.
    """

    def __init__(self) -> None:
        """Starts the worker. Raises BackendUnavailable with its output if it does not start."""
        prepare()
        self._shared = _Shared()
        self._owner = getpid()
        policy = self.program().memory_policy
        try:
            self._arena = Arena()
            if policy is not None:
                self._arena.place(*policy)
        except (OSError, AttributeError) as error:
            raise BackendUnavailable(
                f"Backend {self.name!r} gets no memory to share with its worker process ({error}); it needs Linux, "
                "no limit on address space, and permission to use the NUMA nodes that its options name."
            ) from error
        try:
            self._worker = self._started()
        except WorkerDied as error:
            raise BackendUnavailable(f"Backend {self.name!r} cannot start: {error}") from error

    @property
    def _worker(self) -> Worker | None:
        return self._shared.worker

    @_worker.setter
    def _worker(self, worker: Worker | None) -> None:
        self._shared.worker = worker

    @abstractmethod
    def program(self) -> Program:
        """What the worker loads. Raises BackendUnavailable."""

    def ready(self, worker: Worker) -> None:
        """Called for every worker that is started, to query and set what is needed before its first product.

        Raises BackendUnavailable.
        """

    def finished(self, product: Product, seconds: float, printed: str) -> None:
        """Called after each product, with the seconds that the library took and what it printed."""

    def first_product(self, worker: Worker) -> str:
        """What the library prints for a product of 1 x 1 matrices: many choose where to run at their first product."""
        x = self.zeros((3, 1))
        places = [number for element in x for number in (self._arena.offset(element), 1)]
        return worker.multiply(b"s", NO, NO, self.threads(), 1, 1, 1, *places, 0.0)[1]

    def threads(self) -> int:
        """The number of threads for the next product."""
        return thread_count()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        return self._arena.empty(shape, dtype)

    def gemm(
        self,
        a: Array,
        b: Array,
        *,
        out: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        m, n, k = gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        if out.dtype not in (np.float32, np.float64):
            raise ShapeError(f"Backend {self.name!r} multiplies float32 and float64, not {out.dtype}.")
        if not m or not n:
            return
        shared = [self._in_arena(x) for x in (a, b, out)]
        places = [number for x in shared for number in (self._arena.offset(x), leading_dimension.py_func(x))]
        if max(m, n, k, *places[1::2]) > LARGEST_SIZE:
            raise ShapeError(f"Backend {self.name!r} multiplies up to {LARGEST_SIZE:,} rows, not {m} x {n} x {k}.")
        record = (
            out.dtype.char.replace("f", "s").encode(),
            YES if transpose_a else NO,
            YES if transpose_b else NO,
            self.threads(),
            *(m, n, k),
            *places,
            1.0 if accumulate else 0.0,
        )
        before = out.copy() if accumulate else None
        if getpid() != self._owner:  # in a fork the lock may be held by a thread that is not there
            raise CnnError(
                f"Backend {self.name!r} was forked with its process, which shares its arrays; start processes by spawn."
            )
        with self._shared.lock:
            seconds, printed = self._multiplied(record, shared[2], before)
            self.finished(Product(m, n, k, transpose_a, transpose_b, accumulate, out.dtype), seconds, printed)
        if shared[2] is not out:
            out[...] = shared[2]

    def _in_arena(self, x: Array) -> Array:
        """x itself if the worker can see it, else a copy that it can see."""
        if self._arena.holds(x):
            return x
        staged = self._arena.empty(x.shape, x.dtype)
        np.copyto(staged, x)
        return staged

    def _started(self) -> Worker:
        worker = Worker(self.program(), self._arena)
        self.ready(worker)
        return worker

    def _multiplied(self, record: tuple[Any, ...], out: Array, before: Array | None) -> tuple[float, str]:
        """Has the worker compute one product, a new one if it dies; `before` is the content of out if it is needed."""
        try:
            return self._once(record)
        except WorkerDied as error:
            tell(f"cnn: {error} The product is repeated in a new one.")
        if before is not None:
            np.copyto(out, before)
        return self._once(record)

    def _once(self, record: tuple[Any, ...]) -> tuple[float, str]:
        # Only a worker that has answered is used again.
        worker, self._worker = self._worker or self._started(), None
        answer = worker.multiply(*record)
        self._worker = worker
        return answer
