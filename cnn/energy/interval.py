"""A number and the interval that it is expected in."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEAST, MOST = 0.05, 0.95
"""Quantiles between which a number is said to lie."""


class Interval(NamedTuple):
    """A best estimate or a median, and bounds that hold nine times in ten; no bounds where none are known."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, draws: npt.NDArray[np.float64]) -> "Interval":
        """From draws of which the first is the best estimate."""
        low, high = np.quantile(draws[1:], (LEAST, MOST))
        return cls(float(draws[0]), float(min(low, draws[0])), float(max(high, draws[0])))

    def times(self, factor: float) -> "Interval":
        """The same in another unit."""
        low, high = (None if each is None else each * factor for each in self[1:])
        return Interval(self.value * factor, low, high)

    def inverse(self) -> "Interval":
        """One over it."""
        high, low = (None if each is None else 1 / each for each in self[1:])
        return Interval(1 / self.value, low, high)

    @staticmethod
    def columns(name: str, interval: "Interval | None") -> dict[str, float | None]:
        """The three numbers as columns of a table, None where they are unknown."""
        value, low, high = interval or (None, None, None)
        return {name: value, f"{name}_low": low, f"{name}_high": high}

    def holds(self, value: float) -> bool:
        """Whether the value lies between the bounds."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high
