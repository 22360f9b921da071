"""What a model says of a step: time, energy and power of its stages and sums, with intervals.

Every uncertain number is drawn DRAWS times with a fixed seed, all independently; an interval is the middle 90 % of the
results, and its value is the result of the best estimates, which are the first draw.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.cost import Cost, Stage
from cnn.energy.devices import Quantity
from cnn.energy.interval import Interval

DRAWS, SEED = 400, 7

Vector = npt.NDArray[np.float64]


class Draws(NamedTuple):
    """All draws of a stage's seconds, and of its joules where they are known; the first is the best estimate."""

    seconds: Vector
    joules: Vector | None


@dataclass(frozen=True)
class StagePrediction:
    """One stage: seconds, joules and watts (None where unknown), and where its products run."""

    stage: Stage
    where: str
    seconds: Interval
    joules: Interval | None
    watts: Interval | None
    draws: Draws = field(repr=False, compare=False)


@dataclass(frozen=True)
class Prediction:
    """A step on a device. `used` are the numbers it rests on; `indicative` says that some are unverified.

    `idle` are draws of the watts when nothing runs, None where unknown.
    """

    device: str
    name: str
    cost: Cost
    threads: int | None
    stages: tuple[StagePrediction, ...]
    seconds: Interval
    images_per_second: Interval
    joules: Interval | None
    watts: Interval | None
    joules_per_image: Interval | None
    images_per_joule: Interval | None
    used: dict[str, Quantity]
    remarks: tuple[str, ...]
    idle: Vector | None = field(repr=False, compare=False)

    @property
    def unverified(self) -> list[str]:
        """Names of the numbers that were never verified."""
        return [name for name, each in self.used.items() if each.confidence == "unverified"]

    @property
    def indicative(self) -> bool:
        """Whether the prediction rests on a number that is unverified."""
        return bool(self.unverified)


def draws_of(quantity: Quantity, rng: np.random.Generator) -> Vector:
    """The value, then numbers drawn evenly between the bounds."""
    return np.concatenate([[quantity.value], rng.uniform(quantity.low, quantity.high, DRAWS)])


def added(a: Vector | None, b: Vector | None) -> Vector | None:
    """a + b, unknown where either is."""
    return None if a is None or b is None else a + b


def predicted(
    key: str,
    name: str,
    cost: Cost,
    threads: int | None,
    parts: list[tuple[Stage, str, Vector, Vector | None]],
    idle: Vector | None,
    used: dict[str, Quantity],
    remarks: tuple[str, ...],
) -> Prediction:
    """The prediction of parts (stage, where, seconds, joules above idle), as intervals of these and of their sums."""
    stages = []
    total, energy = np.zeros(1 + DRAWS), None if idle is None else np.zeros(1 + DRAWS)
    for stage, where, seconds, dynamic in parts:
        joules = None if idle is None else added(dynamic, idle * seconds)
        total, energy = total + seconds, added(energy, joules)
        known = joules is not None and bool(seconds[0])
        stages.append(
            StagePrediction(
                stage,
                where,
                Interval.of(seconds),
                None if joules is None else Interval.of(joules),
                Interval.of(joules / seconds) if known and joules is not None else None,
                Draws(seconds, joules),
            )
        )
    return Prediction(
        device=key,
        name=name,
        cost=cost,
        threads=threads,
        stages=tuple(stages),
        seconds=Interval.of(total),
        images_per_second=Interval.of(cost.batch / total),
        joules=None if energy is None else Interval.of(energy),
        watts=None if energy is None else Interval.of(energy / total),
        joules_per_image=None if energy is None else Interval.of(energy / cost.batch),
        images_per_joule=None if energy is None else Interval.of(cost.batch / energy),
        used=used,
        remarks=remarks,
        idle=idle,
    )
