"""The energy of a stretch of work in joules, measured, modelled or unavailable, and the interface of meters."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self

Kind = Literal["measured", "modelled", "unavailable"]
KINDS: tuple[Kind, ...] = ("measured", "modelled", "unavailable")


@dataclass(frozen=True)
class Energy:
    """Joules, whether they were measured or modelled, and their source; or None, and the reason."""

    joules: float | None
    kind: Kind
    source: str

    def __add__(self, other: "Energy") -> "Energy":
        """The sum, of the weaker kind: if one part is modelled or unavailable, so is the sum."""
        joules = None if self.joules is None or other.joules is None else self.joules + other.joules
        source = self.source or other.source
        if f"; {other.source};" not in f"; {source};":
            source = f"{source}; {other.source}"
        return Energy(joules, max(self.kind, other.kind, key=KINDS.index), source)


NO_ENERGY = Energy(0.0, "measured", "")
"""The start of a sum."""
UNCOUNTED = Energy(None, "unavailable", "not all of it was counted")
"""The energy so far of a run that was started by a release without energy measurement."""


class Meter(ABC):
    """Gives the energy of stretches of training; close it, or use it as a context manager."""

    kind: Kind
    source: str
    """What the joules come from, or why there are none."""

    def start(self) -> None:  # noqa: B027 - a model has nothing to start
        """Begins a stretch."""

    @abstractmethod
    def stop(self, images: int, seconds: float) -> Energy:
        """The energy since `start`, during which `images` were trained on, in steps that took `seconds` together.

        A measuring meter ignores the two numbers; a modelling meter computes from them.
        """

    def close(self) -> None:  # noqa: B027
        """Stops whatever runs in the background."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Unmetered(Meter):
    """A meter without energy; `source` says why."""

    kind: Kind = "unavailable"

    def __init__(self, source: str) -> None:
        self.source = source

    def stop(self, images: int, seconds: float) -> Energy:
        return Energy(None, self.kind, self.source)


def energy_words(joules: float | None, joules_per_image: float | None, kind: Kind) -> str:
    """Both figures with their kind, or the kind alone."""
    if joules is None or joules_per_image is None:
        return kind
    return f"{joules_text(joules)}, {joules_text(joules_per_image)}/image ({kind})"


def joules_text(value: float) -> str:
    """Joules with four digits and a unit."""
    for unit, size in (("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value / 1e-6:.4g} µJ"
