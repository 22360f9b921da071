"""Whether one of two settings is faster than the other, told from the noise of a busy machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Self

LUCK = 0.025
"""The chance that a setting which is no faster comes out ahead in so many rounds that it is taken for faster."""


@dataclass(frozen=True)
class Speedup:
    """Images a second of two settings measured in turns, how many times faster the second one is, and how surely.

    All are medians over the rounds; that of the true ratio lies between `low` and `high` with a certainty of 95 %.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[tuple[float, float]]) -> Self:
        """From the seconds an image of both, a pair a round."""
        before, after = (1 / median(each) for each in zip(*seconds, strict=True))
        ratios = [old / new for old, new in seconds]
        return cls(before, after, median(ratios), *median_interval(ratios))

    @property
    def faster(self) -> bool:
        """Whether the gain is more than the noise."""
        return self.low > 1


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which the median that these values are drawn around lies, with a certainty of 1 - 2 * LUCK at least.

    The sign test's: that many values on one side of the median are as likely as so many heads of as many coins, however
    the values are distributed (Conover 1999, section 3.2). Takes at least 6 values.
    """
    ordered, chance, outside = sorted(values), 0.0, 0
    while (chance := chance + comb(len(values), outside) / 2 ** len(values)) <= LUCK:
        outside += 1
    return ordered[outside - 1], ordered[-outside]
