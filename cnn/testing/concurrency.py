"""Runs one operation in several threads at once, to find state that they share."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from cnn.backend import Backend
from cnn.testing.case import Arrays, Bound, Case
from cnn.testing.comparison import ContractViolation, compare

THREADS = 4
REPETITIONS = 250
PATIENCE = 0.5
"""How many threads run an operation at once; how often each runs it, and for how many seconds at most."""


def check_threads(backend: Backend, cases: Iterable[Case], seed: int = 0, repetitions: int = REPETITIONS) -> None:
    """Threads that run one case at once, each on arrays and scratch of its own, must not see one another's numbers.

    Of each operation the case with the largest results runs, as often as `repetitions` says or PATIENCE seconds allow.
    Python is told to change threads all the time; no thread waits for another, so that they meet at every point of a
    call sooner or later, and one that is interrupted between writing and reading shared memory finds the others' there.
    """
    largest: dict[str, Case] = {}
    for case in cases:
        other = largest.setdefault(case.operation, case)
        if _elements(case) > _elements(other):
            largest[case.operation] = case
    dtype = backend.dtypes[0]
    for case in largest.values():
        where = f"{backend.name}: {case.operation} ({case.name}) in {np.dtype(dtype)}, {THREADS} threads at once"
        line = threading.Barrier(THREADS)
        workers = [_Worker(backend, case, dtype, seed + 1 + each, repetitions, line) for each in range(THREADS)]
        with _busy_switching():
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        for worker in workers:
            worker.judge(where)


class _Worker(threading.Thread):
    """Runs a case on arrays of its own again and again, and keeps every result."""

    def __init__(
        self,
        backend: Backend,
        case: Case,
        dtype: npt.DTypeLike,
        seed: int,
        repetitions: int,
        start_line: threading.Barrier,
    ) -> None:
        super().__init__()
        inputs = case.make(np.random.default_rng(seed), dtype)
        self.start_line = start_line
        self.expected = case.expected(inputs)
        self.allowed = case.allowed(inputs, self.expected, dtype)
        self.bound: Bound = case.bind(backend, inputs)
        self.repetitions = repetitions
        self.results: list[Arrays] = []
        self.error: Exception | None = None

    def run(self) -> None:
        self.start_line.wait()
        end = time.monotonic() + PATIENCE
        try:
            while len(self.results) < self.repetitions and time.monotonic() < end:
                self.bound.reset()
                self.bound.run()
                self.results.append(self.bound.results())
        except Exception as error:
            self.error = error

    def judge(self, where: str) -> None:
        """Raises ContractViolation for a wrong result, or a call that failed."""
        if self.error is not None:
            raise ContractViolation(f"{where}: {type(self.error).__name__}: {self.error}") from self.error
        for results in self.results:
            compare(where, results, self.expected, self.allowed)


@contextmanager
def _busy_switching() -> Iterator[None]:
    """Has Python change threads after a microsecond instead of five thousand."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _elements(case: Case) -> int:
    arrays = case.make(np.random.default_rng(0), np.float64)
    return sum(int(np.prod(shape)) for shape in case.outputs.values()) + sum(arrays[name].size for name in case.updated)
