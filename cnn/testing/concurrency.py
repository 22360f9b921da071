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
"""How many threads run an operation at once; how often, and for at most how many seconds, each runs it."""


def check_threads(backend: Backend, cases: Iterable[Case], seed: int = 0, repetitions: int = REPETITIONS) -> None:
    """Checks that threads running one case at once, each on its own arrays and scratch, see no numbers of others.

    For each operation, the case with the largest results runs `repetitions` times or for PATIENCE seconds. Python is
    made to switch threads all the time, and no thread waits for another, so that sooner or later they are interrupted
    at every point of a call; a thread interrupted between writing and reading shared memory finds other numbers there.
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
    """Runs a case on its own arrays again and again, and keeps every result."""

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
        """Raises ContractViolation for a wrong result or a failed call."""
        if self.error is not None:
            raise ContractViolation(f"{where}: {type(self.error).__name__}: {self.error}") from self.error
        for results in self.results:
            compare(where, results, self.expected, self.allowed)


@contextmanager
def _busy_switching() -> Iterator[None]:
    """Makes Python switch threads after 1 microsecond instead of 5000."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _elements(case: Case) -> int:
    arrays = case.make(np.random.default_rng(0), np.float64)
    return sum(int(np.prod(shape)) for shape in case.outputs.values()) + sum(arrays[name].size for name in case.updated)
