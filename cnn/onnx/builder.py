"""Layers in place of an ONNX graph's nodes: what a value stands for, and how several nodes become one layer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from cnn.arrays import Shape
from cnn.layers import (
    Add,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    ReLU6,
    Sigmoid,
)
from cnn.layers.activation import Activation
from cnn.model.network import MOST_LAYERS
from cnn.model.wiring import INPUT
from cnn.onnx.files import Numbers, Unfit
from cnn.onnx.functions import GRID, Samples, line, recognised, same
from cnn.ops.elementwise import FUSED

MOST_BUILT = 4 * MOST_LAYERS
"""Layers that are made on the way, many of which nothing may read in the end."""
MOST_NUMBERS = 1 << 26
"""Of one image in any layer: 64 channels of a megapixel."""
MOST_ANCESTORS = 12
"""How many nodes back a function of single elements may begin."""


@dataclass(eq=False)
class Built:
    """A layer with the places it reads, its output's shape and its arrays by name."""

    layer: Layer
    inputs: tuple[int, ...]
    shape: Shape
    arrays: dict[str, Numbers]
    title: str
    positive: bool
    """Whether no element of its output can be below 0."""


@dataclass(frozen=True, eq=False)
class Affine:
    """factor * base + offset, per channel; `alone` if no other node reads what lies between."""

    base: "Value"
    factor: Numbers
    offset: Numbers
    alone: bool


@dataclass(frozen=True, eq=False)
class Padded:
    """`base` with a border (top, bottom, left, right) of one number."""

    base: "Value"
    border: tuple[int, int, int, int]
    number: float


@dataclass(frozen=True, eq=False)
class Means:
    """alpha * (means of the squares of base) + k, to the power of beta: the divisor of a local response norm."""

    base: "Value"
    size: int
    region: str
    alpha: float = 1.0
    k: float | None = None
    beta: float | None = None


@dataclass(frozen=True, eq=False)
class Channel:
    """factor * one channel of base + offset; `alone` if no other node reads what lies between."""

    base: "Value"
    number: int
    factor: float = 1.0
    offset: float = 0.0
    alone: bool = True


@dataclass(eq=False)
class Value:
    """A value of the graph that depends on the images.

    `axes` names the graph's axes: N, C, H, W, or 1 for one of length 1 that our arrays do not have; `shape` is that of
    our array, H W C or C. `order` says which of our elements each element of the graph's vector is. A value of which
    nobody has needed the numbers yet has no place, but says how they follow from other values.
    """

    name: str
    axes: str
    shape: Shape
    readers: int
    place: int | None = None
    order: Numbers | None = None
    ancestors: list[tuple["Value", Samples]] = field(default_factory=list)
    affine: Affine | None = None
    padded: Padded | None = None
    means: Means | None = None
    channel: Channel | None = None
    exclusive: bool = True
    """Whether no other value has the same place."""
    gone: bool = False
    """Whether its numbers are nowhere any more, as what follows became part of its layer."""
    scores: str | None = None
    """For probabilities: the name of the scores that they are made of."""

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[-1]

    def same_layout(self, other: "Value") -> bool:
        """Whether the elements of both lie at the same places."""
        orders = (self.order, other.order)
        alike = orders[0] is orders[1] or (
            orders[0] is not None and orders[1] is not None and np.array_equal(orders[0], orders[1])
        )
        return alike and self.axes == other.axes and self.shape == other.shape

    def descent(self) -> list[tuple["Value", Samples]]:
        """The value itself and what it is a function of, the nearest first."""
        return [(self, GRID), *self.ancestors][:MOST_ANCESTORS]


class Builder:
    """Collects layers. `factor` and `offset` are what the graph does to its input first, per channel or pixel."""

    def __init__(self, input_shape: Shape) -> None:
        self.input_shape = input_shape
        self.layers: list[Built] = []
        self.read: set[int] = set()
        self.factor: Numbers | None = None
        self.offset: Numbers | None = None

    def add(
        self,
        layer: Layer,
        inputs: Sequence[int],
        arrays: dict[str, Numbers] | None = None,
        title: str = "",
    ) -> int:
        """Adds a layer, and returns its place. Raises ShapeError if its inputs do not fit."""
        if len(self.layers) == MOST_BUILT:
            raise Unfit(f"it would be layer {MOST_BUILT + 1:,}; a network has at most {MOST_LAYERS:,}")
        shape = layer.shape_after(*(self.shape(place) for place in inputs))
        if prod(shape) > MOST_NUMBERS:
            raise Unfit(f"its output of {shape} has more than {MOST_NUMBERS:,} numbers")
        hands_on = isinstance(layer, MaxPool2D | AvgPool2D | Dropout | Concat)
        positive = (hands_on and all(map(self.positive, inputs))) or isinstance(layer, ReLU | ReLU6 | Sigmoid)
        self.layers.append(Built(layer, tuple(inputs), shape, arrays or {}, title, positive))
        self.read.update(inputs)
        return len(self.layers) - 1

    def shape(self, place: int) -> Shape:
        """The shape of what lies at a place."""
        return self.input_shape if place == INPUT else self.layers[place].shape

    def place(self, value: Value) -> int:
        """Where the value's numbers are, with a layer for what is left to compute. Raises Unfit if no layer does."""
        if value.gone:
            raise Unfit(f"{value.name} is needed twice in a way that no layer gives")
        if value.place is None:
            if value.padded is not None:
                value.place = self._bordered(value.padded)
            elif value.affine is not None:
                value.place = self._scaled(value, value.affine)
            elif value.channel is not None:
                raise Unfit("it reads a part of the channels, for which there is no layer")
            elif value.means is not None:
                raise Unfit("it reads the means of squares, which only a local response normalisation uses")
            else:
                value.place = self._function(value)
        return value.place

    def _function(self, value: Value) -> int:
        known = [(base, values) for base, values in value.ancestors if not base.gone]
        for base, values in known:
            if same(values, GRID):
                value.exclusive = base.exclusive and base.readers == 1
                return self.place(base)
        for number, (base, values) in reversed(list(enumerate(known))):
            layer = recognised(values)
            if layer is not None:
                # Only if nobody reads what lies between may the base change.
                return self._activated(base, layer, alone=all(each.readers == 1 for each, _ in known[:number]))
        for base, values in known:
            straight = line(values)
            if straight is not None:
                factor, offset = (np.full(base.channels, each) for each in straight)
                return self._scaled(value, Affine(base, factor, offset, alone=base is known[0][0]))
        raise Unfit(f"no layer computes {value.name}, a function of single elements")

    def _owned(self, base: Value, place: int) -> bool:
        """Whether only one node reads the numbers of `base`, so that its layer may be changed."""
        return base.readers == 1 and base.exclusive and place not in self.read

    def _activated(self, base: Value, layer: Layer, *, alone: bool) -> int:
        place = self.place(base)
        function = layer.function if isinstance(layer, Activation) else ""
        if alone and place != INPUT and function in FUSED and self._owned(base, place):
            before = self.layers[place].layer
            takes = isinstance(before, Conv2D | Linear | Add) or (isinstance(before, BatchNorm) and function == "relu")
            if takes and getattr(before, "activation", None) is None:
                before.activation = function  # type: ignore[attr-defined]
                self.layers[place].positive = function in ("relu", "sigmoid")
                base.gone = True
                return place
        return self.add(layer, [place])

    def _scaled(self, value: Value, affine: Affine) -> int:
        base, factor, offset = affine.base, affine.factor, affine.offset
        place = self.place(base)
        if affine.alone and self._owned(base, place) and self._absorbed(place, factor, offset):
            base.gone = True
            value.exclusive = True
            return place
        if len(base.shape) != 3 or offset.ndim > 1:
            raise Unfit("it scales or shifts single elements, for which there is no layer")
        layer = Conv2D(base.channels, 1, groups=base.channels)
        return self.add(layer, [place], {"weight": factor.reshape(1, 1, 1, -1), "bias": offset})

    def _absorbed(self, place: int, factor: Numbers, offset: Numbers) -> bool:
        """Whether the layer at a place, or the preprocessing, took over what follows."""
        if place == INPUT:
            if factor.min() <= 0:
                return False
            before, added = (1.0 if self.factor is None else self.factor), (0.0 if self.offset is None else self.offset)
            self.factor, self.offset = np.asarray(before * factor), np.asarray(added * factor + offset)
            return True
        built = self.layers[place]
        layer, arrays = built.layer, built.arrays
        if getattr(layer, "activation", None) is not None or offset.ndim > 1:
            return False
        if isinstance(layer, Conv2D | Linear):
            arrays["weight"] = arrays["weight"] * factor
            arrays["bias"] = arrays.get("bias", np.zeros(1)) * factor + offset
            layer.bias = True
            return True
        if isinstance(layer, BatchNorm):
            arrays["gamma"], arrays["beta"] = arrays["gamma"] * factor, arrays["beta"] * factor + offset
            return True
        return False

    def _bordered(self, padded: Padded) -> int:
        """A convolution of one pixel per channel that adds the border."""
        if padded.number != 0:
            raise Unfit(f"it reads an image padded with {padded.number:g}, for which there is no layer")
        channels = padded.base.channels
        layer = Conv2D(channels, 1, padding=padded.border, groups=channels, bias=False)
        return self.add(layer, [self.place(padded.base)], {"weight": np.ones((1, 1, 1, channels))})

    def positive(self, place: int) -> bool:
        """Whether nothing at a place can be below 0."""
        return place != INPUT and self.layers[place].positive

    def stand_in(self, value: Value) -> int:
        """A place of the value's shape in a network that will not be built, for nodes after one that does not fit."""
        return self.add(ReLU(), [self.place(value)])

    def reachable(self, last: int) -> list[int]:
        """The places that the layer at `last` depends on, in their order, itself included."""
        wanted, left = set[int](), [last]
        while left:
            place = left.pop()
            if place != INPUT and place not in wanted:
                wanted.add(place)
                left += self.layers[place].inputs
        return sorted(wanted)
