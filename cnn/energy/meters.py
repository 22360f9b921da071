"""The meters that exist, and how to open one for parts of this computer."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self, get_args

import numpy as np

from cnn.config import require
from cnn.energy.nvml import Nvml
from cnn.energy.rapl import PerfEvents, Powercap
from cnn.energy.reader import MeterUnavailable, Reader
from cnn.energy.xeon_phi import Micras, Micsmc
from cnn.meter import Energy, Kind, Meter, Unmetered
from cnn.system.machine import Part

READERS: tuple[type[Reader], ...] = (Powercap, PerfEvents, Micras, Micsmc, Nvml)
"""Every reader; for each part of the computer the first one that is ready is used."""
PARTS: tuple[Part, ...] = get_args(Part)
STANDSTILL = 1.0
"""Seconds in which every working part of a computer uses some energy."""


class ConstantPower(Meter):
    """The watts that a machine draws under load, as the user knows them, times the seconds of the steps."""

    kind: Kind = "modelled"

    def __init__(self, watts: float) -> None:
        self.watts = watts
        self.source = f"{watts:g} W, as given, times the seconds of the steps"

    def stop(self, images: int, seconds: float) -> Energy:
        return Energy(self.watts * seconds, self.kind, self.source)


class Measured(Meter):
    """The sum of readers, each sampled by a thread of its own where it needs that.

    A stretch in which a reader failed, or counted nothing at all, is unavailable; the next one is tried again.
    """

    kind: Kind = "measured"

    def __init__(self, readers: Iterable[Reader]) -> None:
        self._readers = list(readers)
        self.source = "; ".join(f"{each.name}: {each.covers}" for each in self._readers)
        self._failure: MeterUnavailable | None = None
        self._begun = 0.0
        self._closed = Event()
        # Daemons, so that a meter that was not closed does not keep a program from ending.
        self._threads = [
            Thread(target=self._watch, args=(each, each.period), name=f"meter {each.name}", daemon=True)
            for each in self._readers
            if each.period is not None
        ]
        for thread in self._threads:
            thread.start()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it has threads and open files, and whoever opened it closes it

    def __reduce__(self) -> tuple[Any, ...]:
        return Unmetered, ("the meter stayed in the process that opened it",)

    def _watch(self, reader: Reader, period: float) -> None:
        while not self._closed.wait(period):
            try:
                reader.sample()
            except MeterUnavailable as error:
                self._failure = error

    def start(self) -> None:
        self._failure = None
        self._begun = self._joules()

    def stop(self, images: int, seconds: float) -> Energy:
        joules = self._joules() - self._begun
        if self._failure is not None:
            return Energy(None, "unavailable", str(self._failure))
        if joules <= 0 and seconds >= STANDSTILL:
            return Energy(None, "unavailable", f"the meter counted nothing ({self.source})")
        return Energy(joules, self.kind, self.source)

    def _joules(self) -> float:
        try:
            return sum(each.joules() for each in self._readers)
        except MeterUnavailable as error:
            self._failure = error
            return 0.0

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()
        for each in self._readers:
            each.close()


@dataclass(frozen=True)
class ReaderStatus:
    """A reader by name, the part of the computer that it measures, and what it would count or why it cannot."""

    name: str
    part: Part
    covers: str | None
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"ready": self.covers is not None, **asdict(self)}


def available(root: Path = Path("/")) -> list[ReaderStatus]:
    """Tries every reader on the files under `root`."""
    found = []
    for reader in READERS:
        try:
            opened = reader(root)
        except MeterUnavailable as error:
            found.append(ReaderStatus(reader.name, reader.part, None, str(error)))
        else:
            opened.close()
            found.append(ReaderStatus(reader.name, reader.part, opened.covers, None))
    return found


def open_meter(parts: Iterable[Part] | Part, *, watts: float | None = None, root: Path = Path("/")) -> Meter:
    """A meter of all those parts of the computer, or, if `watts` are given, one that uses nothing else.

    If one part has no reader, the energy is unavailable, as the sum must cover all parts. Raises UsageError for an
    unknown part or watts that are no number above 0.
    """
    named: list[Part] = [parts] if isinstance(parts, str) else [*parts]
    for part in named:
        require(part in PARTS, f"There is no part {part!r} of a computer to measure; known are: {', '.join(PARTS)}.")
    require(
        watts is None or (isinstance(watts, int | float | np.number) and 0 < watts < inf),
        f"watts must be a number above 0, not {watts!r}.",
    )
    if watts is not None:
        return ConstantPower(watts)
    readers: list[Reader] = []
    for part in named:
        opened = _first_ready(part, root)
        if opened is None:
            for each in readers:
                each.close()
            return Unmetered(f"no meter of the {part} is ready (`cnn info` says why)")
        readers.append(opened)
    return Measured(readers)


def _first_ready(part: Part, root: Path) -> Reader | None:
    for reader in READERS:
        if reader.part == part:
            try:
                return reader(root)
            except MeterUnavailable:
                continue
    return None
