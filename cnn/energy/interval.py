"""A number and the interval in which it is expected."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEAST, MOST = 0.05, 0.95
"""The quantiles that are the bounds of an interval."""


class Interval(NamedTuple):
    """A best estimate or a median, and bounds that hold nine times in ten; no bounds where none are known."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, draws: npt.NDArray[np.float64]) -> "Interval":
        """From draws, the first of which is the best estimate."""
        low, high = np.quantile(draws[1:], (LEAST, MOST))
        return cls(float(draws[0]), float(min(low, draws[0])), float(max(high, draws[0])))

    def times(self, factor: float) -> "Interval":
        """The same times `factor`, as in another unit."""
        low, high = (None if each is None else each * factor for each in self[1:])
        return Interval(self.value * factor, low, high)

    def inverse(self) -> "Interval":
        """The reciprocal."""
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


class Compared:
    """A time that was predicted and measured."""

    predicted: Interval
    measured: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted.value / self.measured - 1

    @property
    def within(self) -> bool:
        """Whether the measured time lies in the predicted interval."""
        return self.predicted.holds(self.measured)
