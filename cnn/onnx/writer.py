"""Nodes of an ONNX graph for each kind of layer: NCHW inside, in operators that every runtime computes alike."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.convolution import Window
from cnn.errors import UsageError
from cnn.layers import (
    GELU,
    Add,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    HardSwish,
    Layer,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    Multiply,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Tanh,
)
from cnn.layers.activation import Activation
from cnn.layers.shape import channels_first
from cnn.model.node import Node

Floats = npt.NDArray[np.floating[Any]]
FUSED = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


class Tensor(NamedTuple):
    """A value of the graph; `order`, if given, says which of our elements each element of a vector is.

    A flattened image is in the order C H W there and H W C here: no element moves, the weights that read them do.
    """

    name: str
    order: npt.NDArray[np.int64] | None = None


class Fold(NamedTuple):
    """What a normalisation after a layer multiplies each of its outputs by, what it adds, and its activation."""

    factor: Floats
    offset: Floats
    activation: str | None


class Writer:
    """Collects nodes and constants; `notes` say which layers had to be written as several operators, and why."""

    def __init__(self, helper: Any, opset: int) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}
        self.notes: list[str] = []
        self._helper = helper

    def node(self, operator: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        """Adds a node, and returns its output."""
        self.nodes.append(self._helper.make_node(operator, list(inputs), [output], name=name or output, **attributes))
        return output

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Adds an initialiser, and returns its name."""
        self.constants[name] = np.asarray(value, dtype=dtype, order="C")
        return name

    def layer(self, node: Node, inputs: Sequence[Tensor], fold: Fold | None = None) -> Tensor:
        """Adds the nodes of a layer. Raises UsageError for a layer that has no form in ONNX."""
        layer = node.layer
        write = _WRITERS.get(type(layer))
        if write is None:
            raise UsageError(
                f"{node.name} is a {type(layer).__name__}, for which ONNX has no operator here; "
                f"export a network of {', '.join(sorted(each.__name__ for each in _WRITERS))}."
            )
        if isinstance(layer, Conv2D | Linear) and fold is not None:
            return _weighted(self, node, inputs[0], fold)
        return write(self, node, inputs)

    def activation(self, function: str | None, source: str, name: str) -> str:
        """Adds a fused activation, or nothing."""
        return self.node(FUSED[function], [source], f"{name}.{function}") if function else source


def _array(value: Any, layer: Layer) -> Floats:
    return np.asarray(layer.backend.to_numpy(value), np.float64)


def _conv(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return _weighted(writer, node, inputs[0], None)


def _weighted(writer: Writer, node: Node, source: Tensor, fold: Fold | None) -> Tensor:
    layer, name = node.layer, node.name
    assert isinstance(layer, Conv2D | Linear)
    weight = _array(layer.w.value, layer)
    bias = _array(layer.b.value, layer) if layer.b else None
    activation = layer.activation
    if fold is not None:
        weight, activation = weight * fold.factor, fold.activation
        bias = fold.offset + (0 if bias is None else bias * fold.factor)
    if isinstance(layer, Conv2D):
        window = layer.convolution.window
        top, bottom, left, right = window.padding
        settings: dict[str, Any] = {
            "kernel_shape": window.kernel,
            "strides": window.stride,
            "dilations": window.dilation,
            "pads": (top, left, bottom, right),
            "group": layer.groups,
        }
        operator, weight = "Conv", weight.transpose(3, 2, 0, 1)
    else:
        weight = weight.T if source.order is None else weight[source.order].T
        operator, settings = "Gemm", {"transB": 1}
    names = [source.name, writer.constant(f"{name}.weight", weight)]
    if bias is not None:
        names.append(writer.constant(f"{name}.bias", bias))
    plain = writer.node(operator, names, f"{name}.output", name, **settings)
    return Tensor(writer.activation(activation, plain, name))


def normalisation(layer: BatchNorm) -> Fold:
    """What a batch normalisation does in inference, in float64."""
    names = [f"{layer.name}.running_mean", f"{layer.name}.running_variance"]
    mean, variance = (_array(layer.statistics[name], layer) for name in names)
    factor = _array(layer.gamma.value, layer) / np.sqrt(variance + layer.epsilon)
    return Fold(factor, _array(layer.beta.value, layer) - mean * factor, layer.activation)


def _batch_norm(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer, name, source = node.layer, node.name, inputs[0]
    assert isinstance(layer, BatchNorm)
    values = {
        "gamma": layer.gamma.value,
        "beta": layer.beta.value,
        "running_mean": layer.statistics[f"{name}.running_mean"],
        "running_variance": layer.statistics[f"{name}.running_variance"],
    }
    arrays = {key: _array(value, layer) for key, value in values.items()}
    if source.order is not None:
        arrays = {key: value[source.order] for key, value in arrays.items()}
    names = [writer.constant(f"{name}.{key}", value) for key, value in arrays.items()]
    settings = {"epsilon": layer.epsilon, "momentum": layer.momentum}
    plain = writer.node("BatchNormalization", [source.name, *names], f"{name}.output", name, **settings)
    return Tensor(writer.activation(layer.activation, plain, name), source.order)


def _missing(window: Window) -> tuple[int, int]:
    """Rows and columns beyond the bottom and the right padding that the last windows extend to."""
    (rows, columns), (down, right), (r, s) = window.out, window.stride, window.extent
    height, width = window.padded
    return max(0, (rows - 1) * down + r - height), max(0, (columns - 1) * right + s - width)


def _pooled(window: Window, *, padded: bool = True, beyond: bool = True) -> dict[str, Any]:
    """Attributes of a pool that rounds down, with the padding and what is beyond it as padding."""
    top, bottom, left, right = window.padding if padded else (0, 0, 0, 0)
    below, after = _missing(window) if beyond else (0, 0)
    return {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "pads": (top, left, bottom + below, right + after),
    }


def _max_pool(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer = node.layer
    assert isinstance(layer, MaxPool2D)
    # ceil_mode differs between runtimes and opsets; padding, which is never the largest element, does not.
    return Tensor(writer.node("MaxPool", [inputs[0].name], f"{node.name}.output", node.name, **_pooled(layer.window)))


def _avg_pool(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer, name, source = node.layer, node.name, inputs[0].name
    assert isinstance(layer, AvgPool2D)
    window, output = layer.window, f"{node.name}.output"
    if not layer.count_padding or not any(window.padding):
        # Only pixels of the image count, which is one rule for padding and for what is beyond it.
        return Tensor(writer.node("AveragePool", [source], output, name, count_include_pad=0, **_pooled(window)))
    if any(_missing(window)):
        top, bottom, left, right = window.padding
        pads = writer.constant(f"{name}.pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
        source = writer.node("Pad", [source, pads], f"{name}.padded")
        settings = _pooled(window, padded=False) | {"count_include_pad": 0}
        writer.notes.append(
            f"{name} is written as Pad and AveragePool, as runtimes disagree about padding that is rounded up"
        )
    else:
        settings = _pooled(window) | {"count_include_pad": 1}
    return Tensor(writer.node("AveragePool", [source], output, name, **settings))


def _global_pool(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    pooled = writer.node("GlobalAveragePool", [inputs[0].name], f"{node.name}.pooled", node.name)
    return Tensor(writer.node("Flatten", [pooled], f"{node.name}.output", f"{node.name}.flatten", axis=1))


def _flatten(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    shape, source = node.input_shapes[0], inputs[0]
    if len(shape) == 1:
        return source
    order = None
    if len(shape) == 3:
        height, width, channels = shape
        order = channels_first(height, width, channels)
    return Tensor(writer.node("Flatten", [source.name], f"{node.name}.output", node.name, axis=1), order)


def reordered(writer: Writer, source: Tensor, name: str) -> str:
    """The elements of a vector in our order: for the few networks that do not end with a product."""
    if source.order is None:
        return source.name
    places = writer.constant(f"{name}.places", np.argsort(source.order), np.int64)
    return writer.node("Gather", [source.name, places], f"{name}.reordered", axis=1)


def _dropout(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer, name = node.layer, node.name
    assert isinstance(layer, Dropout)
    rate = writer.constant(f"{name}.rate", layer.rate)
    return Tensor(writer.node("Dropout", [inputs[0].name, rate], f"{name}.output", name), inputs[0].order)


def _multiply(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer, name = node.layer, node.name
    assert isinstance(layer, Multiply)
    factor = writer.constant(f"{name}.factor", layer.factor)
    return Tensor(writer.node("Mul", [inputs[0].name, factor], f"{name}.output", name), inputs[0].order)


def _add(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer, name = node.layer, node.name
    assert isinstance(layer, Add)
    alike = len({None if each.order is None else each.order.tobytes() for each in inputs}) == 1
    names = [each.name if alike else reordered(writer, each, f"{name}.{place}") for place, each in enumerate(inputs)]
    plain = writer.node("Add" if len(names) == 2 else "Sum", names, f"{name}.output", name)
    return Tensor(writer.activation(layer.activation, plain, name), inputs[0].order if alike else None)


def _concat(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    joined = writer.node("Concat", [each.name for each in inputs], f"{node.name}.output", node.name, axis=1)
    if all(each.order is None for each in inputs):
        return Tensor(joined)
    parts, start = [], 0
    for each, shape in zip(inputs, node.input_shapes, strict=True):
        parts.append(start + (np.arange(shape[0]) if each.order is None else each.order))
        start += shape[0]
    return Tensor(joined, np.concatenate(parts))


def _activation(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer, name, source = node.layer, node.name, inputs[0].name
    assert isinstance(layer, Activation)
    output, function = f"{name}.output", layer.function
    if function in FUSED:
        writer.node(FUSED[function], [source], output, name)
    elif isinstance(layer, LeakyReLU):
        writer.node("LeakyRelu", [source], output, name, alpha=layer.slope)
    elif isinstance(layer, ReLU6):
        bounds = [writer.constant(f"{name}.{key}", value) for key, value in (("low", 0.0), ("high", 6.0))]
        writer.node("Clip", [source, *bounds], output, name)
    elif isinstance(layer, SiLU):
        gate = writer.node("Sigmoid", [source], f"{name}.gate")
        writer.node("Mul", [source, gate], output, name)
    elif isinstance(layer, HardSwish):
        gate = writer.node("HardSigmoid", [source], f"{name}.gate", alpha=1 / 6, beta=0.5)
        writer.node("Mul", [source, gate], output, name)
    elif writer.opset >= 20:
        writer.node("Gelu", [source], output, name)
    else:
        root, half = writer.constant(f"{name}.root", np.sqrt(2)), writer.constant(f"{name}.half", 0.5)
        one = writer.constant(f"{name}.one", 1.0)
        inner = writer.node("Erf", [writer.node("Div", [source, root], f"{name}.scaled")], f"{name}.erf")
        sums = writer.node("Add", [inner, one], f"{name}.sum")
        twice = writer.node("Mul", [source, sums], f"{name}.twice")
        writer.node("Mul", [twice, half], output, name)
    return Tensor(output, inputs[0].order)


def _lrn(writer: Writer, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    layer, name, source = node.layer, node.name, inputs[0].name
    assert isinstance(layer, LocalResponseNorm)
    output, size = f"{name}.output", layer.size
    if layer.region == "across" and size % 2:
        settings = {"size": size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
        return Tensor(writer.node("LRN", [source], output, name, **settings))
    # ONNX has neither squares within a channel nor, like ours, an even number of channels.
    squares = writer.node("Mul", [source, source], f"{name}.squares")
    if layer.region == "within":
        reach = size // 2
        square: dict[str, Any] = {"kernel_shape": (size, size), "strides": (1, 1), "pads": (reach,) * 4}
        means = writer.node("AveragePool", [squares], f"{name}.means", count_include_pad=1, **square)
    else:
        channels = node.input_shapes[0][2]
        distance = np.arange(channels)[None, :] - np.arange(channels)[:, None]
        near = (distance >= -(size // 2)) & (distance < size - size // 2)
        band = writer.constant(f"{name}.band", (near / size)[:, :, None, None])
        means = writer.node("Conv", [squares, band], f"{name}.means", kernel_shape=(1, 1))
    alpha, k = writer.constant(f"{name}.alpha", layer.alpha), writer.constant(f"{name}.k", layer.k)
    beta = writer.constant(f"{name}.beta", layer.beta)
    scaled = writer.node("Add", [writer.node("Mul", [means, alpha], f"{name}.scaled"), k], f"{name}.sum")
    divisor = writer.node("Pow", [scaled, beta], f"{name}.divisor")
    writer.notes.append(f"{name} is written as its formula, as ONNX has no operator for it")
    return Tensor(writer.node("Div", [source, divisor], output, name))


_WRITERS: dict[type[Layer], Callable[[Writer, Node, Sequence[Tensor]], Tensor]] = {
    Conv2D: _conv,
    Linear: _conv,
    BatchNorm: _batch_norm,
    LocalResponseNorm: _lrn,
    MaxPool2D: _max_pool,
    AvgPool2D: _avg_pool,
    GlobalAvgPool2D: _global_pool,
    Flatten: _flatten,
    Dropout: _dropout,
    Multiply: _multiply,
    Add: _add,
    Concat: _concat,
    **dict.fromkeys((ReLU, Tanh, Sigmoid, LeakyReLU, ReLU6, GELU, SiLU, HardSwish), _activation),
}
