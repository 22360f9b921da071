"""Functions of single elements, and what is computed from several values element by element."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnn.layers import Add, LocalResponseNorm
from cnn.onnx.builder import Affine, Channel, Means, Value
from cnn.onnx.files import Numbers, Unfit
from cnn.onnx.functions import binary, line, recognised, shortest, unary
from cnn.onnx.graph import Given, Graph, constant_of, made, rows, shape_of, value_of, view
from cnn.onnx.nodes import Node


def elementwise(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    """A function of single elements, kept until somebody needs its numbers."""
    values = [each for each in inputs if isinstance(each, Value)]
    operator = "Add" if node.operator == "Sum" else node.operator
    if any(each.scores is not None for each in values):
        raise Unfit("it comes after a Softmax, which only ends a network here")
    with np.errstate(all="ignore"):
        if len(inputs) == 2 and binary(operator, 1.0, 1.0) is not None:
            if len(values) == 2:
                return _of_two(graph, node, operator, values[0], values[1])
            return _with_constant(graph, node, operator, inputs)
        return _of_one(graph, node, value_of(inputs), inputs[1:])


def _lazy(graph: Graph, node: Node, x: Value, ancestors: list[tuple[Value, Any]]) -> Value:
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), order=x.order, ancestors=ancestors)


def _of_one(graph: Graph, node: Node, x: Value, others: Sequence[Given]) -> Value:
    numbers: list[float | None] = []
    for each in others:
        if isinstance(each, Value):
            raise Unfit("it has limits or exponents that are computed from the images")
        if isinstance(each, np.ndarray) and each.size != 1 and not (each.size and np.all(each == each.reshape(-1)[0])):
            raise Unfit("it has a number of its own for each channel")
        numbers.append(None if each is None else float(np.asarray(each).reshape(-1)[0]))
    found = [(base, unary(node, values, numbers)) for base, values in x.descent()]
    if found[0][1] is None:
        raise Unfit("there is no layer for it")
    return _lazy(graph, node, x, [(base, values) for base, values in found if values is not None])


def _of_two(graph: Graph, node: Node, operator: str, x: Value, y: Value) -> Value:
    if y.means is not None and operator == "Div" and y.means.base is x:
        return _response_norm(graph, node, x, y.means)
    shared = {id(base): values for base, values in y.descent()}
    both = [(base, binary(operator, values, shared[id(base)])) for base, values in x.descent() if id(base) in shared]
    if both and x.same_layout(y) and (operator != "Add" or x is y or _is_known(both)):
        return _lazy(graph, node, x, both)
    if operator != "Add":
        text = "a product of two branches, as in squeeze-and-excitation" if operator == "Mul" else "of two branches"
        raise Unfit(f"it is {text}, for which there is no layer")
    return _added(graph, node, [x, y])


def _is_known(both: list[tuple[Value, Any]]) -> bool:
    return any(recognised(values) is not None or line(values) is not None for _, values in both)


def _added(graph: Graph, node: Node, parts: Sequence[Value]) -> Value:
    first = parts[0]
    if not all(first.same_layout(each) for each in parts):
        raise Unfit(
            f"it joins the shapes {' and '.join(str(shape_of(graph, each)) for each in parts)}, and only images or "
            "vectors of one shape are added by a layer"
        )
    place = graph.builder.add(Add(), [graph.builder.place(each) for each in parts])
    return made(graph, node, first.axes, place, first.order)


def sum_of(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    if len(inputs) == 1:
        x = value_of(inputs)
        return view(graph, node, x, x.axes)
    if len(inputs) == 2:
        return elementwise(graph, node, inputs)
    return _added(graph, node, [value_of(inputs, place) for place in range(len(inputs))])


def cast(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = value_of(inputs)
    if node.whole("to") not in (1, 10, 11, 16):
        raise Unfit("it rounds to whole numbers")
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), order=x.order, ancestors=x.descent())


def cast_like(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = value_of(inputs)
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), order=x.order, ancestors=x.descent())


def _with_constant(graph: Graph, node: Node, operator: str, inputs: Sequence[Given]) -> Value:
    first = isinstance(inputs[0], Value)
    x, number = value_of(inputs, 0 if first else 1), constant_of(inputs, 1 if first else 0, "one of its inputs")
    if number.size == 1 and number.ndim <= len(x.axes):
        value = float(number.reshape(-1)[0])
        if x.means is not None:
            return _of_means(graph, node, operator, x, x.means, value)
        if x.channel is not None:
            return _of_channel(graph, node, operator, x, x.channel, value, first=first)
        if x.affine is not None and x.place is None and operator in ("Add", "Sub", "Mul", "Div"):
            return _scaled(graph, node, operator, x, np.full(x.channels, value), first=first)
        found = [(base, binary(operator, *((f, value) if first else (value, f)))) for base, f in x.descent()]
        return _lazy(graph, node, x, [(base, values) for base, values in found if values is not None])
    return _scaled(graph, node, operator, x, _by_channel(graph, x, number), first=first)


def _of_channel(
    graph: Graph, node: Node, operator: str, x: Value, channel: Channel, value: float, *, first: bool
) -> Value:
    if operator == "Mul" or (operator == "Div" and first):
        scale, shift = (value if operator == "Mul" else 1 / value), 0.0
    elif operator == "Add" or (operator == "Sub" and first):
        scale, shift = 1.0, (value if operator == "Add" else -value)
    else:
        raise Unfit("it reads a part of the channels, for which there is no layer")
    factor, offset = channel.factor * scale, channel.offset * scale + shift
    found = replace(channel, factor=factor, offset=offset, alone=channel.alone and x.readers == 1)
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), channel=found)


def _by_channel(graph: Graph, x: Value, number: Numbers) -> Numbers:
    """A constant per channel (C,), or for the network's input per pixel (H, W, C)."""
    if number.ndim > len(x.axes):
        raise Unfit(f"its constant {number.shape} has more axes than {' '.join(x.axes)}")
    aligned = number.reshape((1,) * (len(x.axes) - number.ndim) + number.shape)
    sizes = shape_of(graph, x)
    if any(each not in (1, size) for each, size in zip(aligned.shape, sizes, strict=True)) or aligned.shape[0] != 1:
        raise Unfit(f"its constant {number.shape} does not fit the shape {sizes}")
    varies = {axis for axis, each in zip(x.axes, aligned.shape, strict=True) if each != 1}
    if varies <= {"C"}:
        flat = np.broadcast_to(aligned.reshape(-1), x.channels)
        return flat if x.order is None else rows(x, flat)
    if len(x.shape) != 3 or "1" in x.axes:
        raise Unfit("it has a number of its own for each pixel")
    moved = aligned.transpose([x.axes.index(axis) for axis in "NHWC"])[0]
    return np.broadcast_to(moved, x.shape)


def _scaled(graph: Graph, node: Node, operator: str, x: Value, number: Numbers, *, first: bool) -> Value:
    one, zero = np.ones(x.channels), np.zeros(x.channels)
    number = number.astype(np.float64)
    if operator == "Add":
        factor, offset = one, number
    elif operator == "Sub":
        factor, offset = (one, -number) if first else (-one, number)
    elif operator == "Mul" or (operator == "Div" and first):
        factor, offset = (number if operator == "Mul" else 1 / number), zero
    else:
        raise Unfit("it has a number of its own for each channel")
    if factor.ndim > 1:
        raise Unfit("it multiplies each pixel by a number of its own")
    alone, base = True, x
    straight = x.affine if x.place is None else None
    if straight is not None:
        base, alone = straight.base, straight.alone and x.readers == 1
        factor, offset = straight.factor * factor, straight.offset * factor + offset
    name = node.outputs[0]
    affine = Affine(base, factor, offset, alone)
    return Value(name, x.axes, x.shape, graph.readers(name), order=x.order, affine=affine)


def _of_means(graph: Graph, node: Node, operator: str, x: Value, means: Means, value: float) -> Value:
    if operator == "Mul" and means.k is None:
        means = replace(means, alpha=means.alpha * value)
    elif operator == "Add" and means.k is None:
        means = replace(means, k=value)
    elif operator == "Pow" and means.k is not None and means.beta is None:
        means = replace(means, beta=value)
    else:
        raise Unfit("it computes with the means of squares, but not as a local response normalisation")
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), means=means)


def _response_norm(graph: Graph, node: Node, x: Value, means: Means) -> Value:
    if means.k is None or means.beta is None:
        raise Unfit("it divides by the means of squares, but not as a local response normalisation")
    layer = LocalResponseNorm(means.size, shortest(means.alpha), shortest(means.beta), shortest(means.k), means.region)
    return made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)], title=graph.title(node)))
