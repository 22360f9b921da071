"""What each operator of ONNX becomes: a layer, a part of one, or another view of the same numbers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Protocol

import numpy as np

from cnn.arrays import Shape
from cnn.convolution import Padding, Window, kernel_extent, resolve_padding
from cnn.errors import ShapeError
from cnn.layers import (
    Add,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
)
from cnn.layers.shape import channels_first
from cnn.onnx.builder import Affine, Builder, Means, Padded, Value
from cnn.onnx.constants import axes_of
from cnn.onnx.files import Numbers, Unfit
from cnn.onnx.functions import ELEMENTWISE, GRID, binary, line, recognised, same, shortest, unary
from cnn.onnx.nodes import Node

Given = Value | Numbers | None
Border = tuple[int, int, int, int]


class Graph(Protocol):
    """What an operator needs to know of the graph that it is in."""

    builder: Builder
    batch: int

    def readers(self, name: str) -> int:
        """How many nodes read a value, the output of the network counted."""
        ...

    def title(self, node: Node) -> str:
        """What a layer made of the node may be called."""
        ...


Operator = Callable[[Graph, Node, Sequence[Given]], Value]


def _value(inputs: Sequence[Given], place: int = 0) -> Value:
    found = inputs[place] if len(inputs) > place else None
    if not isinstance(found, Value):
        raise Unfit("it does not read the images where a layer does")
    if found.scores is not None:
        raise Unfit("it comes after a Softmax, which only ends a network here")
    return found


def _constant(inputs: Sequence[Given], place: int, what: str) -> Numbers:
    found = inputs[place] if len(inputs) > place else None
    if not isinstance(found, np.ndarray):
        raise Unfit(f"{what} is not in the file but computed from the images or not given")
    return found


def _optional(inputs: Sequence[Given], place: int) -> Numbers | None:
    found = inputs[place] if len(inputs) > place else None
    if isinstance(found, Value):
        raise Unfit(f"its input {place} is computed from the images, and must be a constant")
    return found


def _made(graph: Graph, node: Node, axes: str, place: int, order: Numbers | None = None) -> Value:
    name = node.outputs[0]
    return Value(name, axes, graph.builder.shape(place), graph.readers(name), place, order)


def _view(graph: Graph, node: Node, x: Value, axes: str) -> Value:
    """The same numbers with other axes."""
    place, name = graph.builder.place(x), node.outputs[0]
    exclusive = x.exclusive and x.readers == 1
    return Value(name, axes, x.shape, graph.readers(name), place, x.order, exclusive=exclusive)


def shape_of(graph: Graph, x: Value) -> list[int]:
    """The shape of a value in the graph."""
    sizes = {"N": graph.batch, "1": 1, "C": x.shape[-1]}
    if len(x.shape) == 3:
        sizes |= {"H": x.shape[0], "W": x.shape[1]}
    return [sizes[axis] for axis in x.axes]


def _images(x: Value) -> Value:
    if x.axes != "NCHW" or len(x.shape) != 3:
        raise Unfit(f"it takes images N C H W, but reads {' '.join(x.axes)}")
    return x


def _pads(node: Node, size: Shape, kernel: tuple[int, int], stride: tuple[int, int]) -> Border:
    """(top, bottom, left, right); `kernel` is what it spans."""
    mode = node.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        top, bottom, left, right = resolve_padding("same", (size[0], size[1]), kernel, stride)
        return (top, bottom, left, right) if mode == "SAME_UPPER" else (bottom, top, right, left)
    pads = node.wholes("pads", [0] * 4)
    if mode not in ("NOTSET", "VALID") or len(pads) != 4:
        raise Unfit(f"its padding {mode} {pads} is none of an image")
    top, left, bottom, right = (0, 0, 0, 0) if mode == "VALID" else pads
    return top, bottom, left, right


def _padding(border: Border) -> Padding:
    """The shortest way to write it."""
    top, bottom, left, right = border
    if not any(border):
        return "valid"
    if top == bottom and left == right:
        return top if top == left else (top, left)
    return border


def _two(node: Node, name: str) -> tuple[int, int]:
    numbers = node.wholes(name, [1, 1])
    if len(numbers) != 2:
        raise Unfit(f"it has {len(numbers)} {name}, where images have 2")
    return numbers[0], numbers[1]


def _number(pair: tuple[int, int]) -> int | tuple[int, int]:
    return pair[0] if pair[0] == pair[1] else pair


def _step(kernel: tuple[int, int], stride: tuple[int, int]) -> int | tuple[int, int] | None:
    """The stride of a pool, None if it is the kernel."""
    return None if stride == kernel else _number(stride)


def _plus(one: Border, other: Border) -> Border:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def _conv(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, weight, bias = _value(inputs), _constant(inputs, 1, "its weight"), _optional(inputs, 2)
    if weight.ndim != 4:
        raise Unfit(f"its kernels have {weight.ndim - 2} dimensions, and only those of images have a layer")
    kernel, stride, dilation = tuple(weight.shape[2:]), _two(node, "strides"), _two(node, "dilations")
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
        arrays["weight"] = _rows(x, arrays["weight"][0, 0])
        linear = Linear(weight.shape[0], bias is not None)
        return _made(graph, node, "NC11", graph.builder.add(linear, [graph.builder.place(x)], arrays, title))
    means = _band(x, weight, bias, groups)
    if means is not None:
        name = node.outputs[0]
        return Value(name, x.axes, x.shape, graph.readers(name), means=means)
    _images(x)
    border = _pads(node, x.shape, kernel_extent(kernel, dilation), stride)
    if x.padded is not None and x.padded.number == 0 and x.place is None:
        border, x = _plus(border, x.padded.border), x.padded.base
    layer = Conv2D(
        weight.shape[0],
        _number(kernel),
        _number(stride),
        _padding(border),
        bias is not None,
        groups=groups,
        dilation=_number(dilation),
    )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise Unfit(f"its bias has the shape {bias.shape} for {weight.shape[0]} filters")
    return _made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)], arrays, title))


def _squared(x: Value) -> Value | None:
    """What the value is the square of, None if it is no square."""
    if x.place is not None:
        return None
    return next((base for base, values in x.ancestors if same(values, GRID * GRID)), None)


def _band(x: Value, weight: Numbers, bias: Numbers | None, groups: int) -> Means | None:
    """Means of squares over an even number of channels, which ONNX's LRN does not have."""
    base = _squared(x)
    if base is None or bias is not None or groups != 1 or weight.shape[2:] != (1, 1) or x.axes != "NCHW":
        return None
    channels, distance = x.channels, np.arange(x.channels)[None, :] - np.arange(x.channels)[:, None]
    size = int(np.count_nonzero(weight[channels // 2]))
    if weight.shape[:2] != (channels, channels) or size < 2 or size > channels:
        return None
    near = (distance >= -(size // 2)) & (distance < size - size // 2)
    return Means(base, size, "across") if np.allclose(weight[:, :, 0, 0], near / size) else None


def _rows(x: Value, weight: Numbers) -> Numbers:
    """A weight (D, K) with its rows in our order."""
    if weight.shape[0] != x.channels:
        raise Unfit(f"its weight has {weight.shape[0]} rows for vectors of {x.channels}")
    if x.order is None:
        return weight
    found = np.empty_like(weight)
    found[x.order] = weight
    return found


def _vector(x: Value) -> Value:
    if x.axes != "NC":
        raise Unfit(f"it takes vectors, but reads {' '.join(x.axes)}")
    return x


def _gemm(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, weight, added = _vector(_value(inputs)), _constant(inputs, 1, "its weight"), _optional(inputs, 2)
    if node.whole("transA", 0) or weight.ndim != 2:
        raise Unfit("it does not multiply vectors by a matrix")
    weight = node.real("alpha", 1.0) * (weight.T if node.whole("transB", 0) else weight)
    bias = None
    if added is not None:
        if added.size not in (1, weight.shape[1]) or added.shape[-1:] not in ((), (1,), weight.shape[1:]):
            raise Unfit(f"it adds an array {added.shape}, which is no bias of {weight.shape[1]}")
        bias = np.broadcast_to(added.reshape(-1), weight.shape[1:]) * node.real("beta", 1.0)
    return _linear(graph, node, x, weight, bias)


def _matmul(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, weight = _vector(_value(inputs)), _constant(inputs, 1, "its weight")
    if weight.ndim != 2:
        raise Unfit("it does not multiply vectors by a matrix")
    return _linear(graph, node, x, weight, None)


def _linear(graph: Graph, node: Node, x: Value, weight: Numbers, bias: Numbers | None) -> Value:
    if 0 in weight.shape:
        raise Unfit(f"its weight has the shape {weight.shape}")
    arrays = {"weight": _rows(x, weight)} | ({} if bias is None else {"bias": bias})
    layer = Linear(weight.shape[1], bias is not None)
    return _made(graph, node, "NC", graph.builder.add(layer, [graph.builder.place(x)], arrays, graph.title(node)))


def _batch_norm(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _value(inputs)
    if node.whole("training_mode", 0) or (node.opset < 9 and not node.whole("spatial", 1)):
        raise Unfit("it normalises by the batch itself; export the network for inference")
    if x.axes[1:2] != "C":
        raise Unfit(f"it takes channels as the second axis, but reads {' '.join(x.axes)}")
    names = ("gamma", "beta", "running_mean", "running_variance")
    arrays = {name: _constant(inputs, place, f"its {name}") for place, name in enumerate(names, 1)}
    if any(each.shape != (x.channels,) for each in arrays.values()):
        raise Unfit(f"its arrays do not fit {x.channels} channels")
    if x.order is not None:
        arrays = {name: _rows(x, each) for name, each in arrays.items()}
    if float(arrays["running_variance"].min()) < 0:
        raise Unfit("a variance is below 0")
    momentum, epsilon = node.real("momentum", 0.9), node.real("epsilon", 1e-5)
    layer = BatchNorm(shortest(momentum) if 0 <= momentum < 1 else 0.9, shortest(epsilon))
    place = graph.builder.add(layer, [graph.builder.place(x)], arrays, graph.title(node))
    return _made(graph, node, x.axes, place, x.order)


def _windows(node: Node, x: Value) -> tuple[tuple[int, int], tuple[int, int], Border]:
    """Kernel, stride and padding of a pool."""
    kernel, stride = _two(node, "kernel_shape"), _two(node, "strides")
    if _two(node, "dilations") != (1, 1):
        raise Unfit("it has dilation, which no pooling layer has")
    return kernel, stride, _pads(node, x.shape, kernel, stride)


def _rounds_up(size: Shape, kernel: tuple[int, int], stride: tuple[int, int], inner: Border, outer: Border) -> bool:
    """Whether the windows with the padding `inner + outer` are those with `inner`, rounded up."""
    if not any(outer) or outer[0] or outer[2]:
        return False
    try:
        rounded = Window((size[0], size[1]), kernel, stride, inner, True)
    except ShapeError:
        return False
    beyond = tuple(
        max(0, (out - 1) * step + span - side)
        for out, step, span, side in zip(rounded.out, stride, kernel, rounded.padded, strict=True)
    )
    return beyond == (outer[1], outer[3])


def _max_pool(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _images(_value(inputs))
    kernel, stride, border = _windows(node, x)
    if len(node.outputs) > 1 and any(graph.readers(name) for name in node.outputs[1:]):
        raise Unfit("the places of its largest elements are used")
    ceil = bool(node.whole("ceil_mode", 0))
    if x.padded is not None and x.place is None:
        base = x.padded.base
        # A border of zeros is never larger than what a ReLU gives, and so the same as none.
        lowest = x.padded.number <= np.finfo(np.float32).min
        if lowest or (x.padded.number == 0 and graph.builder.positive(graph.builder.place(base))):
            border, x = _plus(border, x.padded.border), base
    if not ceil and _rounds_up(x.shape, kernel, stride, (0, 0, 0, 0), border):
        border, ceil = (0, 0, 0, 0), True
    layer = MaxPool2D(_number(kernel), _step(kernel, stride), _padding(border), ceil)
    return _made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def _avg_pool(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _images(_value(inputs))
    kernel, stride, border = _windows(node, x)
    counts, ceil = bool(node.whole("count_include_pad", 0)), bool(node.whole("ceil_mode", 0))
    base, reach = _squared(x), (kernel[0] // 2,) * 4
    centred = kernel[0] == kernel[1] and kernel[0] % 2 == 1 and stride == (1, 1) and border == reach
    if base is not None and centred and counts and not ceil:
        name = node.outputs[0]
        return Value(name, x.axes, x.shape, graph.readers(name), means=Means(base, kernel[0], "within"))
    if not any(border):
        counts = True
    padded = x.padded
    if padded is not None and padded.number == 0 and x.place is None:
        if counts and not (ceil and any(border)):
            border, x = _plus(border, padded.border), padded.base
        elif not ceil and _rounds_up(padded.base.shape, kernel, stride, padded.border, border):
            border, x, ceil, counts = padded.border, padded.base, True, True
    elif not counts and not ceil and _rounds_up(x.shape, kernel, stride, (0, 0, 0, 0), border):
        border, ceil, counts = (0, 0, 0, 0), True, True
    layer = AvgPool2D(_number(kernel), _step(kernel, stride), _padding(border), ceil, counts)
    return _made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def _global_average(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _images(_value(inputs))
    return _made(graph, node, "NC11", graph.builder.add(GlobalAvgPool2D(), [graph.builder.place(x)]))


def _global_max(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _images(_value(inputs))
    layer = MaxPool2D((x.shape[0], x.shape[1]))
    return _made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def _reduce_mean(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axes = _value(inputs), axes_of(node, _optional(inputs, 1))
    letters = [x.axes[axis] for axis in axes or () if -len(x.axes) <= axis < len(x.axes)]
    if sorted(letters) != ["H", "W"] or len(x.shape) != 3:
        raise Unfit(f"it averages over {' '.join(letters) or 'everything'}, and only over all pixels is there a layer")
    kept = "1" if node.whole("keepdims", 1) else ""
    place = graph.builder.add(GlobalAvgPool2D(), [graph.builder.place(x)])
    return _made(graph, node, x.axes.replace("H", kept).replace("W", kept), place)


def _lrn(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, size = _images(_value(inputs)), node.whole("size")
    if size % 2 == 0:
        raise Unfit(f"it is over {size} channels; only odd numbers are centred")
    numbers = (node.real("alpha", 1e-4), node.real("beta", 0.75), node.real("bias", 1.0))
    alpha, beta, k = map(shortest, numbers)
    layer = LocalResponseNorm(size, alpha, beta, k)
    return _made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)]))


def _dropout(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, rate, mode = _value(inputs), _optional(inputs, 1), _optional(inputs, 2)
    if mode is not None and mode.any():
        raise Unfit("it drops elements in inference, too")
    share = node.real("ratio", 0.5) if rate is None else float(rate.reshape(-1)[0])
    if not 0 < share < 1:
        return _view(graph, node, x, x.axes)
    place = graph.builder.add(Dropout(shortest(share)), [graph.builder.place(x)])
    return _made(graph, node, x.axes, place, x.order)


def _concat(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    parts = [_value(inputs, place) for place in range(len(inputs))]
    axes, axis = parts[0].axes, node.whole("axis", 1)
    if any(each.axes != axes for each in parts) or not -len(axes) <= axis < len(axes) or axes[axis] != "C":
        raise Unfit("it does not join images or vectors by their channels")
    if len(parts) == 1:
        return _view(graph, node, parts[0], axes)
    place = graph.builder.add(Concat(), [graph.builder.place(each) for each in parts])
    if all(each.order is None for each in parts):
        return _made(graph, node, axes, place)
    orders, start = [], 0
    for each in parts:
        orders.append(start + (np.arange(each.channels) if each.order is None else each.order))
        start += each.channels
    return _made(graph, node, axes, place, np.concatenate(orders))


def _transpose(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _value(inputs)
    order = node.wholes("perm", list(range(len(x.axes)))[::-1])
    if sorted(order) != list(range(len(x.axes))) or order[0] != 0:
        raise Unfit(f"it moves the axes {' '.join(x.axes)} by {order}, which is no image or vector any more")
    return _view(graph, node, x, "".join(x.axes[axis] for axis in order))


def _flat(graph: Graph, node: Node, x: Value) -> Value:
    """A vector of all elements of each image."""
    if len(x.shape) == 1:
        return _view(graph, node, x, "NC")
    height, width, channels = x.shape
    if x.axes not in ("NCHW", "NHWC"):
        raise Unfit(f"it flattens {' '.join(x.axes)}; only images N C H W or N H W C have their order known")
    place = graph.builder.add(Flatten(), [graph.builder.place(x)])
    order = channels_first(height, width, channels) if x.axes == "NCHW" else None
    return _made(graph, node, "NC", place, order)


def _flatten(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axis = _value(inputs), node.whole("axis", 1)
    if axis not in (1, 1 - len(x.axes)):
        raise Unfit(f"it flattens from axis {axis} on, and not every image by itself")
    return _flat(graph, node, x)


def _reshape(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, target = _value(inputs), _constant(inputs, 1, "its shape").reshape(-1)
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
        return _view(graph, node, x, x.axes)
    if shape[0] == graph.batch and len(shape) == 2:
        return _flat(graph, node, x)
    if shape[0] == graph.batch and len(x.shape) == 1 and sum(each != 1 for each in shape[1:]) <= 1:
        place = next((k for k, each in enumerate(shape) if k and each == x.channels), 1)
        return _view(graph, node, x, "".join("N" if k == 0 else "C" if k == place else "1" for k in range(len(shape))))
    if len(shape) == 5 and len(x.shape) == 3:
        raise Unfit("it divides the channels, as a shuffle of channels does, for which there is no layer")
    raise Unfit(f"it turns the shape {before} into {shape}, which is neither an image as before nor a vector of it")


def _squeeze(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axes = _value(inputs), axes_of(node, _optional(inputs, 1))
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
    return _view(graph, node, x, kept)


def _unsqueeze(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axes = _value(inputs), axes_of(node, _optional(inputs, 1)) or []
    rank = len(x.axes) + len(axes)
    places = {axis % rank for axis in axes}
    if len(x.shape) != 1 or 0 in places or rank > 4 or len(places) != len(axes):
        raise Unfit(f"it adds the axes {axes} to {' '.join(x.axes)}")
    letters = iter(x.axes)
    return _view(graph, node, x, "".join("1" if k in places else next(letters) for k in range(rank)))


def _gather(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, places = _vector(_value(inputs)), _constant(inputs, 1, "its index").reshape(-1)
    if node.whole("axis", 0) not in (1, -1) or sorted(places) != list(range(x.channels)):
        raise Unfit("it takes a part of the numbers, for which there is no layer")
    found = _view(graph, node, x, "NC")
    order = np.arange(x.channels) if x.order is None else x.order
    found.order = order[places.astype(np.int64)]
    if np.array_equal(found.order, np.arange(x.channels)):
        found.order = None
    return found


def _pad(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _images(_value(inputs))
    given = _optional(inputs, 1)
    pads = [int(each) for each in given.reshape(-1)] if given is not None else node.wholes("pads")
    axes = _optional(inputs, 3)
    if axes is not None:
        whole = [0] * 8
        for place, axis in enumerate(int(each) for each in axes.reshape(-1)):
            whole[axis % 4], whole[axis % 4 + 4] = pads[place], pads[place + len(pads) // 2]
        pads = whole
    number = _optional(inputs, 2)
    value = node.real("value", 0.0) if number is None or not number.size else float(number.reshape(-1)[0])
    if len(pads) != 8 or any(pads[:2]) or any(pads[4:6]) or min(pads) < 0:
        raise Unfit(f"its padding {pads} is none of rows and columns")
    if node.text("mode", "constant") != "constant":
        raise Unfit(f"it pads by {node.text('mode', '')}, and layers only with zeros")
    border = (pads[2], pads[6], pads[3], pads[7])
    if not any(border):
        return _view(graph, node, x, x.axes)
    if x.padded is not None and x.place is None and x.padded.number == value:
        border, x = _plus(border, x.padded.border), x.padded.base
    height, width = x.shape[0] + border[0] + border[1], x.shape[1] + border[2] + border[3]
    # The sizes that a window may have are checked here.
    Window((height, width), (1, 1))
    name = node.outputs[0]
    padded = Padded(x, border, value)
    return Value(name, x.axes, (height, width, x.channels), graph.readers(name), padded=padded)


def _softmax(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, axis = _value(inputs), node.whole("axis", 1 if node.opset < 13 else -1)
    if not -len(x.axes) <= axis < len(x.axes) or (len(x.shape) == 3 and x.shape[:2] != (1, 1)):
        raise Unfit("it is not over the classes")
    if x.axes[axis] != "C" and node.opset >= 13:
        raise Unfit("it is not over the classes")
    found = _view(graph, node, x, x.axes)
    found.scores = node.inputs[0]
    return found


def passed_on(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    """A node that changes the form of probabilities at most."""
    x = inputs[0]
    assert isinstance(x, Value)
    name = node.outputs[0]
    return replace(x, name=name, readers=graph.readers(name))


def _cast(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _value(inputs)
    if node.whole("to") not in (1, 10, 11, 16):
        raise Unfit("it rounds to whole numbers")
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), order=x.order, ancestors=x.descent())


def _cast_like(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x = _value(inputs)
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), order=x.order, ancestors=x.descent())


def _expand(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    x, target = _value(inputs), [int(each) for each in _constant(inputs, 1, "its shape").reshape(-1)]
    before = shape_of(graph, x)
    if len(target) > len(before) or any(a not in (1, b) for a, b in zip(target[::-1], before[::-1], strict=False)):
        raise Unfit(f"it repeats numbers from the shape {before} to {target}, for which there is no layer")
    return _view(graph, node, x, x.axes)


def _sum(graph: Graph, node: Node, inputs: Sequence[Given]) -> Value:
    if len(inputs) == 1:
        x = _value(inputs)
        return _view(graph, node, x, x.axes)
    if len(inputs) == 2:
        return elementwise(graph, node, inputs)
    return _added(graph, node, [_value(inputs, place) for place in range(len(inputs))])


def _added(graph: Graph, node: Node, parts: Sequence[Value]) -> Value:
    first = parts[0]
    if not all(first.same_layout(each) for each in parts):
        raise Unfit(
            f"it joins the shapes {' and '.join(str(shape_of(graph, each)) for each in parts)}, and only images or "
            "vectors of one shape are added by a layer"
        )
    place = graph.builder.add(Add(), [graph.builder.place(each) for each in parts])
    return _made(graph, node, first.axes, place, first.order)


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
        return _of_one(graph, node, _value(inputs), inputs[1:])


def _lazy(graph: Graph, node: Node, x: Value, ancestors: list[tuple[Value, Any]]) -> Value:
    name = node.outputs[0]
    return Value(name, x.axes, x.shape, graph.readers(name), order=x.order, ancestors=ancestors)


def _of_one(graph: Graph, node: Node, x: Value, others: Sequence[Given]) -> Value:
    numbers: list[float | None] = []
    for each in others:
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


def _response_norm(graph: Graph, node: Node, x: Value, means: Means) -> Value:
    if means.k is None or means.beta is None:
        raise Unfit("it divides by the means of squares, but not as a local response normalisation")
    layer = LocalResponseNorm(means.size, shortest(means.alpha), shortest(means.beta), shortest(means.k), means.region)
    return _made(graph, node, "NCHW", graph.builder.add(layer, [graph.builder.place(x)], title=graph.title(node)))


def _with_constant(graph: Graph, node: Node, operator: str, inputs: Sequence[Given]) -> Value:
    first = isinstance(inputs[0], Value)
    x, number = _value(inputs, 0 if first else 1), _constant(inputs, 1 if first else 0, "one of its inputs")
    if number.size == 1 and number.ndim <= len(x.axes):
        value = float(number.reshape(-1)[0])
        if x.means is not None:
            return _of_means(graph, node, operator, x, x.means, value)
        if x.affine is not None and x.place is None and operator in ("Add", "Sub", "Mul", "Div"):
            return _scaled(graph, node, operator, x, np.full(x.channels, value), first=first)
        found = [(base, binary(operator, *((f, value) if first else (value, f)))) for base, f in x.descent()]
        return _lazy(graph, node, x, [(base, values) for base, values in found if values is not None])
    return _scaled(graph, node, operator, x, _by_channel(graph, x, number), first=first)


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
        return flat if x.order is None else _rows(x, flat)
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


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "ReduceMean": _reduce_mean,
    "LRN": _lrn,
    "Dropout": _dropout,
    "Concat": _concat,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Pad": _pad,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Expand": _expand,
    "Sum": _sum,
}
PASSED_ON = ("ai.onnx.ml.ZipMap",)
"""Operators that only change the form of probabilities, in what scikit-learn's converter writes."""
ENDINGS = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")
"""Operators that may follow a Softmax."""
