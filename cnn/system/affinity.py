"""The CPUs that this process may use, whatever an OpenMP runtime binds its threads to."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Variables that make an OpenMP runtime bind the main thread, to one CPU as a rule, when it is loaded."""


_allowed: frozenset[int] = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
"""What the process was given; `import cnn` imports this module, so before a runtime is loaded."""


def allowed_cpus() -> frozenset[int] | None:
    """The CPUs that this process may use; None if the system has no such set."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return _allowed if _bound() else frozenset(os.sched_getaffinity(0))


def hold_to(cpus: Iterable[int]) -> None:
    """Restricts every thread of this process to `cpus`; threads started later inherit this."""
    global _allowed
    _allowed = frozenset(cpus)
    # NumPy's BLAS started threads when it was imported, and they do not follow the main thread.
    threads = [int(each.name) for each in Path("/proc/self/task").glob("[0-9]*")]
    for thread in threads or [0]:
        with suppress(ProcessLookupError):  # it has ended in the meantime
            os.sched_setaffinity(thread, _allowed)


@contextmanager
def inherited() -> Iterator[None]:
    """Processes that are started within the block may use all of `allowed_cpus`: they inherit this thread's CPUs."""
    if not _allowed or not _bound():
        yield
        return
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


def _bound() -> bool:
    return any(os.environ.get(name) for name in BINDING)
