"""What each operator of ONNX becomes: a layer, a part of one, or another form of the same numbers."""

from collections.abc import Sequence
from dataclasses import replace

from cnn.layers import BatchNorm, Dropout, LocalResponseNorm
from cnn.onnx.builder import Value
from cnn.onnx.elements import cast, cast_like, elementwise, sum_of
from cnn.onnx.files import Unfit
from cnn.onnx.forms import concat, expand, flatten, gather, reshape, squeeze, transpose, unsqueeze
from cnn.onnx.functions import ELEMENTWISE, shortest
from cnn.onnx.graph import Given, Graph, Operator, constant_of, images_of, made, optional_of, rows, value_of, view
from cnn.onnx.nodes import Node
from cnn.onnx.pools import average_pool, global_average, global_max, max_pool, pad, reduce_mean
from cnn.onnx.products import conv, gemm, matmul


def _batch_norm(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = value_of(inputs)
    if node.whole("training_mode", 0) or (node.opset < 9 and not node.whole("spatial", 1)):
        raise Unfit("it normalises by the batch itself; export the network for inference")
    if x.axes[1:2] != "C":
        raise Unfit(f"it takes channels as the second axis, but reads {' '.join(x.axes)}")
    names = ("gamma", "beta", "running_mean", "running_variance")
    arrays = {name: constant_of(inputs, place, f"its {name}") for place, name in enumerate(names, 1)}
    if any(each.shape != (x.channels,) for each in arrays.values()):
        raise Unfit(f"its arrays do not fit {x.channels} channels")
    if x.order is not None:
        arrays = {name: rows(x, each) for name, each in arrays.items()}
    if float(arrays["running_variance"].min()) < 0:
        raise Unfit("a variance is below 0")
    momentum, epsilon = node.real("momentum", 0.9), node.real("epsilon", 1e-5)
    layer = BatchNorm(shortest(momentum) if 0 <= momentum < 1 else 0.9, shortest(epsilon))
    place = graph.builder.add(layer, [graph.builder.place(x)], arrays, graph.title(node))
    return made(graph, node, x.axes, place, x.order)


def _lrn(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, size = images_of(value_of(inputs)), node.whole("size")
    if size % 2 == 0:
        raise Unfit(f"it is over {size} channels; only odd numbers are centred")
    numbers = (node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0))
    alpha, beta, k = map(shortest, numbers)
    layer = LocalResponseNorm(size, alpha, beta, k)
    return made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def _dropout(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, rate, mode = value_of(inputs), optional_of(inputs, 1), optional_of(inputs, 2)
    if mode is not None and mode.any():
        raise Unfit("it drops elements in inference, too")
    if rate is not None and not rate.size:
        raise Unfit("its rate is empty")
    share = node.real("ratio", 0.5) if rate is None else float(rate.reshape(-1)[0])
    if not 0 < share < 1:
        return view(graph, node, x, x.axes)
    place = graph.builder.add(Dropout(shortest(share)), [graph.builder.place(x)])
    return made(graph, node, x.axes, place, x.order)


def _softmax(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axis = value_of(inputs), node.whole("axis", 1 if node.opset < 13 else -1)
    if not -len(x.axes) <= axis < len(x.axes) or (len(x.shape) == 3 and x.shape[:2] != (1, 1)):
        raise Unfit("it is not over the classes")
    if x.axes[axis] != "C" and node.opset >= 13:
        raise Unfit("it is not over the classes")
    found = view(graph, node, x, x.axes)
    found.scores = node.inputs[0]
    return found


def passed_on(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    """A node that changes the form of probabilities at most."""
    x = inputs[0]
    assert isinstance(x, Value)
    name = node.outputs[0]
    return replace(x, name=name, readers=graph.readers(name))


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "BatchNormalization": _batch_norm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
    "ReduceMean": reduce_mean,
    "LRN": _lrn,
    "Dropout": _dropout,
    "Concat": concat,
    "Transpose": transpose,
    "Flatten": flatten,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Gather": gather,
    "Pad": pad,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Cast": cast,
    "CastLike": cast_like,
    "Expand": expand,
    "Sum": sum_of,
}
PASSED_ON = ("ai.onnx.ml.ZipMap",)
"""Operators that only change the form of probabilities, in what scikit-learn's converter writes."""
ENDINGS = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")
"""Operators that may follow a Softmax."""
