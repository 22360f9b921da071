"""What a stretch of work took in joules, measured, modelled or unavailable, and what every meter tells of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Self

Kind = Literal["measured", "modelled", "unavailable"]
KINDS: tuple[Kind, ...] = ("measured", "modelled", "unavailable")


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
