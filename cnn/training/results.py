"""The result of an epoch of training."""

import math
from dataclasses import dataclass, fields
from typing import Any, Self

from cnn.config import check_table, require
from cnn.meter import Kind


@dataclass(frozen=True)
class EpochResult:
    """One epoch: losses are means over images, accuracies in 0..1, None without a validation split.

    Training loss and accuracy are averages over the epoch, while the weights were changing. `seconds` and `joules` are
    those of the training steps, without validation and saving. The joules are None if `energy` is "unavailable";
    `energy_source` says what they come from, or why there are none.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    images_per_second: float
    seconds: float
    joules: float | None
    joules_per_image: float | None
    energy: Kind
    energy_source: str

    def row(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_row(cls, table: Any) -> Self:
        """The inverse of `row`. Raises UsageError for anything that `row` would not give."""
        check_table("A row of metrics", table, cls)
        result = cls(**table)
        for name, value in table.items():
            if isinstance(value, int | float):
                most = 1 if name.endswith("accuracy") else math.inf
                above = value > 0 or name not in ("epoch", "images_per_second", "seconds")
                right = above and (name.endswith("loss") or 0 <= value <= most) and math.isfinite(value)
                require(right, f"A row of metrics: {name} is {value:g}.")
        return result
