"""The result of an epoch of training, and the table of all epochs."""

from dataclasses import dataclass, fields
from html import escape
from typing import Any, Self, overload

from cnn.config import check_table, require
from cnn.errors import CnnError
from cnn.meter import Kind
from cnn.words import unknown


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
                most = 1 if name.endswith("accuracy") else 1e100  # their products are finite, too
                above = value > 0 or name not in ("epoch", "images_per_second", "seconds")
                right = above and (name.endswith("loss") or value >= 0) and abs(value) <= most
                require(right, f"A row of metrics: {name} is {value:g}.")
        return result


SHOWN = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "images_per_second")
"""The columns that a notebook shows."""


class History(list[EpochResult]):
    """The results of a run, one per epoch, which is also a table of plain values: `history["val_loss"]` is a column."""

    @overload  # type: ignore[override]
    def __getitem__(self, key: str) -> list[Any]: ...
    @overload
    def __getitem__(self, key: slice) -> "History": ...
    @overload
    def __getitem__(self, key: int) -> EpochResult: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            names = [each.name for each in fields(EpochResult)]
            if key not in names:
                raise unknown("There is no column", key, names)
            return [getattr(each, key) for each in self]
        found = super().__getitem__(key)
        return History(found) if isinstance(key, slice) else found

    def table(self) -> dict[str, list[Any]]:
        """Every column by name: lists of numbers, texts and None."""
        return {each.name: self[each.name] for each in fields(EpochResult)}

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame. Raises CnnError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise CnnError("pandas is not installed; install it, or use `table()`.") from error
        return pandas.DataFrame(self.table())

    def __repr__(self) -> str:
        if not self:
            return "History(no epoch)"
        last = self[-1]
        validation = "" if last.val_accuracy is None else f", {last.val_accuracy:.2%} in validation"
        words = f"accuracy {last.train_accuracy:.2%} in training{validation}"
        return f"History({len(self)} epoch{'s' * (len(self) != 1)}: loss {last.train_loss:.4f}, {words})"

    def _repr_html_(self) -> str:
        """The table of a notebook."""
        head = "".join(f"<th>{escape(name)}</th>" for name in SHOWN)
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(getattr(each, name))}</td>" for name in SHOWN) + "</tr>" for each in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
