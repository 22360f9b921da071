"""FLOP and bytes of every layer and phase, from shapes alone, as im2col + GEMM executes them.

An operation's bytes are those of the arrays it reads and writes, each counted once: the least that reaches memory where
they outlive the caches. Column buffers count as they are written and read in full for the batch; a backend that lowers
tile by tile keeps them in the cache and moves less, and direct convolution and Winograd execute other FLOP.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from math import prod
from typing import Any, NamedTuple, Protocol

from cnn.arrays import Shape
from cnn.errors import UsageError
from cnn.layers import (
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
)
from cnn.layers.activation import Activation
from cnn.layers.layer import layer_names
from cnn.layers.pool import Pool2D
from cnn.layers.weighted import Weighted

FORWARD, WEIGHT, DATA, UPDATE = PHASES = ("forward", "weight gradient", "data gradient", "update")
FLOAT = 4
"""Bytes of an element: costs are those of float32."""


class Sizes(NamedTuple):
    """A matrix product (M, K) @ (K, N)."""

    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """2 M N K."""
        return 2 * self.m * self.n * self.k

    @property
    def operands(self) -> tuple[int, int]:
        """Bytes of both operands, and of the result."""
        return FLOAT * self.k * (self.m + self.n), FLOAT * self.m * self.n


@dataclass(frozen=True)
class Operation:
    """One pass over arrays: "gemm", "im2col", "col2im" or "elementwise"; `sizes` are those of a product."""

    kind: str
    flops: int
    bytes: int
    sizes: Sizes | None = None


class Geometry(NamedTuple):
    """What a stage's time depends on beside its FLOP and bytes: outputs (N*P*Q), channels, filters and taps of each."""

    rows: int
    channels: int
    filters: int
    taps: int


@dataclass(frozen=True)
class Stage:
    """One layer in one phase; `kind` is the layer's class, or "input", "loss" or "update".

    `variant` is a fused activation, or the region of a local response normalisation.
    The gradient of a fused activation belongs to the weight gradient, where it is computed.
    """

    layer: str
    kind: str
    phase: str
    operations: tuple[Operation, ...]
    geometry: Geometry
    variant: str | None = None

    @property
    def flops(self) -> int:
        """FLOP of all operations."""
        return sum(each.flops for each in self.operations)

    @property
    def gemm_flops(self) -> int:
        """FLOP of the products."""
        return sum(each.flops for each in self.operations if each.sizes)

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return sum(each.bytes for each in self.operations)

    @property
    def intensity(self) -> float:
        """FLOP a byte."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Cost:
    """The stages of a training step or of the classification of a batch, in the order they run."""

    net: str
    batch: int
    training: bool
    stages: tuple[Stage, ...]

    @property
    def products(self) -> list[Sizes]:
        """Every matrix product in the order they run."""
        return [each.sizes for stage in self.stages for each in stage.operations if each.sizes]

    @property
    def flops(self) -> int:
        """FLOP of all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def gemm_flops(self) -> int:
        """FLOP of all products."""
        return sum(stage.gemm_flops for stage in self.stages)

    @property
    def bytes(self) -> int:
        """Bytes read and written by all stages."""
        return sum(stage.bytes for stage in self.stages)


class Net(Protocol):
    """What has a name, layers and the shape of its images: an Architecture, or a Sequential."""

    name: str
    input_shape: Any

    @property
    def layers(self) -> Sequence[Layer]:
        """In their order."""


def count(net: Net, batch: int, *, training: bool) -> Cost:
    """The cost of one step of `net` on `batch` images; nothing is built or allocated.

    A training step reads the batch, goes forward and backward and updates by SGD with momentum and weight decay; layers
    before the first one with parameters have no backward pass, and that one no data gradient. Raises UsageError for an
    empty batch, ShapeError where a layer does not fit.
    """
    if batch < 1:
        raise UsageError(f"A batch of {batch} images costs nothing; give at least 1.")
    stages = [input_stage(batch * prod(net.input_shape))]
    backward: list[list[Stage]] = []
    shape, weights, trained = tuple(net.input_shape), 0, False
    for name, layer in zip(layer_names(net.layers), net.layers, strict=True):
        ahead, *phases = layer_stages(name, layer, shape, batch, training=training)
        stages.append(ahead)
        owned = parameters(layer, shape)
        if training and (trained or owned):
            whole = trained or not isinstance(layer, Weighted)
            backward.append(phases if whole else [each for each in phases if each.phase == WEIGHT])
        weights, trained = weights + owned, trained or owned > 0
        shape = layer.shape_after(shape)
    stages.append(loss_stage(batch * prod(shape)))
    for phases in reversed(backward):
        stages += phases
    if training:
        stages.append(update_stage(weights))
    return Cost(net.name, batch, training, tuple(stages))


def gradient_bytes(net: Net) -> dict[str, int]:
    """Bytes of the gradients of each layer that has parameters, in the order of the layers."""
    found: dict[str, int] = {}
    shape: Shape = tuple(net.input_shape)
    for name, layer in zip(layer_names(net.layers), net.layers, strict=True):
        if owned := parameters(layer, shape):
            found[name] = FLOAT * owned
        shape = layer.shape_after(shape)
    return found


def layer_stages(name: str, layer: Layer, shape: Shape, batch: int, *, training: bool = True) -> list[Stage]:
    """The forward stage of one layer on `batch` images of `shape`, then in training those of its backward pass."""
    parts = _Parts(name, layer, shape, batch, training)
    stages = [parts.stage(FORWARD, forward(layer, parts))]
    return stages + ([parts.stage(phase, part) for phase, part in gradients(layer, parts)] if training else [])


def input_stage(elements: int) -> Stage:
    """Pixels read as bytes, shifted and scaled."""
    return _pass("input", FORWARD, elements, 2, 1 + FLOAT)


def loss_stage(scores: int) -> Stage:
    """The softmax of the scores, with the loss and its slopes in training."""
    return _pass("loss", FORWARD, scores, 4, 2 * FLOAT)


def update_stage(parameters: int) -> Stage:
    """v = mu v - lr (g + decay w), w += v: three arrays read, two written."""
    return _pass("update", UPDATE, parameters, 6, 5 * FLOAT)


def _pass(kind: str, phase: str, elements: int, flops: int, moved: int) -> Stage:
    """One pass over `elements`, of so many FLOP and bytes each."""
    operation = Operation("elementwise", flops * elements, moved * elements)
    return Stage(kind, kind, phase, (operation,), Geometry(elements, 1, 1, 1))


class _Parts:
    """The sizes that the operations of one layer are made of, and a shorthand for each kind of operation."""

    def __init__(self, name: str, layer: Layer, shape: Shape, batch: int, training: bool) -> None:
        self.name, self.layer, self.batch, self.training = name, layer, batch, training
        self.input_shape, self.output_shape = shape, layer.shape_after(shape)
        self.x, self.y = batch * prod(shape), batch * prod(self.output_shape)

    def stage(self, phase: str, operations: Iterable[Operation]) -> Stage:
        """The stage of that phase."""
        layer, taps = self.layer, 1
        if isinstance(layer, Conv2D):
            taps = layer.convolution_on(self.input_shape).taps
        elif isinstance(layer, Pool2D):
            taps = layer.window_on(self.input_shape).taps
        channels, filters = self.input_shape[-1], self.output_shape[-1]
        geometry = Geometry(self.y // filters, channels, filters, taps)
        variant = getattr(self.layer, "activation", None) or getattr(self.layer, "region", None)
        return Stage(self.name, type(self.layer).__name__, phase, tuple(operations), geometry, variant)


def _gemm(m: int, n: int, k: int) -> Operation:
    sizes = Sizes(m, n, k)
    return Operation("gemm", sizes.flops, sum(sizes.operands), sizes)


def _elementwise(flops: int, elements: int) -> Operation:
    return Operation("elementwise", flops, FLOAT * elements)


def _move(kind: str, elements: int, flops: int = 0) -> Operation:
    return Operation(kind, flops, FLOAT * elements)


Operations = Iterable[Operation]


@singledispatch
def parameters(layer: Layer, shape: Shape) -> int:
    """Trained numbers of `layer` on images of `shape`."""
    return 0


@parameters.register
def _(layer: Conv2D, shape: Shape) -> int:
    return layer.filters * (layer.convolution_on(shape).depth + layer.bias)


@parameters.register
def _(layer: Linear, shape: Shape) -> int:
    return layer.units * (shape[0] + layer.bias)


@parameters.register
def _(layer: BatchNorm, shape: Shape) -> int:
    return 2 * shape[-1]


@singledispatch
def forward(layer: Layer, parts: _Parts) -> Operations:
    """The operations of a forward pass; a layer that is not known here counts as one pass from input to output."""
    return [_elementwise(parts.y, parts.x + parts.y)]


@singledispatch
def gradients(layer: Layer, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    """The operations of each phase of a backward pass; one that is not known is one from both slopes to the input's."""
    yield DATA, [_elementwise(2 * parts.y, 2 * parts.y + parts.x)]


@forward.register
def _(layer: Conv2D, parts: _Parts) -> Operations:
    rows, depth = _lowered(layer, parts)
    return [*_im2col(layer, parts), _gemm(rows, layer.filters, depth), *_finish(layer, parts)]


@gradients.register
def _(layer: Conv2D, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    rows, depth = _lowered(layer, parts)
    mask = [_elementwise(depth * layer.filters, 3 * depth * layer.filters)] if layer.connections else []
    product = _gemm(depth, layer.filters, rows)
    yield WEIGHT, [*_slopes(layer, parts), *_im2col(layer, parts), product, *mask]
    columns = rows * depth
    scatter = [] if layer.convolution_on(parts.input_shape).copyless else [_move("col2im", columns + parts.x, columns)]
    yield DATA, [_gemm(rows, depth, layer.filters), *scatter]


def _lowered(layer: Conv2D, parts: _Parts) -> tuple[int, int]:
    """Rows and columns of the column matrix, N*P*Q and R*S*C."""
    return parts.y // layer.filters, layer.convolution_on(parts.input_shape).depth


def _im2col(layer: Conv2D, parts: _Parts) -> list[Operation]:
    """The column matrix written, from the image or from a padded copy of it."""
    window = layer.convolution_on(parts.input_shape).window
    if window.copyless:
        return []
    top, bottom, left, right = window.padding
    height, width, channels = parts.input_shape
    padded = parts.batch * (height + top + bottom) * (width + left + right) * channels
    copy = [_move("im2col", parts.x + padded)] if any(window.padding) else []
    return [*copy, _move("im2col", padded + prod(_lowered(layer, parts)))]


def _finish(layer: Weighted, parts: _Parts) -> list[Operation]:
    """Bias and activation in one pass."""
    passes = bool(layer.bias) + (layer.activation is not None)
    return [_elementwise(passes * parts.y, 2 * parts.y)] if passes else []


def _slopes(layer: Weighted, parts: _Parts) -> list[Operation]:
    """The activation's gradient (y and dy read, dz written) and the bias's, in one pass; without one dy is dz."""
    if layer.activation is None:
        return [_elementwise(parts.y, parts.y)] if layer.bias else []
    return [_elementwise((2 + layer.bias) * parts.y, 3 * parts.y)]


@forward.register
def _(layer: Linear, parts: _Parts) -> Operations:
    return [_gemm(parts.batch, layer.units, parts.input_shape[0]), *_finish(layer, parts)]


@gradients.register
def _(layer: Linear, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    depth = parts.input_shape[0]
    yield WEIGHT, [*_slopes(layer, parts), _gemm(depth, layer.units, parts.batch)]
    yield DATA, [_gemm(parts.batch, depth, layer.units)]


@forward.register
def _(layer: Flatten, parts: _Parts) -> Operations:
    return []


@gradients.register
def _(layer: Flatten, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    return iter(())


@forward.register
def _(layer: Pool2D, parts: _Parts) -> Operations:
    flops = parts.y * layer.window_on(parts.input_shape).taps
    # In training the largest element's place is kept, in one byte.
    winners = parts.y if isinstance(layer, MaxPool2D) and parts.training else 0
    return [Operation("elementwise", flops, FLOAT * (parts.x + parts.y) + winners)]


@gradients.register
def _(layer: Pool2D, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    largest = isinstance(layer, MaxPool2D)
    flops = parts.y * (1 if largest else layer.window_on(parts.input_shape).taps)
    yield DATA, [Operation("elementwise", flops, FLOAT * (parts.x + parts.y) + (parts.y if largest else 0))]


@gradients.register
def _(layer: Activation, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    yield DATA, [_elementwise(2 * parts.y, 3 * parts.y)]


@forward.register
def _(layer: LocalResponseNorm, parts: _Parts) -> Operations:
    size = layer.size if layer.region == "across" else layer.size**2
    return [_elementwise((size + 3) * parts.x, 2 * parts.x), _elementwise(2 * parts.x, 3 * parts.x)]


@gradients.register
def _(layer: LocalResponseNorm, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    size = layer.size if layer.region == "across" else layer.size**2
    yield DATA, [_elementwise((size + 7) * parts.x, 5 * parts.x)]


@forward.register
def _(layer: BatchNorm, parts: _Parts) -> Operations:
    # Mean and variance take a pass each.
    statistics = [_elementwise(4 * parts.x, 2 * parts.x)] if parts.training else []
    return [*statistics, _elementwise(2 * parts.x, 2 * parts.x)]


@gradients.register
def _(layer: BatchNorm, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    # The gradients of gamma and beta come first.
    yield DATA, [_elementwise(4 * parts.x, 2 * parts.x), _elementwise(5 * parts.x, 3 * parts.x)]


@forward.register
def _(layer: Dropout, parts: _Parts) -> Operations:
    # A mask is drawn and written, then read with the input.
    return [_elementwise(2 * parts.x, 4 * parts.x)] if parts.training and layer.rate else []


@gradients.register
def _(layer: Dropout, parts: _Parts) -> Iterator[tuple[str, Sequence[Operation]]]:
    if layer.rate:
        yield DATA, [_elementwise(parts.x, 3 * parts.x)]
