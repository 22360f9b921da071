"""Decides how many threads a run gets, and sets the BLAS and OpenMP pools of the process to this number."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from threadpoolctl import ThreadpoolController, threadpool_info

from cnn.config import whole
from cnn.errors import UsageError
from cnn.system.affinity import allowed_cpus
from cnn.system.environment import count as count_of
from cnn.system.machine import system_text

VARIABLE = "CNN_NUM_THREADS"

NUMBA_VARIABLE = "NUMBA_NUM_THREADS"
"""The number of threads of Numba's pool, on which the compiled kernels run; it cannot be raised later."""

OPENMP_VARIABLE = "OMP_NUM_THREADS"
"""What other programs set for all libraries: joblib in its processes, batch systems, users."""

_HELD_AT_ONE: set[str] = set()


@dataclass(frozen=True)
class ThreadBudget:
    """How many threads a run gets (`count`), and why: allowed CPUs, cgroup quota in CPUs, and the request.

    The quota applies to all `processes` together. `pool` is NUMBA_NUM_THREADS, None if it is not set; `openmp` is
    OMP_NUM_THREADS, None if it is not set or something else was requested.
    """

    affinity: int
    quota: float | None
    requested: int | None
    count: int
    processes: int = 1
    pool: int | None = None
    openmp: int | None = None

    def describe(self) -> str:
        """One line: the count, whether it is less than requested, and the limits."""
        quota = "no cgroup quota" if self.quota is None else f"cgroup quota {self.quota:g} CPUs"
        if self.quota is not None and self.processes > 1:
            quota += f" for {self.processes} processes"
        pool = "" if self.pool is None else f", {NUMBA_VARIABLE} {self.pool}"
        openmp = "" if self.openmp is None else f", {OPENMP_VARIABLE} {self.openmp}"
        limits = f"affinity {self.affinity}, {quota}{pool}{openmp}"
        if self.requested is None:
            return f"{in_words(self.count)} ({limits})"
        if self.requested == self.count:
            return f"{in_words(self.count)} (as requested: {limits})"
        return f"{in_words(self.count)} (of {self.requested} requested: {limits})"


@dataclass(frozen=True)
class LoadedLibrary:
    """One BLAS or OpenMP library in the process; `api` is openblas, mkl, blis, flexiblas or openmp.

    `threads` is the most that a call from this thread would use, None if the library does not say.
    """

    filepath: str
    api: str
    version: str | None
    threads: int | None
    threading_layer: str | None
    architecture: str | None


def in_words(count: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{count} thread{'s' * (count != 1)}"


def affinity_count() -> int:
    """The number of CPUs that this process may run on; all CPUs if the system has no such set."""
    cpus = allowed_cpus()
    return len(cpus) if cpus is not None else os.cpu_count() or 1


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """The quota of the process in CPUs, None without a limit; reads `proc` and `sys` under `root`.

    All groups from the process's own up to the top count, because a parent's quota also applies to its children.
    """
    quotas = []
    for folder in _cpu_groups(root):
        limit, period = _quota_and_period(folder)
        # "max" in version 2 and -1 in version 1 mean no limit.
        if limit.isdecimal() and period.isdecimal() and int(limit) and int(period):
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def budget(requested: int | None = None, processes: int = 1) -> ThreadBudget:
    """The threads a run gets: `requested`, else CNN_NUM_THREADS, else OMP_NUM_THREADS, else all that are available.

    It is never more than that. joblib sets OMP_NUM_THREADS in its processes, so that they share the CPUs.

    `processes` is how many processes on this host work together: they share the quota, and also all CPUs if they
    cannot be restricted to their own CPUs.

    A fractional quota is rounded down, but never below 1: threads that spin at a barrier use up quota like those that
    work, and a throttled thread keeps all others waiting. Raises UsageError if the request or variable is not a whole
    number of at least 1.
    """
    requested = count_of(VARIABLE) if requested is None else whole(requested, "The number of threads")
    affinity, quota, pool = affinity_count(), cgroup_quota(), _number_in(NUMBA_VARIABLE)
    most = affinity if allowed_cpus() is not None else max(1, affinity // processes)
    if quota is not None:
        most = max(1, min(most, int(quota / processes)))
    if pool is not None:
        most = min(most, pool)
    openmp = _number_in(OPENMP_VARIABLE) if requested is None else None
    count = min(most, requested or openmp or most)
    return ThreadBudget(affinity, quota, requested, count, processes, pool, openmp)


def measurable(count: int) -> int:
    """The count, to measure with exactly that many threads. Raises UsageError if a run cannot get them."""
    available = budget(count)
    if available.count < count:
        raise UsageError(f"--threads {count} cannot be measured here: {available.describe()}.")
    return count


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Sets every BLAS, OpenMP and kernel pool of the process to `count` threads, and restores them afterwards.

    Enter it once around a run, after the backend is loaded and in the thread that computes: a library loaded later is
    not limited, MKL and OpenMP keep a separate number for each calling thread, and OpenBLAS accepts settings from one
    thread only. For MKL, this thread's number is restored, which hides later changes to its global number. A library
    that was built or set to be sequential stays so, and so does one that compiled kernels call from their own threads.
    Raises UsageError for a count below 1.
    """
    count = whole(count, "The number of threads that the pools are limited to")
    with ExitStack() as stack:
        pools = ThreadpoolController()
        stack.enter_context(pools.limit(limits=count))
        if _HELD_AT_ONE:
            stack.enter_context(pools.select(filepath=sorted(_HELD_AT_ONE)).limit(limits=1))
        kernels = sys.modules.get("cnn.compiled.parts")
        if kernels is not None:
            stack.enter_context(kernels.limited(count))
        yield


def hold_at_one(path: str) -> None:
    """Keeps the library at `path` at one thread from now on, even in `limit_threads`: its callers are threads."""
    held = ThreadpoolController().select(filepath=path)
    held.limit(limits=1)
    _HELD_AT_ONE.add(path)


def held_at_one() -> frozenset[str]:
    """The paths of the libraries that `hold_at_one` keeps at one thread."""
    return frozenset(_HELD_AT_ONE)


def libraries() -> list[LoadedLibrary]:
    """The BLAS and OpenMP libraries loaded in the process now, by file path.

    This function counts as a call: at its first call, MKL fixes its threading layer and loads the OpenMP runtime of
    that layer, so a backend must choose its layer before. The same applies to `limit_threads`.
    """
    loaded = [
        LoadedLibrary(
            filepath=found["filepath"],
            api=found["internal_api"],
            version=found["version"],
            threads=found["num_threads"],
            threading_layer=found.get("threading_layer"),
            architecture=found.get("architecture"),
        )
        for found in threadpool_info()
    ]
    return sorted(loaded, key=lambda library: library.filepath)


def openmp_warning(loaded: list[LoadedLibrary]) -> str | None:
    """One sentence if more than one OpenMP runtime is among the libraries `loaded`, else None."""
    runtimes = sorted(Path(library.filepath).name for library in loaded if library.api == "openmp")
    if len(runtimes) < 2:
        return None
    return (
        f"{len(runtimes)} OpenMP runtimes are in this process ({', '.join(runtimes)}), which is slow and can "
        "crash or hang; use packages or threading layers that share one."
    )


def _number_in(variable: str) -> int | None:
    """What another program's variable says, of a list for nested loops the first; None if it is no number above 0."""
    text = os.environ.get(variable, "").partition(",")[0].strip()
    return int(text) if text.isdecimal() and len(text) < 10 and int(text) else None


def _cpu_groups(root: Path) -> Iterator[Path]:
    """The folders of the process's own CPU group and of its parents, in all mounted hierarchies."""
    mounts = root / "sys/fs/cgroup"
    for line in system_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            # Version 2, which systems that also have version 1 mount one folder further down.
            tops = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mounts / controllers, mounts / "cpu"]
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        # In a container the path may lie outside of what is mounted; then only the top is its own.
        groups = [PurePosixPath()] if ".." in own.parts else [own, *own.parents]
        yield from (top / group for top in tops for group in groups)


def _quota_and_period(folder: Path) -> tuple[str, str]:
    """Microseconds of CPU time per period, and the period, as written there; empty if the files do not exist."""
    unified = system_text(folder / "cpu.max").split()
    if len(unified) == 2:
        return unified[0], unified[1]
    return (
        system_text(folder / "cpu.cfs_quota_us").strip(),
        system_text(folder / "cpu.cfs_period_us").strip(),
    )
