"""Writes the whole state of a training run to one file and restores it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cnn.errors import FileFormatError, UsageError
from cnn.model.sequential import Sequential, load_arrays
from cnn.optimizers import Optimizer
from cnn.system.storage import read_arrays, save_arrays
from cnn.training.position import Position
from cnn.training.world import World

KIND = "checkpoint"
SINCE = {"number of micro-batches": 1, "number of steps between averages": None}
"""Settings that older checkpoints lack, with the values that their runs had."""


class Run(Protocol):
    """The parts of a training run that a checkpoint keeps or compares."""

    model: Sequential
    optimizer: Optimizer
    world: World
    position: Position
    order: npt.NDArray[np.int64] | None
    best: dict[str, npt.NDArray[Any]] | None

    def settings(self) -> dict[str, Any]:
        """The settings that must be the same for the run to continue."""
        ...


def write_checkpoint(run: Run, path: Path) -> None:
    """Writes weights, optimizer, position, image order and random state atomically. Raises CnnError if it fails."""
    backend = run.model.backend
    arrays = {f"model.{name}": array for name, array in run.model.state().items()}
    arrays |= {f"optimizer.{name}": backend.to_numpy(array) for name, array in run.optimizer.state.items()}
    arrays |= {f"best.{name}": array for name, array in (run.best or {}).items()}
    if run.order is not None:
        arrays["order"] = run.order
    table = {
        "settings": run.settings(),
        "position": asdict(run.position),
        "optimizer_time": run.optimizer.time,
        "random_state": run.model.rng.bit_generator.state,
    }
    save_arrays(path, KIND, arrays, table)


def read_checkpoint(run: Run, path: Path) -> None:
    """Restores a run to the state that `write_checkpoint` saved; of several processes, rank 0 reads the file.

    Raises FileFormatError if the file is damaged, UsageError if its run had other settings.
    """
    arrays, table = run.world.from_first(lambda: read_arrays(path, KIND))
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {"model": {}, "optimizer": {}, "best": {}}
    order = arrays.pop("order", None)
    try:
        for name, array in arrays.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = array
        settings, position = SINCE | table["settings"], Position.from_table(table["position"])
        time, random_state = table["optimizer_time"], table["random_state"]
        for name, value in run.settings().items():
            if settings[name] != _plain(value):
                raise UsageError(
                    f"{path} was saved with another {name} ({_difference(settings[name], _plain(value))}); "
                    "resume with the settings it was started with."
                )
        load_arrays(run.model.backend, run.model.arrays(), groups["model"], run.model.name)
        load_arrays(run.model.backend, run.optimizer.state, groups["optimizer"], "the optimizer")
        run.model.rng.bit_generator.state = random_state
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is not a complete checkpoint ({error}); start the run anew.") from error
    run.position, run.optimizer.time = position, time
    run.order, run.best = order, groups["best"] or None


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
