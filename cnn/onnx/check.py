"""Holds an imported model to the scores that ONNX Runtime computes from the nodes that it was made of."""

from pathlib import Path

import numpy as np

from cnn.data.preprocessing import Preprocessing
from cnn.errors import CnnError, FileFormatError
from cnn.model.sequential import Sequential
from cnn.onnx import library
from cnn.onnx.files import EXTERNAL, Budget, Unfit, array
from cnn.onnx.reader import FLOAT, FLOATS, UINT8, Reader
from cnn.onnx.runtime import Comparison, Session, compared
from cnn.paths import shown

CHECKED = 3
"""Random images that an import is checked with, unless the file fixes their number."""
MOST_CHECKED = 64


def checked(model: Sequential, reader: Reader, outer: Preprocessing, scores: str, path: Path) -> Comparison:
    """Compares the model's scores of random images with ONNX Runtime's. Raises CnnError if they differ."""
    fixed = reader.batch if 1 < reader.batch <= MOST_CHECKED else 0
    count = fixed or (CHECKED if _open_batch(reader) else 1)
    images = np.random.default_rng(0).integers(0, 256, (count, *model.input_shape), np.uint8)
    x = images if reader.kind == UINT8 else outer.apply(images)
    if reader.axes == "NCHW":
        x = x.transpose(0, 3, 1, 2)
    elif reader.axes == "NC":
        x = x.reshape(count, -1)
    ours = model.backend.to_numpy(model.forward(model.load_images(images)))
    try:
        content = _plain_content(reader, scores)
    except Unfit as error:
        raise FileFormatError(f"{shown(path)} has an attribute that is damaged: {error}; export it again.") from error
    session = Session(content)
    theirs = session.run(scores, {reader.input: np.ascontiguousarray(x)})
    if theirs.shape != ours.shape:
        raise CnnError(f"{shown(path)} gives scores {theirs.shape} in ONNX Runtime, and {ours.shape} here.")
    found = compared(ours, theirs)
    if not found.agrees:
        raise CnnError(
            f"{shown(path)} was not imported: the model's scores differ from ONNX Runtime's by {found.difference:.2g} "
            "of the largest; please report it with the file."
        )
    return found


def _open_batch(reader: Reader) -> bool:
    [found] = [each for each in reader.proto.graph.input if each.name == reader.input]
    return bool(not found.type.tensor_type.shape.dim[0].dim_value)


def _plain_content(reader: Reader, scores: str) -> bytes:
    """The nodes that were read, with all constants in the file itself and every kind of float as float32."""
    onnx = library.onnx()
    helper, helpers = onnx.helper, onnx.numpy_helper
    budget = Budget()
    protos = []
    for node in reader.nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node.proto)
        for attribute in copied.attribute:
            if attribute.type == 4 and (attribute.t.data_type in FLOATS or attribute.t.data_location == EXTERNAL):
                numbers = array(attribute.t, reader.folder, budget)
                wide = numbers.astype(np.float32) if attribute.t.data_type in FLOATS else numbers
                attribute.t.CopyFrom(helpers.from_array(wide))
            if node.operator == "Cast" and attribute.name == "to" and attribute.i in FLOATS:
                attribute.i = FLOAT
        protos.append(copied)
    read = {name for node in reader.nodes for name in node.inputs} & reader.tensors.keys()
    constants = []
    for name in sorted(read):
        value = reader.constants.get(name)
        value = array(reader.tensors[name], reader.folder, budget) if value is None else value
        constants.append(helpers.from_array(value.astype(np.float32) if value.dtype == np.float64 else value, name))
    [given] = [each for each in reader.proto.graph.input if each.name == reader.input]
    image = onnx.ValueInfoProto()
    image.CopyFrom(given)
    if reader.kind in FLOATS:
        image.type.tensor_type.elem_type = FLOAT
    result = helper.make_empty_tensor_value_info(scores)
    graph = helper.make_graph(protos, "check", [image], [result], constants)
    proto = helper.make_model(graph, opset_imports=list(reader.proto.opset_import))
    proto.ir_version = max(4, reader.proto.ir_version)
    content: bytes = proto.SerializeToString()
    return content
