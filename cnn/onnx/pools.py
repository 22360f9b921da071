"""Pools, and the padding before them."""

from collections.abc import Sequence

import numpy as np

from cnn.convolution import Window
from cnn.layers import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from cnn.onnx.builder import Means, Padded, Value
from cnn.onnx.constants import axes_of
from cnn.onnx.files import Unfit
from cnn.onnx.graph import Given, Graph, images_of, made, optional_of, squared, value_of, view
from cnn.onnx.nodes import Node
from cnn.onnx.windows import one_or_two, padding_of, plus, rounds_up, step_of, windows_of


def max_pool(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = images_of(value_of(inputs))
    kernel, stride, border = windows_of(node, x)
    if len(node.outputs) > 1 and any(graph.readers(name) for name in node.outputs[1:]):
        raise Unfit("the places of its largest elements are used")
    ceil = bool(node.whole("ceil_mode", 0))
    if x.padded is not None and x.place is None:
        base = x.padded.base
        # A border of zeros is never larger than what a ReLU gives, and so the same as none.
        lowest = x.padded.number <= np.finfo(np.float32).min
        if lowest or (x.padded.number == 0 and graph.builder.positive(graph.builder.place(base))):
            border, x = plus(border, x.padded.border), base
    if not ceil and rounds_up(x.shape, kernel, stride, (0, 0, 0, 0), border):
        border, ceil = (0, 0, 0, 0), True
    layer = MaxPool2D(one_or_two(kernel), step_of(kernel, stride), padding_of(border), ceil)
    return made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def average_pool(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = images_of(value_of(inputs))
    kernel, stride, border = windows_of(node, x)
    counts, ceil = bool(node.whole("count_include_pad", 0)), bool(node.whole("ceil_mode", 0))
    base, reach = squared(x), (kernel[0] // 2,) * 4
    centred = kernel[0] == kernel[1] and kernel[0] % 2 == 1 and stride == (1, 1) and border == reach
    if base is not None and centred and counts and not ceil:
        name = node.outputs[0]
        return Value(name, x.axes, x.shape, graph.readers(name), means=Means(base, kernel[0], "within"))
    if not any(border):
        counts = True
    padded = x.padded
    if padded is not None and padded.number == 0 and x.place is None:
        if counts and not (ceil and any(border)):
            border, x = plus(border, padded.border), padded.base
        elif not ceil and rounds_up(padded.base.shape, kernel, stride, padded.border, border):
            border, x, ceil, counts = padded.border, padded.base, True, True
    elif not counts and not ceil and rounds_up(x.shape, kernel, stride, (0, 0, 0, 0), border):
        border, ceil, counts = (0, 0, 0, 0), True, True
    layer = AvgPool2D(one_or_two(kernel), step_of(kernel, stride), padding_of(border), ceil, counts)
    return made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def global_average(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = images_of(value_of(inputs))
    return made(graph, node, "NC11", graph.builder.add(GlobalAvgPool2D(), [graph.builder.place(x)]))


def global_max(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = images_of(value_of(inputs))
    layer = MaxPool2D((x.shape[0], x.shape[1]))
    return made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def reduce_mean(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axes = value_of(inputs), axes_of(node, optional_of(inputs, 1))
    letters = [x.axes[axis] for axis in axes or () if -len(x.axes) <= axis < len(x.axes)]
    if sorted(letters) != ["H", "W"] or len(x.shape) != 3:
        raise Unfit(f"it averages over {' '.join(letters) or 'everything'}, and only over all pixels is there a layer")
    kept = "1" if node.whole("keepdims", 1) else ""
    place = graph.builder.add(GlobalAvgPool2D(), [graph.builder.place(x)])
    return made(graph, node, x.axes.replace("H", kept).replace("W", kept), place)


def pad(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = images_of(value_of(inputs))
    given = optional_of(inputs, 1)
    pads = [int(each) for each in given.reshape(-1)] if given is not None else node.wholes("pads")
    axes = optional_of(inputs, 3)
    if axes is not None:
        whole = [0] * 8
        for place, axis in enumerate(int(each) for each in axes.reshape(-1)):
            whole[axis % 4], whole[axis % 4 + 4] = pads[place], pads[place + len(pads) // 2]
        pads = whole
    number = optional_of(inputs, 2)
    value = node.real("value", 0.0) if number is None or not number.size else float(number.reshape(-1)[0])
    if len(pads) != 8 or any(pads[:2]) or any(pads[4:6]) or min(pads) < 0:
        raise Unfit(f"its padding {pads} is none of rows and columns")
    if node.text("mode", "constant") != "constant":
        raise Unfit(f"it pads by {node.text('mode', '')}, and layers only with zeros")
    border = (pads[2], pads[6], pads[3], pads[7])
    if not any(border):
        return view(graph, node, x, x.axes)
    if x.padded is not None and x.place is None and x.padded.number == value:
        border, x = plus(border, x.padded.border), x.padded.base
    height, width = x.shape[0] + border[0] + border[1], x.shape[1] + border[2] + border[3]
    # The sizes that a window may have are checked here.
    Window((height, width), (1, 1))
    name = node.outputs[0]
    padded = Padded(x, border, value)
    return Value(name, x.axes, (height, width, x.channels), graph.readers(name), padded=padded)
