"""Writes the whole state of a training run to one file and restores it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.config import check_table, require
from cnn.data.dataset import Split
from cnn.errors import FileFormatError, UsageError
from cnn.model.sequential import Sequential, check_arrays, load_arrays
from cnn.optimizers import Optimizer
from cnn.system.storage import check_finite, read_arrays, save_arrays
from cnn.training.position import Position
from cnn.training.results import EpochResult
from cnn.training.world import World

KIND = "checkpoint"
SINCE: dict[str, Any] = {
    "precision": "float32",
    "number of micro-batches": 1,
    "number of steps between averages": None,
    "multipliers": [],
    "slow weights": None,
    "mixup": 0.0,
    "largest norm": None,
}
"""Settings that older checkpoints lack, with the values that their runs had."""


class Run(Protocol):
    """The parts of a training run that a checkpoint keeps or compares."""

    model: Sequential
    train: Split
    batch_size: int
    optimizer: Optimizer
    world: World
    position: Position
    results: list[EpochResult]
    order: npt.NDArray[np.int64] | None
    best: dict[str, npt.NDArray[Any]] | None

    @property
    def slow_state(self) -> dict[str, Array]:
        """The arrays of the slow weights by name."""
        ...

    def settings(self) -> dict[str, Any]:
        """The settings that must be the same for the run to continue."""
        ...


def write_checkpoint(run: Run, path: Path) -> None:
    """Writes weights, optimizer, position, results, image order and random state. Raises CnnError if it fails."""
    backend = run.model.backend
    arrays = {f"model.{name}": array for name, array in run.model.state().items()}
    arrays |= {f"optimizer.{name}": backend.to_numpy(array) for name, array in run.optimizer.state.items()}
    arrays |= {f"slow.{name}": backend.to_numpy(array) for name, array in run.slow_state.items()}
    arrays |= {f"best.{name}": array for name, array in (run.best or {}).items()}
    if run.order is not None:
        arrays["order"] = run.order
    table = {
        "settings": run.settings(),
        "position": asdict(run.position),
        "optimizer_time": run.optimizer.time,
        "random_state": run.model.rng.bit_generator.state,
        "results": [each.row() for each in run.results],
    }
    save_arrays(path, KIND, arrays, table)


@dataclass(frozen=True)
class Header:
    """What a checkpoint holds beside its arrays; older ones lack what has a default."""

    kind: str
    version: int
    settings: dict[str, Any]
    position: dict[str, Any]
    optimizer_time: int
    random_state: dict[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)


def read_checkpoint(run: Run, path: Path) -> None:
    """Restores a run to the state that `write_checkpoint` saved; of several processes, rank 0 reads the file.

    Raises FileFormatError if the file is damaged, UsageError if its run had other settings; the run is then as before.
    """
    arrays, table = run.world.from_first(lambda: read_arrays(path, KIND))
    try:
        check_table("The header", table, Header)
        header = Header(**table)
        position = Position.from_table(header.position)
        results = [EpochResult.from_row(row) for row in header.results]
        settings = SINCE | header.settings
        differing = [name for name, value in run.settings().items() if settings[name] != _plain(value)]
        if not differing:
            position.check(len(run.train), run.batch_size)
            require(header.optimizer_time == position.step, f"The optimizer is at step {header.optimizer_time}.")
            epochs = range(position.epoch - len(results) + 1, position.epoch + 1)
            require([each.epoch for each in results] == [*epochs] and min(epochs, default=1) > 0, "Rows are missing.")
            order = _order(arrays.pop("order", None), len(run.train), begun=position.batch > 0)
            groups = _groups(arrays)
            type(run.model.rng.bit_generator)().state = header.random_state
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is not a complete checkpoint ({error}); start the run anew.") from error
    for name in differing:
        both = _difference(settings[name], _plain(run.settings()[name]))
        raise UsageError(
            f"{path} was saved with other settings ({name}: {both}); resume with the settings it was started with."
        )
    model = run.model
    check_arrays(model.arrays(), groups["model"], model.name)
    check_arrays(run.optimizer.state, groups["optimizer"], "the optimizer")
    check_arrays(run.slow_state, groups["slow"], "the slow weights")
    check_arrays(model.arrays() if groups["best"] else {}, groups["best"], model.name)
    check_finite(groups["model"] | groups["best"] | groups["slow"], path)
    load_arrays(model.backend, model.arrays(), groups["model"], model.name)
    load_arrays(model.backend, run.optimizer.state, groups["optimizer"], "the optimizer")
    load_arrays(model.backend, run.slow_state, groups["slow"], "the slow weights")
    model.rng.bit_generator.state = header.random_state
    run.position, run.results, run.optimizer.time = position, results, header.optimizer_time
    run.order, run.best = order, groups["best"] or None


def _order(order: npt.NDArray[Any] | None, images: int, *, begun: bool) -> npt.NDArray[np.int64] | None:
    """The order of the images of an epoch. Raises UsageError if it is not one of all of them."""
    require((order is not None) == begun, "The order of the images does not fit the position.")
    if order is not None:
        whole = order.dtype == np.int64 and np.array_equal(np.sort(order, axis=None), np.arange(images))
        require(whole and order.ndim == 1, f"The order of {images} images is {order.dtype} {order.shape}.")
    return order


def _groups(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """The arrays by what they belong to. Raises KeyError for one that belongs to nothing."""
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {"model": {}, "optimizer": {}, "slow": {}, "best": {}}
    for name, array in arrays.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = array
    return groups


def _plain(value: Any) -> Any:
    """`value` after a round trip through JSON: tuples become lists."""
    return json.loads(json.dumps(value))


def _difference(before: Any, after: Any) -> str:
    """Both values of a setting; of a table only the first part that differs, such as the classes of a network."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        key = next(key for key in after if before[key] != after[key])
        return f"{key} {_short(before[key])}, now {_short(after[key])}"
    return f"{_short(before)}, now {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
