"""How much a time has changed since an earlier measurement, and how well that is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS, SEED = 2000, 11
CERTAINTY = 0.95


@dataclass(frozen=True)
class Change:
    """The ratio of the new median to the old, between two bounds that hold with CERTAINTY; 0.9 is 10 % less time."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" if the bounds leave no doubt, else "" """
        return "faster" if self.high < 1 else "slower" if self.low > 1 else ""

    def text(self) -> str:
        """The change in percent, its bounds and the verdict."""
        percents = [f"{(each - 1) * 100:+.1f}" for each in (self.ratio, self.low, self.high)]
        return f"{percents[0]} % ({percents[1]} to {percents[2]}) {self.verdict}".rstrip()


def change(old: Sequence[float], new: Sequence[float]) -> Change:
    """The change from the times of the old runs to those of the new.

    The bounds come from a bootstrap: medians of runs drawn with replacement from each side (Efron 1979). They cover the
    runs' own spread, not what differs between two sittings at the machine, such as its temperature.
    """
    rng = np.random.default_rng(SEED)
    drawn = [np.median(rng.choice(np.asarray(times, float), (DRAWS, len(times))), axis=1) for times in (old, new)]
    low, high = np.quantile(drawn[1] / drawn[0], ((1 - CERTAINTY) / 2, (1 + CERTAINTY) / 2))
    return Change(float(np.median(new) / np.median(old)), float(low), float(high))
