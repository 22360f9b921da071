"""Convolutions and products with matrices."""

from collections.abc import Sequence

import numpy as np

from cnn.convolution import kernel_extent
from cnn.layers import Conv2D, Linear
from cnn.onnx.builder import Means, Value
from cnn.onnx.files import Numbers, Unfit
from cnn.onnx.graph import Given, Graph, constant_of, images_of, made, optional_of, rows, squared, value_of, vector_of
from cnn.onnx.nodes import Node
from cnn.onnx.windows import one_or_two, padding_of, pads_of, plus, two


def conv(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, weight, bias = value_of(inputs), constant_of(inputs, 1, "its weight"), optional_of(inputs, 2)
    if weight.ndim != 4:
        raise Unfit(f"its kernels have {weight.ndim - 2} dimensions, and only those of images have a layer")
    kernel, stride, dilation = tuple(weight.shape[2:]), two(node, "strides"), two(node, "dilations")
    groups = node.whole("group", 1)
    if 0 in weight.shape or (node.has("kernel_shape") and tuple(node.wholes("kernel_shape")) != kernel):
        raise Unfit(f"its weight has the shape {weight.shape}, which does not fit its kernel")
    if groups < 1 or weight.shape[1] * groups != x.channels:
        raise Unfit(f"its weight {weight.shape} with {groups} groups does not fit {x.channels} channels")
    arrays = {"weight": weight.transpose(2, 3, 1, 0)}
    if bias is not None:
        arrays["bias"] = bias
    title = graph.title(node)
    if x.axes == "NC11" and kernel == (1, 1) and groups == 1 and not any(node.wholes("pads", [0] * 4)):
        arrays["weight"] = rows(x, arrays["weight"][0, 0])
        linear = Linear(weight.shape[0], bias is not None)
        return made(graph, node, "NC11", graph.builder.add(linear, [graph.builder.place(x)], arrays, title))
    means = _band(x, weight, bias, groups)
    if means is not None:
        name = node.outputs[0]
        return Value(name, x.axes, x.shape, graph.readers(name), means=means)
    images_of(x)
    border = pads_of(node, x.shape, kernel_extent(kernel, dilation), stride)
    if x.padded is not None and x.padded.number == 0 and x.place is None:
        border, x = plus(border, x.padded.border), x.padded.base
    layer = Conv2D(
        weight.shape[0],
        one_or_two(kernel),
        one_or_two(stride),
        padding_of(border),
        bias is not None,
        groups=groups,
        dilation=one_or_two(dilation),
    )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise Unfit(f"its bias has the shape {bias.shape} for {weight.shape[0]} filters")
    return made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)], arrays, title))


def _band(x: Value, weight: Numbers, bias: Numbers | None, groups: int) -> Means | None:
    """Means of squares over an even number of channels, which ONNX's LRN does not have."""
    base = squared(x)
    if base is None or bias is not None or groups != 1 or weight.shape[2:] != (1, 1) or x.axes != "NCHW":
        return None
    channels, distance = x.channels, np.arange(x.channels)[None, :] - np.arange(x.channels)[:, None]
    size = int(np.count_nonzero(weight[channels // 2]))
    if weight.shape[:2] != (channels, channels) or size < 2 or size > channels:
        return None
    near = (distance >= -(size // 2)) & (distance < size - size // 2)
    return Means(base, size, "across") if np.allclose(weight[:, :, 0, 0], near / size) else None


def gemm(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, weight, added = vector_of(value_of(inputs)), constant_of(inputs, 1, "its weight"), optional_of(inputs, 2)
    if node.whole("transA", 0) or weight.ndim != 2:
        raise Unfit("it does not multiply vectors by a matrix")
    weight = node.real("alpha", 1.0) * (weight.T if node.whole("transB", 0) else weight)
    bias = None
    if added is not None:
        if added.size not in (1, weight.shape[1]) or added.shape[-1:] not in ((), (1,), weight.shape[1:]):
            raise Unfit(f"it adds an array {added.shape}, which is no bias of {weight.shape[1]}")
        bias = np.broadcast_to(added.reshape(-1), weight.shape[1:]) * node.real("beta", 1.0)
    return _linear(graph, node, x, weight, bias)


def matmul(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, weight = vector_of(value_of(inputs)), constant_of(inputs, 1, "its weight")
    if weight.ndim != 2:
        raise Unfit("it does not multiply vectors by a matrix")
    return _linear(graph, node, x, weight, None)


def _linear(graph: Graph, node: Node, x: Value, weight: Numbers, bias: Numbers | None) -> Value:
    if 0 in weight.shape:
        raise Unfit(f"its weight has the shape {weight.shape}")
    arrays = {"weight": rows(x, weight)} | ({} if bias is None else {"bias": bias})
    layer = Linear(weight.shape[1], bias is not None)
    return made(graph, node, "NC", graph.builder.add(layer, [graph.builder.place(x)], arrays, graph.title(node)))
