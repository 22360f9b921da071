"""How pixels become the input of the first layer: what a file says of it, does in its graph, or leaves open."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.data.preprocessing import Preprocessing
from cnn.errors import CnnError
from cnn.onnx.files import Numbers
from cnn.onnx.metadata import entry
from cnn.onnx.reader import UINT8, Reader

PIXELS = 1 / 16
"""A network whose first factor is smaller takes pixels from 0 to 255; a larger one divides values of about 1."""
GUESSED = (
    "the file does not say how pixels become its input; they are divided by 255 (--scale, --mean and --std change "
    "that, such as --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 for most networks of PyTorch)"
)


def stored_preprocessing(reader: Reader) -> Preprocessing | None:
    """What our own file says that its input went through, None if that is in the graph or not known."""
    steps = entry(reader.properties, "preprocessing") if reader.ours else None
    if not isinstance(steps, dict) or steps.get("in_graph") is not False:
        return None
    return _steps(steps)


def guessed(reader: Reader, notes: list[str]) -> Preprocessing:
    """Preprocessing for a file that says nothing of it."""
    if _takes_pixels(reader):
        return Preprocessing(1.0)
    notes.append(GUESSED)
    return Preprocessing(1 / 255)


def _takes_pixels(reader: Reader) -> bool:
    """Whether the graph begins with what makes its input of pixels from 0 to 255."""
    if reader.kind == UINT8 or reader.ours:
        return True
    return reader.builder.factor is not None and float(np.max(reader.builder.factor)) <= PIXELS


def whole_preprocessing(reader: Reader, outer: Preprocessing) -> Preprocessing:
    """`outer`, then what the graph does to its input first."""
    factor, offset = reader.builder.factor, reader.builder.offset
    if factor is None or offset is None:
        return outer
    stored = _steps(entry(reader.properties, "preprocessing")) if reader.ours else None
    mean = np.zeros(1) if outer.mean is None else outer.mean.astype(np.float64)
    std = np.ones(1) if outer.std is None else outer.std.astype(np.float64)
    uniform = np.ptp(factor) <= 1e-6 * np.max(factor) and np.ptp(std) == 0
    if uniform:
        scale = float(factor.flat[0] / std.flat[0])
        found = Preprocessing(outer.scale * scale, _shortest(mean * scale - offset))
    else:
        spread = np.broadcast_to(std / factor, (reader.builder.input_shape[2],)).astype(np.float32)
        found = Preprocessing(outer.scale, _shortest(mean - offset * spread), spread)
    return stored if stored is not None and _alike(stored, found) else found


def _steps(steps: Any) -> Preprocessing | None:
    try:
        return Preprocessing(float(steps["scale"]), steps.get("mean"), steps.get("std"))
    except (CnnError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _shortest(mean: Numbers) -> npt.NDArray[np.float32] | None:
    return mean.astype(np.float32) if np.any(mean) else None


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two of them give the same numbers, but for rounding."""
    images = np.linspace(0, 255, 256, dtype=np.uint8)

    def applied(pre: Preprocessing) -> Any:
        mean = 0 if pre.mean is None else pre.mean.astype(np.float64)
        return (images.reshape(-1, 1, 1, 1) * pre.scale - mean) / (1 if pre.std is None else pre.std.astype(np.float64))

    try:
        return bool(np.allclose(applied(one), applied(other), rtol=1e-5, atol=1e-5))
    except ValueError:
        return False
