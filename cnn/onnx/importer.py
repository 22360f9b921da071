"""Reads a network from an ONNX file, as a model that can be trained on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Shape
from cnn.backend import Backend
from cnn.data.preprocessing import Preprocessing
from cnn.errors import FileFormatError, UsageError
from cnn.layers import BatchNorm, Layer
from cnn.losses import Loss
from cnn.model.sequential import Sequential
from cnn.model.wiring import INPUT, INPUT_NAME, wire
from cnn.onnx.builder import Builder, Value
from cnn.onnx.check import checked
from cnn.onnx.files import Numbers, read_proto
from cnn.onnx.metadata import KEPT, MODEL, entry
from cnn.onnx.pixels import guessed, stored_preprocessing, whole_preprocessing
from cnn.onnx.reader import Reader
from cnn.onnx.runtime import Comparison
from cnn.paths import shown
from cnn.precision import FLOAT32


@dataclass(frozen=True)
class Imported:
    """The model, how far its scores are from ONNX Runtime's, and what was assumed."""

    model: Sequential
    comparison: Comparison
    notes: tuple[str, ...]


@np.errstate(all="ignore")
def import_onnx(
    path: str | Path,
    *,
    backend: Backend | str | None = None,
    preprocessing: Preprocessing | None = None,
    output: str | None = None,
    input_shape: Shape | None = None,
) -> Imported:
    """The network in an ONNX file as a model that can be trained on.

    `preprocessing` leads from pixels to the file's input, unless the file has it; without, it is guessed and noted.
    `output` names one of several outputs, `input_shape` (H, W, C) is for a file that leaves it open. Raises
    NotUnderstood, a FileFormatError, with every node that no layer stands for, FileFormatError for a file that is
    damaged, and CnnError if the model's scores are not those of ONNX Runtime.
    """
    path = Path(path)
    proto = read_proto(path)
    reader = Reader(proto, path, output, input_shape)
    final, scores = reader.read()
    layers, arrays = _layers(reader.builder, final)
    own = entry(reader.properties, MODEL) if reader.ours else None
    own = own if isinstance(own, dict) else {}
    notes: list[str] = []
    outer = preprocessing or stored_preprocessing(reader) or guessed(reader, notes)
    try:
        _restore(layers, own.get("layers"))
        model = Sequential(
            layers,
            reader.builder.input_shape,
            name=_name(proto.graph.name, path),
            loss=_loss(own.get("loss")),
            preprocessing=whole_preprocessing(reader, outer),
            classes=_classes(reader, own),
            precision=FLOAT32,  # as ONNX Runtime, which it is compared with
            backend=backend,
        )
        model.border = _border(own.get("border"))
        model.load_state(_named(model, arrays))
    except UsageError as error:
        raise FileFormatError(f"{shown(path)} describes no network that can be built: {error}") from error
    comparison = checked(model, reader, outer, scores, path)
    return Imported(model, comparison, tuple(notes))


def _name(given: str, path: Path) -> str:
    """The network's name: the graph's, unless it is what an exporter gives every graph."""
    common = not given or given in ("main_graph", "torch_jit", "torch-jit-export", "graph", "tf2onnx")
    return path.stem if common else given[:100]


def _classes(reader: Reader, own: Mapping[str, Any]) -> list[str] | None:
    """The names of the classes, None if the file has none."""
    if not reader.ours or own.get("named") is not True:
        return None
    found = entry(reader.properties, "classes")
    fits = isinstance(found, list) and all(isinstance(each, str) for each in found)
    return found if fits else None


def _layers(builder: Builder, final: Value) -> tuple[list[Layer], list[dict[str, Numbers]]]:
    """The layers that the output depends on, each with its name and inputs, and their arrays."""
    assert final.place is not None
    places = builder.reachable(final.place)
    names: dict[int, str] = {INPUT: INPUT_NAME}
    taken, numbers = {INPUT_NAME}, Counter[str]()
    for place in places:
        built = builder.layers[place]
        name = "".join(each if each.isalnum() or each in "_-" else "_" for each in built.title).strip("_")[:60]
        while not name or name in taken:
            kind = type(built.layer).__name__.lower().removesuffix("2d")
            numbers[kind] += 1
            name = f"{kind}{numbers[kind]}"
        taken.add(name)
        names[place] = name
    chosen = [builder.layers[place] for place in places]
    for built in chosen:
        built.layer.inputs = [names[each] for each in built.inputs]
    layers = [built.layer for built in chosen]
    wanted = [names[place] for place in places]
    if not _generated(layers, wanted):
        for layer, name in zip(layers, wanted, strict=True):
            layer.name = name
    return layers, [built.arrays for built in chosen]


def _generated(layers: Sequence[Layer], wanted: Sequence[str]) -> bool:
    """Whether layers without a name get the names that they should have."""
    try:
        return [each.name for each in wire(layers)] == list(wanted)
    except UsageError:
        return False


def _restore(layers: list[Layer], stored: Any) -> None:
    """Gives layers the settings that a file of ours keeps beside its graph."""
    if not isinstance(stored, dict):
        return
    for place, each in enumerate(wire(layers)):
        extra = stored.get(each.name)
        if isinstance(extra, dict) and extra.keys() <= set(KEPT):
            layers[place] = Layer.from_config(each.layer.config() | extra)


def _loss(stored: Any) -> Loss | None:
    try:
        return Loss.from_config(stored) if isinstance(stored, dict) else None
    except UsageError:
        return None


def _border(stored: Any) -> tuple[float, float] | None:
    fits = isinstance(stored, list) and len(stored) == 2 and all(isinstance(each, int | float) for each in stored)
    return (float(stored[0]), float(stored[1])) if fits else None


def _named(model: Sequential, arrays: Sequence[Mapping[str, Numbers]]) -> dict[str, npt.NDArray[Any]]:
    """The state of the model: every array by name, in its type and shape."""
    found = {}
    wanted = model.arrays()
    for layer, own in zip(model.layers, arrays, strict=True):
        for key, value in own.items():
            name = f"{layer.name}.{key}"
            if name not in wanted and isinstance(layer, BatchNorm):
                continue  # a factor of 1 or an offset of 0 that is not trained
            shape = tuple(wanted[name].shape) if name in wanted else value.shape
            fits = value.shape == shape or value.size == 1
            found[name] = np.array(np.broadcast_to(value, shape) if fits else value, model.dtype, order="C")
            if not np.isfinite(found[name]).all():
                raise UsageError(f"{name} has values that are not finite.")
    return found
