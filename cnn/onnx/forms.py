"""Operators that only give the same numbers another form: they become Flatten or nothing."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from cnn.layers import Concat, Flatten
from cnn.layers.shape import channels_first
from cnn.onnx.builder import Affine, Channel, Value
from cnn.onnx.constants import axes_of
from cnn.onnx.files import Unfit
from cnn.onnx.graph import Given, Graph, constant_of, made, optional_of, shape_of, value_of, vector_of, view
from cnn.onnx.nodes import Node


def concat(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    parts = [value_of(inputs, place) for place in range(len(inputs))]
    if all(each.channel is not None for each in parts):
        return _rejoined(graph, node, parts)
    axes, axis = parts[0].axes, node.whole("axis", 1)
    if any(each.axes != axes for each in parts) or not -len(axes) <= axis < len(axes) or axes[axis] != "C":
        raise Unfit("it does not join images or vectors by their channels")
    if len(parts) == 1:
        return view(graph, node, parts[0], axes)
    place = graph.builder.add(Concat(), [graph.builder.place(each) for each in parts])
    if all(each.order is None for each in parts):
        return made(graph, node, axes, place)
    orders, start = [], 0
    for each in parts:
        orders.append(start + (np.arange(each.channels) if each.order is None else each.order))
        start += each.channels
    return made(graph, node, axes, place, np.concatenate(orders))


def _rejoined(graph: Graph, node: Node, parts: Sequence[Value]) -> Value:
    """All channels of one value, each with a factor and an offset, as torchvision normalises pictures anew."""
    channels = [each.channel for each in parts if each.channel is not None]
    base = channels[0].base
    whole = [each.number for each in channels] == list(range(base.channels))
    if not whole or any(each.base is not base for each in channels) or parts[0].axes != base.axes:
        raise Unfit("it joins a part of the channels, for which there is no layer")
    alone = base.readers == len(parts) and all(
        each.alone and part.readers == 1 for each, part in zip(channels, parts, strict=True)
    )
    # To what follows, the parts together are the one reader of the base.
    source = replace(base, readers=1, place=graph.builder.place(base)) if alone else base
    factor, offset = (np.array([getattr(each, key) for each in channels]) for key in ("factor", "offset"))
    name = node.outputs[0]
    affine = Affine(source, factor, offset, alone)
    return Value(name, base.axes, base.shape, graph.readers(name), order=base.order, affine=affine)


def transpose(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = value_of(inputs)
    order = node.wholes("perm", list(range(len(x.axes)))[::-1])
    if sorted(order) != list(range(len(x.axes))) or order[0] != 0:
        raise Unfit(f"it moves the axes {' '.join(x.axes)} by {order}, which is no image or vector any more")
    return view(graph, node, x, "".join(x.axes[axis] for axis in order))


def _flat(graph: Graph, node: Node, x: Value) -> Value:
    """A vector of all elements of each image."""
    if len(x.shape) == 1:
        return view(graph, node, x, "NC")
    height, width, channels = x.shape
    if x.axes not in ("NCHW", "NHWC"):
        raise Unfit(f"it flattens {' '.join(x.axes)}; only images N C H W or N H W C have their order known")
    place = graph.builder.add(Flatten(), [graph.builder.place(x)])
    order = channels_first(height, width, channels) if x.axes == "NCHW" else None
    return made(graph, node, "NC", place, order)


def flatten(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axis = value_of(inputs), node.whole("axis", 1)
    if axis not in (1, 1 - len(x.axes)):
        raise Unfit(f"it flattens from axis {axis} on, and not every image by itself")
    return _flat(graph, node, x)


def reshape(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, target = value_of(inputs), constant_of(inputs, 1, "its shape").reshape(-1)
    before = shape_of(graph, x)
    kept = not node.whole("allowzero", 0)
    shape = [before[k] if each == 0 and kept and k < len(before) else int(each) for k, each in enumerate(target)]
    if shape.count(-1) == 1:
        known = -prod(shape)
        shape[shape.index(-1)] = prod(before) // known if known > 0 else 0
    if len(shape) > 8 or prod(shape) != prod(before) or min(shape, default=0) < 1:
        raise Unfit(f"it turns the shape {before} into {[int(each) for each in target]}, which does not fit")
    return _as_shape(graph, node, x, before, shape)


def _as_shape(graph: Graph, node: Node, x: Value, before: list[int], shape: list[int]) -> Value:
    if shape == before:
        return view(graph, node, x, x.axes)
    if shape[0] == graph.batch and len(shape) == 2:
        return _flat(graph, node, x)
    if shape[0] == graph.batch and len(x.shape) == 1 and sum(each != 1 for each in shape[1:]) <= 1:
        place = next((k for k, each in enumerate(shape) if k and each == x.channels), 1)
        return view(graph, node, x, "".join("N" if k == 0 else "C" if k == place else "1" for k in range(len(shape))))
    if len(shape) == 5 and len(x.shape) == 3:
        raise Unfit("it divides the channels, as a shuffle of channels does, for which there is no layer")
    raise Unfit(f"it turns the shape {before} into {shape}, which is neither an image as before nor a vector of it")


def squeeze(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axes = value_of(inputs), axes_of(node, optional_of(inputs, 1))
    before = shape_of(graph, x)
    if axes is None:
        axes = [k for k, each in enumerate(before) if k and each == 1]
    places = {axis % len(before) for axis in axes}
    if any(before[k] != 1 or k == 0 or x.axes[k] == "C" for k in places):
        raise Unfit(f"it takes the axes {axes} out of the shape {before}")
    kept = "".join(axis for k, axis in enumerate(x.axes) if k not in places)
    if len(x.shape) == 3 and {"H", "W"} - set(kept):
        if set(kept) & {"H", "W"}:
            raise Unfit("it takes one of the two axes of an image away")
        return _flat(graph, node, x)
    return view(graph, node, x, kept)


def unsqueeze(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axes = value_of(inputs), axes_of(node, optional_of(inputs, 1)) or []
    rank = len(x.axes) + len(axes)
    if x.channel is not None and "C" not in x.axes and len(axes) == 1 and -rank <= axes[0] < rank:
        letters, name, place = list(x.axes), node.outputs[0], axes[0] % rank
        letters.insert(place, "C")
        joined, channel = "".join(letters), replace(x.channel, alone=x.channel.alone and x.readers == 1)
        return Value(name, joined, x.shape, graph.readers(name), channel=channel)
    places = {axis % rank for axis in axes}
    if len(x.shape) != 1 or 0 in places or rank > 4 or len(places) != len(axes):
        raise Unfit(f"it adds the axes {axes} to {' '.join(x.axes)}")
    before = iter(x.axes)
    return view(graph, node, x, "".join("1" if k in places else next(before) for k in range(rank)))


def gather(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, index = value_of(inputs), constant_of(inputs, 1, "its index")
    axis, places = node.whole("axis", 0), index.reshape(-1)
    if len(x.shape) == 3 and index.ndim == 0 and 0 <= axis < len(x.axes) and x.axes[axis] == "C":
        if not -x.channels <= int(index) < x.channels:
            raise Unfit(f"it takes channel {int(index)} of {x.channels}")
        channel, name = Channel(x, int(index) % x.channels), node.outputs[0]
        return Value(name, x.axes.replace("C", ""), (*x.shape[:2], 1), graph.readers(name), channel=channel)
    vector_of(x)
    if node.whole("axis", 0) not in (1, -1) or sorted(places) != list(range(x.channels)):
        raise Unfit("it takes a part of the numbers, for which there is no layer")
    found = view(graph, node, x, "NC")
    order = np.arange(x.channels) if x.order is None else x.order
    found.order = order[places.astype(np.int64)]
    if np.array_equal(found.order, np.arange(x.channels)):
        found.order = None
    return found


def expand(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, target = value_of(inputs), [int(each) for each in constant_of(inputs, 1, "its shape").reshape(-1)]
    before = shape_of(graph, x)
    if len(target) > len(before) or any(a not in (1, b) for a, b in zip(target[::-1], before[::-1], strict=False)):
        raise Unfit(f"it repeats numbers from the shape {before} to {target}, for which there is no layer")
    return view(graph, node, x, x.axes)
