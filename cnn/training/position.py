"""How far a training run has progressed."""

import math
from dataclasses import dataclass
from typing import Any, Self

from cnn.config import check_table, require
from cnn.meter import UNCOUNTED, Energy


@dataclass
class Position:
    """How far a training run has progressed; a checkpoint needs only this, the arrays and the random state.

    epoch, batch and step count what is done. loss, correct, seen, seconds and energy are sums over the current epoch.
    `best_loss` is the lowest validation loss and `stale` the number of epochs since. `steps` are those of the whole
    run, 0 unless its numbers depend on them.
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
    steps: int = 0

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the lowest validation loss, None without one."""
        return self.epoch - self.stale if self.best_loss < math.inf else None

    @classmethod
    def from_table(cls, table: Any) -> Self:
        """The inverse of `dataclasses.asdict`. Raises UsageError if the table does not describe a position."""
        check_table("The position", table, cls)
        if "energy" in table:
            check_table("The energy so far", table["energy"], Energy)
            table = table | {"energy": Energy(**table["energy"])}
        return cls(**table)

    def ended(self, steps_per_epoch: int) -> bool:
        """Whether the run ended with a part of an epoch."""
        before = (self.epoch - 1) * steps_per_epoch
        return self.batch == 0 and max(0, before) < self.step < before + steps_per_epoch and self.step == self.steps

    def check(self, images: int, batch_size: int) -> None:
        """Raises UsageError unless a run with so many images can be in this position."""
        steps = -(-images // batch_size)
        joules = self.energy.joules
        for right, words in (
            (min(self.epoch, self.batch, self.correct, self.stale) >= 0, "counts below 0"),
            (self.batch <= steps, f"batch {self.batch} of {steps}"),
            (
                self.step == self.epoch * steps + self.batch or self.ended(steps),
                f"step {self.step} in epoch {self.epoch}",
            ),
            (self.seen == min(self.batch * batch_size, images), f"{self.seen} images in {self.batch} batches"),
            (self.correct <= self.seen, f"{self.correct} correct answers of {self.seen}"),
            (self.stale <= self.epoch, f"{self.stale} epochs without improvement of {self.epoch}"),
            (math.isfinite(self.loss) and not math.isnan(self.best_loss), "a loss that is not finite"),
            (self.seconds > 0 or (not self.seen and self.seconds == 0), f"{self.seconds} seconds"),
            (math.isfinite(self.seconds), f"{self.seconds} seconds"),
            (joules is None or 0 <= joules < math.inf, f"{joules} joules"),
        ):
            require(right, f"The position has {words}.")
