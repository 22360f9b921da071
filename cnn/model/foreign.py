"""Weights of PyTorch or timm in a safetensors file, brought onto an architecture of this library."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from cnn.backend import Backend
from cnn.data.preprocessing import Preprocessing
from cnn.errors import FileFormatError, listed
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear
from cnn.layers.activation import Activation
from cnn.layers.shape import channels_first
from cnn.model.network import Network
from cnn.model.node import Node
from cnn.model.sequential import Sequential
from cnn.model.wiring import INPUT
from cnn.model.zoo import ZOO, architecture
from cnn.paths import check_file, reading, shown
from cnn.system.machine import physical_memory
from cnn.words import counted

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_IGNORED = "num_batches_tracked"
"""The last part of the name of an array that PyTorch counts batches in, which nothing here needs."""
_SUFFIXES = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_variance": "running_var",
}
"""What PyTorch calls each array of a layer."""

Floats = npt.NDArray[np.floating[Any]]


class Match(NamedTuple):
    """An array of ours and the one in the file that it was taken from, with the shape of each."""

    name: str
    shape: tuple[int, ...]
    source: str
    source_shape: tuple[int, ...]


@dataclass(frozen=True)
class ForeignWeights:
    """The model and where each of its arrays came from."""

    model: Sequential
    matches: tuple[Match, ...]


def import_weights(
    path: str | Path,
    name: str,
    *,
    backend: Backend | str | None = None,
    preprocessing: Preprocessing | None = None,
) -> ForeignWeights:
    """The architecture `name` with the weights of PyTorch in a safetensors file, for the file's number of classes.

    The modules have the names of torchvision or timm for resnet18, resnet50, vgg16 and squeezenet, and else those of
    our layers. Raises FileFormatError for a damaged file, and for weights that do not fit, naming the first.
    """
    path = Path(path)
    shapes = _shapes(path)
    plan = architecture(name)
    network = plan.network
    sources = _sources(name, network, shapes)
    head = next((sources[node.name] for node in reversed(network.nodes) if node.name in sources), "")
    classes = shapes.get(f"{head}.weight", ())[:1]
    if name in ZOO and classes:
        plan = architecture(name, classes[0])
        network = plan.network
    plans = list(_planned(network, sources))
    _check(path, name, plans, shapes)
    arrays = dict(_read(path, {match.source for match, _ in plans}))
    model = plan.build(backend=backend)
    model.preprocessing = preprocessing or Preprocessing(1 / 255)
    state = {match.name: _brought(network, arrays[match.source], match, node) for match, node in plans}
    odd = next((each for each, array in state.items() if not np.isfinite(array).all()), None)
    if odd is not None:
        raise FileFormatError(f"{odd} from {shown(path)} has values that are not finite; restore the file.")
    model.load_state({key: array.astype(model.dtype) for key, array in state.items()})
    return ForeignWeights(model, tuple(match for match, _ in plans))


def _weighted(network: Network) -> list[Node]:
    return [node for node in network.nodes if isinstance(node.layer, Conv2D | Linear | BatchNorm)]


def _sources(name: str, network: Network, shapes: Mapping[str, Any]) -> dict[str, str]:
    """The module in the file for each of our layers, by name; of several naming schemes the one that fits best."""
    nodes = _weighted(network)
    schemes = [scheme for make in _SCHEMES.get(name, ()) if len(scheme := make()) == len(nodes)]
    own = [node.name for node in nodes]
    if not schemes or all(f"{name}.weight" in shapes for name in own):
        schemes = [own]
    best = max(schemes, key=lambda modules: sum(f"{module}.weight" in shapes for module in modules))
    return {node.name: module for node, module in zip(nodes, best, strict=True)}


def _resnet(blocks: Sequence[int], convolutions: int) -> list[str]:
    """Modules of a residual network of torchvision, or timm, in the order of our layers."""
    modules = ["conv1", "bn1"]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            stem = f"layer{stage}.{block}"
            for number in range(1, convolutions + 1):
                modules += [f"{stem}.conv{number}", f"{stem}.bn{number}"]
            if block == 0 and (stage > 1 or convolutions == 3):
                modules += [f"{stem}.downsample.0", f"{stem}.downsample.1"]
    return [*modules, "fc"]


def _vgg16(*last: str) -> list[str]:
    return [f"features.{number}" for number in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)] + list(last)


def _squeezenet() -> list[str]:
    fires = [f"features.{number}.{part}" for number in (3, 4, 6, 7, 9, 10, 11, 12) for part in _FIRE]
    return ["features.0", *fires, "classifier.1"]


_FIRE = ("squeeze", "expand1x1", "expand3x3")
_SCHEMES: dict[str, tuple[Any, ...]] = {
    "resnet18": (lambda: _resnet((2, 2, 2, 2), 2),),
    "resnet50": (lambda: _resnet((3, 4, 6, 3), 3),),
    "vgg16": (
        lambda: _vgg16("classifier.0", "classifier.3", "classifier.6"),
        lambda: _vgg16("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
    ),
    "squeezenet": (_squeezenet,),
}
"""The names that torchvision and timm give to the modules of our architectures, where the two are the same network."""


def _planned(network: Network, sources: Mapping[str, str]) -> Iterator[tuple[Match, Node]]:
    """Every array of the network, with the name in the file and the shape that PyTorch gives it."""
    for node in _weighted(network):
        for key, shape, source_shape in _array_shapes(node):
            source = f"{sources[node.name]}.{_SUFFIXES[key]}"
            yield Match(f"{node.name}.{key}", shape, source, source_shape), node


def _array_shapes(node: Node) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    layer, shape = node.layer, node.input_shapes[0]
    if isinstance(layer, BatchNorm):
        for key in ("gamma", "beta") * (layer.scale and layer.shift) + ("running_mean", "running_variance"):
            yield key, shape[-1:], shape[-1:]
        return
    if isinstance(layer, Conv2D):
        ours = layer.convolution_on(shape).weights_shape
        yield "weight", ours, (ours[3], ours[2], ours[0], ours[1])
    elif isinstance(layer, Linear):
        ours = (shape[0], layer.units)
        yield "weight", ours, ours[::-1]
    if isinstance(layer, Conv2D | Linear) and layer.bias:
        yield "bias", ours[-1:], ours[-1:]


def _check(path: Path, name: str, plans: Sequence[tuple[Match, Node]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises FileFormatError naming the first array that is missing, of another shape, or left over."""
    for match, node in plans:
        found = shapes.get(match.source)
        if found is None:
            raise FileFormatError(
                f"{shown(path)} is not {name}: it has no {match.source} for {match.name} {match.shape}; it has "
                f"{listed(shapes, 4)}. Name the architecture that it was saved from."
            )
        # timm keeps the first linear layer of a VGG as a convolution over the whole image.
        same = found == match.source_shape
        if not same and not (isinstance(node.layer, Linear) and _flat(found) == match.source_shape):
            raise FileFormatError(
                f"{shown(path)} is not {name}: {match.source} has the shape {found}, and {match.name} {match.shape} "
                f"needs {match.source_shape}. Name the architecture that it was saved from."
            )
    used = {match.source for match, _ in plans}
    left = [each for each in shapes if each not in used and not each.endswith(_IGNORED)]
    if left:
        raise FileFormatError(
            f"{shown(path)} is not {name}: it has {counted(len(left), 'array')} more, first {left[0]} "
            f"{shapes[left[0]]}. Name the architecture that it was saved from."
        )


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], prod(shape[1:])) if shape else ()


def _brought(network: Network, array: Floats, match: Match, node: Node) -> Floats:
    """An array of the file in our order of axes and elements."""
    if not match.name.endswith(".weight"):
        return array
    if isinstance(node.layer, Conv2D):
        return array.transpose(2, 3, 1, 0)
    array = array.reshape(match.source_shape)
    order = _order(network, node)
    if order is not None:
        found = np.empty_like(array)
        found[:, order] = array
        array = found
    return array.T


def _order(network: Network, node: Node) -> npt.NDArray[np.int64] | None:
    """The order in which PyTorch flattens the image that a linear layer reads, None if it is ours."""
    while node.inputs[0] != INPUT:
        node = network.nodes[node.inputs[0]]
        if isinstance(node.layer, Flatten):
            shape = node.input_shapes[0]
            return channels_first(shape[0], shape[1], shape[2]) if len(shape) == 3 else None
        if not isinstance(node.layer, Dropout | Activation):
            break
    return None


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array of numbers. Raises FileFormatError if it is no safetensors file of floats."""
    check_file(path, "safetensors file")
    total = physical_memory()
    if total is not None and path.stat().st_size > total:
        raise FileFormatError(f"{shown(path)} is larger than this machine's memory of {total / 1e9:,.1f} GB.")
    found = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                part = file.get_slice(name)
                found[name] = tuple(part.get_shape())
                kind = part.get_dtype()
                if kind not in _TYPES and not name.endswith(_IGNORED):
                    raise FileFormatError(f"{shown(path)}: {name} has numbers of type {kind}; save it as floats.")
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise FileFormatError(f"{shown(path)} is damaged or no safetensors file ({error}); save it again.") from error
    return found


def _read(path: Path, names: set[str]) -> Iterator[tuple[str, Floats]]:
    """The arrays of these names as floats; `_shapes` has found the file to be sound."""
    with reading(path, "safetensors file"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in sorted(names):
            kind, shape, (start, end) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
            file.seek(8 + length + start)
            raw = np.frombuffer(file.read(end - start), _TYPES[kind])
            # The bits of a bfloat16 are the upper half of a float32.
            wide = (raw.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else raw.astype(np.float32)
            yield name, wide.reshape(shape)
