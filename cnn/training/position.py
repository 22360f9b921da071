"""How far a run of training has come."""

import math
from dataclasses import dataclass
from typing import Any, Self

from cnn.meter import UNCOUNTED, Energy


@dataclass
class Position:
    """How far a training run has come; with the arrays and the random state, all a checkpoint needs.

    epoch and batch count what is done; the sums are those of the epoch begun, its energy among them; `best_loss` is the
    lowest validation loss and `stale` the epochs since.
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
        """The position of which `table` is the asdict. Raises TypeError for what is none."""
        if "energy" in table:
            table = table | {"energy": Energy(**table["energy"])}
        return cls(**table)
