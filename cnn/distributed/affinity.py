"""Divides the CPUs of a host among its processes, so that no two compute on the same one."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from cnn.system.machine import system_text

TOPOLOGY = Path("/sys/devices/system/cpu")


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


def cpus_text(cpus: Sequence[int]) -> str:
    """CPUs as text with ranges: "CPUs 0-3,8"."""
    runs = [[cpu for _, cpu in run] for _, run in groupby(enumerate(sorted(cpus)), key=lambda pair: pair[1] - pair[0])]
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"{'CPU' if len(cpus) == 1 else 'CPUs'} {text}"
