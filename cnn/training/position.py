"""How far a training run has progressed."""

import math
from dataclasses import dataclass
from typing import Any, Self

from cnn.meter import UNCOUNTED, Energy


@dataclass
class Position:
    """How far a training run has progressed; a checkpoint needs only this, the arrays and the random state.

    epoch, batch and step count what is done. loss, correct, seen, seconds and energy are sums over the current epoch.
    `best_loss` is the lowest validation loss and `stale` the number of epochs since.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    energy: Energy = UNCOUNTED
    best_loss: float = math.inf
    stale: int = 0

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`. Raises TypeError if the table does not describe a position."""
        if "energy" in table:
            table = table | {"energy": Energy(**table["energy"])}
        return cls(**table)
