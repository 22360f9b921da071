"""Whether one of two settings is faster than the other by more than the noise of a busy machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Self

LUCK = 0.025
"""The probability that a setting which is no faster wins so many rounds by chance that it is taken for faster."""


@dataclass(frozen=True)
class Speedup:
    """Images per second of two settings measured in turns, and how many times as fast the second one is.

    All are medians over the rounds; that of the true ratios lies between `low` and `high` with a certainty of 95 %.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[tuple[float, float]]) -> Self:
        """From the seconds per image of both, one pair per round."""
        before, after = (1 / median(each) for each in zip(*seconds, strict=True))
        ratios = [old / new for old, new in seconds]
        return cls(before, after, median(ratios), *median_interval(ratios))

    @property
    def faster(self) -> bool:
        """Whether the gain is more than the noise."""
        return self.low > 1


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of the median of the distribution that these values are from, with a certainty of at least 1 - 2 * LUCK.

    By the sign test: values fall on one side of the median as coins fall heads, however they are distributed (Conover
    1999, section 3.2). Takes at least 6 values.
    """
    ordered, chance, outside = sorted(values), 0.0, 0
    while (chance := chance + comb(len(values), outside) / 2 ** len(values)) <= LUCK:
        outside += 1
    return ordered[outside - 1], ordered[-outside]
