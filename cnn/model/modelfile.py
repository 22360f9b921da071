"""Saves a model with its preprocessing in one file, and loads it or its architecture again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn.backend import Backend
from cnn.config import check_table, require
from cnn.data.preprocessing import Preprocessing
from cnn.errors import CnnError, FileFormatError, UsageError
from cnn.layers import Layer
from cnn.losses import Loss
from cnn.model.architecture import Architecture, Recipe
from cnn.model.sequential import Sequential
from cnn.model.zoo import ZOO, architecture, refuse_onnx
from cnn.precision import FLOAT32, FLOAT64, PRECISIONS, asked
from cnn.precision import chosen as chosen_precision
from cnn.registry import choose
from cnn.system.storage import check_finite, first_not_finite, read_arrays, save_arrays
from cnn.words import unknown

KIND = "model"
FILE = "model.safetensors"
"""The model in the folder of a run."""
_PREPROCESSING = "preprocessing."


@dataclass(frozen=True)
class Header:
    """What a model file holds beside its arrays."""

    kind: str
    version: int
    name: str
    input: tuple[int, int, int]
    layers: list[dict[str, Any]]
    loss: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    dtype: str
    precision: str = FLOAT32
    named: bool = True
    border: tuple[float, float] | None = None
    resize: str | None = None


def save_model(model: Sequential, path: str | Path) -> None:
    """Writes architecture, weights, classes and preprocessing.

    Raises CnnError if a weight is not finite or the file cannot be written.
    """
    if not isinstance(model, Sequential):
        raise UsageError(f"Only a cnn.Sequential can be saved, not a {type(model).__name__}.")
    values, constants = model.preprocessing.to_state()
    arrays = model.state() | {_PREPROCESSING + name: array for name, array in constants.items()}
    table = model.config() | {
        "preprocessing": values,
        "dtype": model.dtype.name,
        "precision": model.precision,
        "named": model.named,
    }
    table["border"] = model.border
    if model.resize is not None:
        table["resize"] = model.resize
    odd = first_not_finite(arrays)
    if odd is not None:
        raise CnnError(f"{model.name} was not saved: {odd} has values that are not finite; train it again.")
    save_arrays(Path(path), KIND, arrays, table)


def load_model(path: str | Path, *, backend: Backend | str | None = None, precision: str | None = None) -> Sequential:
    """The model in a file or in the folder of a run, on `backend` or the current one.

    It computes in `precision`, else in that of CNN_PRECISION, else in the one that it was trained in. One of float64
    keeps it. Raises FileFormatError if it is not a model file.
    """
    path = _file(path)
    chosen = backend if isinstance(backend, Backend) else choose(backend)[0]
    arrays, table = read_arrays(path, KIND)
    constants = {
        name.removeprefix(_PREPROCESSING): arrays.pop(name) for name in list(arrays) if name.startswith(_PREPROCESSING)
    }
    try:
        check_table("The header", table, Header)
        model = _from_table(table, Preprocessing.from_state(table["preprocessing"], constants), chosen, precision)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _not_a_model(path, error) from error
    check_finite(arrays, Path(path))
    model.load_state(arrays)
    return model


def is_saved(name: str) -> bool:
    """Whether `name` is that of a saved model or of the folder of a run, not of a network."""
    return name not in ZOO and (name.endswith(".safetensors") or Path(name).is_dir())


def architecture_of(name: str) -> Architecture:
    """The architecture that `name` stands for: a published one, one in a TOML file, or that of a saved model.

    A saved model has the recipe's loss only; the rest of its recipe is the default one. Raises UsageError for a name
    that stands for nothing, FileFormatError for a file that cannot be read.
    """
    if name in ZOO or name.endswith(".toml"):
        return architecture(name)
    if not is_saved(name):
        refuse_onnx(name)
        raise unknown("There is no architecture", name, ZOO, ", a .toml file, a .safetensors model or a run's folder")
    path = _file(name)
    _, table = read_arrays(path, KIND)
    try:
        layers, loss = [Layer.from_config(layer) for layer in table["layers"]], Loss.from_config(table["loss"])
        height, width, channels = table["input"]
        return Architecture(table["name"], layers, (height, width, channels), Recipe(loss=loss))
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_model(path, error) from error


def _file(path: str | Path) -> Path:
    """The file itself, or the one in the folder of a run. Raises UsageError for what has a network, but no model."""
    refuse_onnx(path)
    if str(path) in ZOO and not Path(path).exists():
        raise UsageError(f"{path} is a network without weights; name a model that cnn train saved, or its folder.")
    return Path(path) / FILE if Path(path).is_dir() else Path(path)


def _not_a_model(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{path} does not describe a model ({error}); restore it or train again.")


def _precision(table: dict[str, Any], precision: str | None) -> str:
    """What a stored model computes in."""
    if table["dtype"] not in (FLOAT32, FLOAT64) or table.get("precision", FLOAT32) not in PRECISIONS:
        raise ValueError(f"numbers of type {table['dtype']!r} for products in {table.get('precision')!r}")
    if table["dtype"] == FLOAT64:
        return FLOAT64
    found = chosen_precision(precision or asked() or str(table.get("precision", FLOAT32)))
    require(found != FLOAT64, "The model has weights in float32; compute in float32 or bfloat16.")
    return found


def _from_table(
    table: dict[str, Any], preprocessing: Preprocessing, backend: Backend, precision: str | None
) -> Sequential:
    model = Sequential(
        [Layer.from_config(layer) for layer in table["layers"]],
        tuple(table["input"]),
        name=table["name"],
        loss=Loss.from_config(table["loss"]),
        preprocessing=preprocessing,
        classes=table["classes"] if table.get("named", True) else None,
        backend=backend,
        precision=_precision(table, precision),
    )
    model.met, model.adapts, model.resize = True, False, table.get("resize")
    if table.get("border") is not None:
        low, high = table["border"]
        model.border = float(low), float(high)
    return model
