"""ONNX files of a few nodes, and what ONNX Runtime computes from them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

DRAW = np.random.default_rng(7)


def draw(*shape):
    """Weights of about 1."""
    return DRAW.normal(size=shape).astype(np.float32)


def node(operator, inputs, output, **attributes):
    """A node; inputs are separated by spaces, and `-` is one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(operator, names, output.split(), **attributes)


def model(
    nodes, constants=None, *, shape=("n", 3, 8, 8), outputs=("y",), opset=17, kind=TensorProto.FLOAT, functions=()
):
    """A model with the input x and outputs of no stated shape; constants are arrays or TensorProtos by name."""
    tensors = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    for name, tensor in zip(constants or {}, tensors, strict=True):
        tensor.name = name
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        tensors,
    )
    domains = {each.domain for each in functions} | {each.domain for each in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in sorted(domains))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def write(path, proto):
    """Writes the model, and returns the path."""
    path.write_bytes(proto.SerializeToString())
    return path


def runtime(content, x, output="y"):
    """An output of ONNX Runtime as (N, K); `content` is a model, bytes or a path."""
    if isinstance(content, onnx.ModelProto):
        content = content.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = session.run([output], {session.get_inputs()[0].name: x})[0]
    return np.asarray(found).reshape(len(x), -1)
