"""Reads ONNX files that anybody may have written: every size is checked before memory is taken for it."""

import os
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.errors import FileFormatError
from cnn.onnx import library
from cnn.onnx.runtime import LARGEST
from cnn.paths import check_file, reading, shown
from cnn.words import counted

MOST_NODES, MOST_DIMENSIONS = 20_000, 8
MOST_NUMBERS = LARGEST // 4
"""Of all constants together: more do not fit into a file of float32."""

Numbers = npt.NDArray[Any]


class Unfit(Exception):
    """Why a node or a constant cannot be taken over, in words that follow its name."""


class _Type(NamedTuple):
    """How the elements of a type lie in `raw_data`, and the field that else holds them."""

    stored: str
    field: str


_TYPES = {
    1: _Type("<f4", "float_data"),
    2: _Type("u1", "int32_data"),
    3: _Type("i1", "int32_data"),
    5: _Type("<i2", "int32_data"),
    6: _Type("<i4", "int32_data"),
    7: _Type("<i8", "int64_data"),
    9: _Type("?", "int32_data"),
    10: _Type("<f2", "int32_data"),
    11: _Type("<f8", "double_data"),
    16: _Type("<u2", "int32_data"),  # bfloat16, the upper half of a float32
}
"""By the number that stands for a type in TensorProto.DataType of onnx.proto."""
_BFLOAT16, _FLOAT16 = 16, 10
EXTERNAL = 1
"""TensorProto.DataLocation of data in another file."""


class Budget:
    """How many numbers constants may still have."""

    def __init__(self, numbers: int = MOST_NUMBERS) -> None:
        self._left = numbers

    def take(self, shape: tuple[int, ...]) -> None:
        """Raises Unfit if an array of `shape` is too large, before it is made."""
        if len(shape) > MOST_DIMENSIONS or any(not 0 <= each <= MOST_NUMBERS for each in shape):
            raise Unfit(f"a constant has the shape {shape}, which is not one")
        self._left -= prod(shape)
        if self._left < 0:
            raise Unfit(f"the constants have more than {MOST_NUMBERS:,} numbers, more than a file of float32 holds")


def read_proto(path: Path) -> Any:
    """The message in an ONNX file, functions inlined. Raises FileFormatError if it is none."""
    onnx = library.onnx()
    check_file(path, "ONNX file")
    with reading(path, "ONNX file"):
        if path.stat().st_size > LARGEST:
            raise FileFormatError(f"{shown(path)} has more than 2 GiB, where a message of Protocol Buffers ends.")
        content = path.read_bytes()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # DecodeError is of another package, which onnx brings
        raise FileFormatError(f"{shown(path)} is damaged or not an ONNX file ({error}); export it again.") from error
    if not proto.graph.node or not proto.opset_import:
        raise FileFormatError(f"{shown(path)} has no network in it or is not an ONNX file; export it again.")
    if len(proto.graph.node) > MOST_NODES:
        raise FileFormatError(f"{shown(path)} has more than {counted(MOST_NODES, 'node')}; export a smaller network.")
    if any(isinstance(each, bytes) for each in _texts(proto)):
        raise FileFormatError(f"{shown(path)} has a name that is no UTF-8 text, so it is damaged; export it again.")
    return _inlined(onnx, proto, path) if proto.functions else proto


def _texts(proto: Any) -> Iterator[str | bytes]:
    """Every text of the message that is read here; what is no UTF-8 is given as bytes."""
    graph = proto.graph
    yield from (graph.name, proto.producer_name, *(each.domain for each in proto.opset_import))
    for each in proto.metadata_props:
        yield from (each.key, each.value)
    for each in (*graph.input, *graph.output, *graph.initializer, *proto.functions):
        yield each.name
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for node in (*graph.node, *(node for function in proto.functions for node in function.node)):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _inlined(onnx: Any, proto: Any, path: Path) -> Any:
    """The message with each call of one of its functions replaced by the function's nodes."""
    bodies = {(each.domain, each.name): list(_operators(each.node)) for each in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(function: tuple[str, str], outer: frozenset[tuple[str, str]]) -> int:
        if function not in bodies:
            return 1
        if function in outer or len(outer) > 50:
            raise FileFormatError(f"{shown(path)} has functions that call themselves; export it again.")
        if function not in sizes:
            sizes[function] = min(MOST_NODES + 1, sum(size(each, outer | {function}) for each in bodies[function]))
        return sizes[function]

    if sum(size(each, frozenset()) for each in _operators(proto.graph.node)) > MOST_NODES:
        raise FileFormatError(f"{shown(path)} has more than {counted(MOST_NODES, 'node')}; export a smaller network.")
    try:
        return onnx.inliner.inline_local_functions(proto)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise FileFormatError(f"{shown(path)} has functions that do not fit ({reason}); export it again.") from error


def _operators(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Domain and operator of each node, those in the graphs of branches and loops included."""
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _operators(graph.node)


def array(tensor: Any, folder: Path, budget: Budget) -> Numbers:
    """The numbers of a TensorProto; float16 and bfloat16 become float32. Raises Unfit if they are not there.

    `folder` is the one in which, and nowhere else, external data may lie.
    """
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        raise Unfit(f"{tensor.name!r} has numbers of type {tensor.data_type}, which are not known here")
    shape = tuple(tensor.dims)
    budget.take(shape)
    count, stored = prod(shape), np.dtype(kind.stored)
    if tensor.data_location == EXTERNAL:
        found = _external(tensor, folder, count, stored)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * stored.itemsize:
            raise Unfit(f"{tensor.name!r} has {len(tensor.raw_data)} bytes for the shape {shape}")
        found = np.frombuffer(tensor.raw_data, stored)
    else:
        values = getattr(tensor, kind.field)
        if len(values) != count:
            raise Unfit(f"{tensor.name!r} has {counted(len(values), 'number')} for the shape {shape}")
        found = _from_field(np.array(values), tensor.data_type, stored)
    return _as_known(found, tensor.data_type).reshape(shape)


def _from_field(values: Numbers, data_type: int, stored: "np.dtype[Any]") -> Numbers:
    """Numbers from a field that is wider than their type; halves are kept there as their bits."""
    if data_type in (_FLOAT16, _BFLOAT16):
        return (values.astype(np.int64) & 0xFFFF).astype("<u2").view(stored)
    with np.errstate(all="ignore"):
        return values.astype(stored)


def _as_known(found: Numbers, data_type: int) -> Numbers:
    if data_type == _BFLOAT16:
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32) if data_type == _FLOAT16 else found


def _external(tensor: Any, folder: Path, count: int, stored: "np.dtype[Any]") -> Numbers:
    """Numbers in a file beside the ONNX file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", count * stored.itemsize))
    except ValueError as error:
        raise Unfit(f"{tensor.name!r} lies at no place that can be read ({error})") from error
    if not location or "\0" in location or os.path.isabs(location):
        raise Unfit(
            f"{tensor.name!r} has its data in {location[:100]!r}, which is not a file in the folder of the network"
        )
    path = folder / location
    try:
        # Links count for where they lead.
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise Unfit(f"{tensor.name!r} has its data in {location[:100]!r}, which cannot be found ({error})") from error
    if not inside:
        raise Unfit(f"{tensor.name!r} has its data in {location[:100]!r}, outside the folder of the network")
    if length != count * stored.itemsize or offset < 0:
        raise Unfit(f"{tensor.name!r} has {length} bytes at {offset} for the shape {tuple(tensor.dims)}")
    check_file(path, "file of external data")
    with reading(path, "file of external data"):
        if path.stat().st_size < offset + length:
            raise Unfit(f"{tensor.name!r} ends beyond the file of external data {location[:100]!r}")
        return np.fromfile(path, stored, count, offset=offset)
