"""What a stretch of work took in joules: measured, modelled from watts, or unavailable; and the meters there are."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal, Self

from cnn.energy.nvml import Nvml
from cnn.energy.rapl import PerfEvents, Powercap
from cnn.energy.reader import MeterUnavailable, Reader
from cnn.energy.xeon_phi import Micras, Micsmc
from cnn.machine import Part

Kind = Literal["measured", "modelled", "unavailable"]
KINDS: tuple[Kind, ...] = ("measured", "modelled", "unavailable")
READERS: tuple[type[Reader], ...] = (Powercap, PerfEvents, Micras, Micsmc, Nvml)
"""Every reader; of those for one part of the computer the first that is ready counts."""
STANDSTILL = 1.0
"""Seconds in which no working part of a computer uses nothing."""


@dataclass(frozen=True)
class Energy:
    """Joules, whether they were measured or modelled, and from what; or None, and why."""

    joules: float | None
    kind: Kind
    source: str

    def __add__(self, other: "Energy") -> "Energy":
        """Both together, of the weaker kind: a part that is modelled or unavailable makes the sum so."""
        joules = None if self.joules is None or other.joules is None else self.joules + other.joules
        source = self.source or other.source
        if f"; {other.source};" not in f"; {source};":
            source = f"{source}; {other.source}"
        return Energy(joules, max(self.kind, other.kind, key=KINDS.index), source)


NO_ENERGY = Energy(0.0, "measured", "")
"""What to begin a sum with."""
UNCOUNTED = Energy(None, "unavailable", "not all of it was counted")
"""What a run of a release that knew no energy has behind it."""


class Meter(ABC):
    """Tells the energy of stretches of training; close it, or use it as a context manager."""

    kind: Kind
    source: str
    """What the joules come from, or why there are none."""

    def start(self) -> None:  # noqa: B027 - a model has nothing to begin
        """Begins a stretch."""

    @abstractmethod
    def stop(self, images: int, seconds: float) -> Energy:
        """The energy since `start`, in which `images` were trained, in steps that took `seconds` together.

        What measures looks at its meter only, what models at the two numbers.
        """

    def close(self) -> None:  # noqa: B027
        """Ends what runs beside the training."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Unmetered(Meter):
    """No energy, and why."""

    kind: Kind = "unavailable"

    def __init__(self, source: str) -> None:
        self.source = source

    def stop(self, images: int, seconds: float) -> Energy:
        return Energy(None, self.kind, self.source)


class ConstantPower(Meter):
    """The watts that a machine draws under load, as the user knows them, times the seconds of the steps."""

    kind: Kind = "modelled"

    def __init__(self, watts: float) -> None:
        self.watts = watts
        self.source = f"{watts:g} W, as given, times the seconds of the steps"

    def stop(self, images: int, seconds: float) -> Energy:
        return Energy(self.watts * seconds, self.kind, self.source)


class Measured(Meter):
    """The sum of readers; a thread for each keeps up with it.

    A stretch in which a reader failed, or counted nothing at all, is unavailable; the next one is tried anew.
    """

    kind: Kind = "measured"

    def __init__(self, readers: Iterable[Reader]) -> None:
        self._readers = list(readers)
        self.source = "; ".join(f"{each.name}: {each.covers}" for each in self._readers)
        self._failure: MeterUnavailable | None = None
        self._begun = 0.0
        self._closed = Event()
        # Daemons, so that a meter that was not closed keeps no program from ending.
        self._threads = [
            Thread(target=self._watch, args=(each, each.period), name=f"meter {each.name}", daemon=True)
            for each in self._readers
            if each.period is not None
        ]
        for thread in self._threads:
            thread.start()

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
            return Energy(None, "unavailable", f"the meter stands still ({self.source})")
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
    """A reader by name, the part of the computer it is for, and what it would count or why it cannot."""

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


def open_meter(parts: Iterable[Part], *, watts: float | None = None, root: Path = Path("/")) -> Meter:
    """A meter of all those parts of the computer, or, where `watts` are given, of nothing but them.

    One part without a reader leaves all unavailable: what is summed must be the whole.
    """
    if watts is not None:
        return ConstantPower(watts)
    readers: list[Reader] = []
    for part in parts:
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


def energy_words(joules: float | None, joules_per_image: float | None, kind: Kind) -> str:
    """Both figures with their kind, or the kind alone."""
    if joules is None or joules_per_image is None:
        return kind
    return f"{_joules(joules)}, {_joules(joules_per_image)}/image ({kind})"


def _joules(value: float) -> str:
    """Four digits and a unit."""
    for unit, size in (("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value / 1e-6:.4g} µJ"
