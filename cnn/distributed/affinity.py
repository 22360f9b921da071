"""Gives each process of a host its own CPUs, so that no two compute on the same one."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from cnn.system.machine import system_text

TOPOLOGY = Path("/sys/devices/system/cpu")


def allowed_cpus() -> frozenset[int] | None:
    """The CPUs that this process may use; None if the system has no such set."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def divide(allowed: Sequence[frozenset[int]], rank: int, topology: Path = TOPOLOGY) -> list[int]:
    """The CPUs of local rank `rank`, given the sets of CPUs that the ranks of the host are `allowed` to use.

    Ranks with the same set divide it in the order of packages and cores, so that hardware threads of a core stay
    together; ranks that their launcher has bound to separate sets keep them. If a set has more ranks than CPUs, each
    rank gets one CPU, in turns.
    """
    peers = [other for other, cpus in enumerate(allowed) if cpus == allowed[rank]]
    cpus = sorted(allowed[rank], key=lambda cpu: (*_core(cpu, topology), cpu))
    place, count = peers.index(rank), len(peers)
    if count > len(cpus):
        return [cpus[place % len(cpus)]]
    return sorted(cpus[place * len(cpus) // count : (place + 1) * len(cpus) // count])


def _core(cpu: int, topology: Path) -> tuple[int, int]:
    """(package, core) of a CPU; (0, 0) if the system does not say."""
    folder = topology / f"cpu{cpu}/topology"
    numbers = [system_text(folder / name).strip() for name in ("physical_package_id", "core_id")]
    package, core = (int(text) if text.isdecimal() else 0 for text in numbers)
    return package, core


def hold_to(cpus: Sequence[int]) -> None:
    """Restricts every thread of this process to `cpus`; threads started later inherit this."""
    # NumPy's BLAS started threads when it was imported, and they do not follow the main thread.
    threads = [int(each.name) for each in Path("/proc/self/task").glob("[0-9]*")]
    for thread in threads or [0]:
        with suppress(ProcessLookupError):  # it has ended in the meantime
            os.sched_setaffinity(thread, cpus)


def cpus_text(cpus: Sequence[int]) -> str:
    """CPUs as text with ranges: "CPUs 0-3,8"."""
    runs = [[cpu for _, cpu in run] for _, run in groupby(enumerate(sorted(cpus)), key=lambda pair: pair[1] - pair[0])]
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"{'CPU' if len(cpus) == 1 else 'CPUs'} {text}"
