"""Writes the whole state of a training run to one file and puts it back."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from cnn.errors import FileFormatError, UsageError
from cnn.meter import UNCOUNTED, Energy
from cnn.model.sequential import load_arrays
from cnn.storage import read_arrays, save_arrays

if TYPE_CHECKING:
    from cnn.training.trainer import Trainer

KIND = "checkpoint"
SINCE = {"number of micro-batches": 1, "number of steps between averages": None}
"""Settings that older checkpoints lack, and what they were."""


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


def write_checkpoint(trainer: "Trainer", path: Path) -> None:
    """Weights, optimizer, position, order of the epoch and random state, atomically. Raises CnnError if it cannot."""
    backend = trainer.model.backend
    arrays = {f"model.{name}": array for name, array in trainer.model.state().items()}
    arrays |= {f"optimizer.{name}": backend.to_numpy(array) for name, array in trainer.optimizer.state.items()}
    arrays |= {f"best.{name}": array for name, array in (trainer.best or {}).items()}
    if trainer.order is not None:
        arrays["order"] = trainer.order
    table = {
        "settings": trainer.settings(),
        "position": asdict(trainer.position),
        "optimizer_time": trainer.optimizer.time,
        "random_state": trainer.model.rng.bit_generator.state,
    }
    save_arrays(path, KIND, arrays, table)


def read_checkpoint(trainer: "Trainer", path: Path) -> None:
    """Puts a run back to where `write_checkpoint` found it; of several processes rank 0 reads.

    Raises FileFormatError if the file is damaged, UsageError if it is of a run with other settings.
    """
    arrays, table = trainer.world.from_first(lambda: read_arrays(path, KIND))
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {"model": {}, "optimizer": {}, "best": {}}
    order = arrays.pop("order", None)
    try:
        for name, array in arrays.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = array
        settings, position = SINCE | table["settings"], _position(table["position"])
        time, random_state = table["optimizer_time"], table["random_state"]
        for name, value in trainer.settings().items():
            if settings[name] != _plain(value):
                raise UsageError(
                    f"{path} was saved with another {name} ({_short(settings[name])}, now {_short(value)}); "
                    "resume with the settings it was started with."
                )
        load_arrays(trainer.model.backend, trainer.model.arrays(), groups["model"], trainer.model.name)
        load_arrays(trainer.model.backend, trainer.optimizer.state, groups["optimizer"], "the optimizer")
        trainer.model.rng.bit_generator.state = random_state
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is no complete checkpoint ({error}); start the run anew.") from error
    trainer.position, trainer.optimizer.time = position, time
    trainer.order, trainer.best = order, groups["best"] or None


def _position(table: dict[str, Any]) -> Position:
    if "energy" in table:
        table = table | {"energy": Energy(**table["energy"])}
    return Position(**table)


def _plain(value: Any) -> Any:
    """`value` as JSON gives it back: tuples as lists."""
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
