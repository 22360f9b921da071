"""How much of the processors other work took during a measurement, from Linux's counters in /proc."""

import os
from pathlib import Path
from typing import NamedTuple, Self

from cnn.system.affinity import allowed_cpus
from cnn.system.threads import affinity_count
from cnn.system.timing import now

WORKING = (0, 1, 2, 5, 6, 7)
"""Fields of a processor in /proc/stat that count work: user, nice, system, irq, softirq and steal."""


class _Spent(NamedTuple):
    """A time, and the processor seconds spent until then by all processes and by this one with its descendants."""

    at: float
    by_all: float
    by_us: float


class OtherWork:
    """Watches a block of code; afterwards `share` is what others took of the processors that this process may use.

    It is in 0..1, or None where there is no /proc. Other guests of the hypervisor count as far as it tells ("steal").
    """

    share: float | None = None

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root

    def __enter__(self) -> Self:
        self._before = self._spent()
        return self

    def __exit__(self, *error: object) -> None:
        after = self._spent()
        if self._before is None or after is None:
            return
        at, by_all, by_us = (end - start for start, end in zip(self._before, after, strict=True))
        self.share = min(1.0, max(0.0, by_all - by_us) / (at * affinity_count()))

    def _spent(self) -> _Spent | None:
        try:
            ours = {f"cpu{number}" for number in allowed_cpus() or ()}
            tick = os.sysconf("SC_CLK_TCK")
            lines = (line.split() for line in (self._root / "stat").read_text().splitlines())
            ticks = sum(int(fields[1 + place]) for fields in lines if fields[0] in ours for place in WORKING)
            return _Spent(now(), ticks / tick, self._ticks_of_us() / tick)
        except (AttributeError, OSError, LookupError, ValueError):
            return None

    def _ticks_of_us(self) -> int:
        """The ticks of this process and of its descendants, including those that have ended."""
        parents, ticks = dict[int, int](), dict[int, int]()
        for path in self._root.glob("[0-9]*/stat"):
            try:
                # The name before the last bracket may hold anything.
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            number = int(path.parent.name)
            parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
        return sum(ticks[number] for number in ticks if _descends(number, parents))


def _descends(number: int, parents: dict[int, int]) -> bool:
    while number in parents:
        if number == os.getpid():
            return True
        number = parents[number]
    return False
