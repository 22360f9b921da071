"""Saves a model with its preprocessing in one file, and loads it again."""

from pathlib import Path
from typing import Any

import numpy as np

from cnn.backend import Backend
from cnn.data.preprocessing import Preprocessing
from cnn.errors import FileFormatError, UsageError
from cnn.layers import Layer
from cnn.losses import Loss
from cnn.model.sequential import Sequential
from cnn.registry import choose
from cnn.system.storage import read_arrays, save_arrays

KIND = "model"
_PREPROCESSING = "preprocessing."


def save_model(model: Sequential, path: str | Path) -> None:
    """Writes architecture, weights, classes and preprocessing. Raises CnnError if the file cannot be written."""
    if not isinstance(model, Sequential):
        raise UsageError(f"Only a cnn.Sequential can be saved, not a {type(model).__name__}.")
    values, constants = model.preprocessing.to_state()
    arrays = model.state() | {_PREPROCESSING + name: array for name, array in constants.items()}
    table = model.config() | {"preprocessing": values, "dtype": model.dtype.name}
    save_arrays(Path(path), KIND, arrays, table)


def load_model(path: str | Path, *, backend: Backend | str | None = None) -> Sequential:
    """The model in a file, on `backend` or the current one. Raises FileFormatError if it is not a model file."""
    chosen = backend if isinstance(backend, Backend) else choose(backend)[0]
    arrays, table = read_arrays(Path(path), KIND)
    constants = {
        name.removeprefix(_PREPROCESSING): arrays.pop(name) for name in list(arrays) if name.startswith(_PREPROCESSING)
    }
    try:
        model = _from_table(table, Preprocessing.from_state(table["preprocessing"], constants), chosen)
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} does not describe a model ({error}); restore it or train again.") from error
    model.load_state(arrays)
    return model


def _from_table(table: dict[str, Any], preprocessing: Preprocessing, backend: Backend) -> Sequential:
    return Sequential(
        [Layer.from_config(layer) for layer in table["layers"]],
        tuple(table["input"]),
        name=table["name"],
        loss=Loss.from_config(table["loss"]),
        preprocessing=preprocessing,
        classes=table["classes"],
        backend=backend,
        dtype=np.dtype(table["dtype"]),
    )
