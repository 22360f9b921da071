"""Layers that join branches of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

from cnn.arithmetic import Footprint, Work, elementwise
from cnn.arrays import Array, Shape
from cnn.errors import ShapeError
from cnn.layers.layer import Layer, Lives, Stores, checked_activation


@dataclass(eq=False)
class Add(Layer):
    """The sum of two or more inputs of one shape, with an activation (He et al. 2015, section 3.2)."""

    activation: str | None = None
    """None, "relu", "tanh" or "sigmoid", applied to the sum."""

    repeatable = True
    stores = Stores(True, True)

    def __post_init__(self) -> None:
        checked_activation(self.activation)

    @property
    def lives(self) -> Lives:
        return Lives(
            keeps_output=self.activation is not None,
            shares_gradient=self.activation is None,
            makes_gradients=int(self.activation is not None),
            in_place=True,
        )

    def shape_after(self, *input_shapes: Shape) -> Shape:
        _at_least_two(self, input_shapes)
        if len(set(input_shapes)) > 1:
            raise ShapeError(
                f"Add takes inputs of one shape, not {_listed(input_shapes)}; "
                "bring them to one shape by a convolution of one pixel."
            )
        return input_shapes[0]

    def parameter_count(self, *input_shapes: Shape) -> int:
        return 0

    def work(self, batch: int, *input_shapes: Shape, training: bool) -> Work:
        y, count = batch * prod(input_shapes[0]), len(input_shapes)
        # Two inputs are added per pass; the last one applies the activation.
        forward = [elementwise(y, 3 * y) for _ in range(count - 2)]
        forward.append(elementwise((1 + (self.activation is not None)) * y, 3 * y))
        return Work(forward, data_gradient=[elementwise(2 * y, 3 * y)] if self.activation else [])

    def memory(self, *input_shapes: Shape, training: bool) -> Footprint:
        return Footprint()

    def forward(self, *inputs: Array, training: bool) -> Array:
        self._y = self.output_buffer(len(inputs[0]))
        total = inputs[0]
        for place, x in enumerate(inputs[1:], 2):
            self.backend.add(total, x, self.activation if place == len(inputs) else None, self._y)
            total = self._y
        return self._y

    def backward(self, dy: Array) -> tuple[Array, ...]:
        if self.activation is not None:
            dx = self.input_gradient_buffer(len(dy))
            self.backend.activation_gradient(self.activation, self._y, dy, dx)
            dy = dx
        return (dy,) * len(self.input_shapes)


@dataclass(eq=False)
class Concat(Layer):
    """The channels of two or more inputs one after the other (Szegedy et al. 2014, figure 2)."""

    repeatable = True

    lives = Lives(makes_gradients=None)
    stores = Stores(True, True)

    def shape_after(self, *input_shapes: Shape) -> Shape:
        _at_least_two(self, input_shapes)
        if len({shape[:-1] for shape in input_shapes}) > 1:
            raise ShapeError(
                f"Concat takes inputs that differ in channels only, not {_listed(input_shapes)}; "
                "give their layers the same stride and padding."
            )
        return (*input_shapes[0][:-1], sum(shape[-1] for shape in input_shapes))

    def parameter_count(self, *input_shapes: Shape) -> int:
        return 0

    def work(self, batch: int, *input_shapes: Shape, training: bool) -> Work:
        copy = elementwise(0, 2 * batch * sum(map(prod, input_shapes)))
        return Work([copy], data_gradient=[copy])

    def memory(self, *input_shapes: Shape, training: bool) -> Footprint:
        return Footprint()

    def create(self) -> None:
        starts = accumulate((shape[-1] for shape in self.input_shapes), initial=0)
        self._channels = list(pairwise(starts))

    def forward(self, *inputs: Array, training: bool) -> Array:
        y = self.output_buffer(len(inputs[0]))
        for x, (start, end) in zip(inputs, self._channels, strict=True):
            self.backend.copy_channels(x, y, channels=end - start, target=start)
        return y

    def backward(self, dy: Array) -> tuple[Array, ...]:
        gradients = []
        for k, (start, end) in enumerate(self._channels):
            dx = self.input_gradient_buffer(len(dy), k)
            self.backend.copy_channels(dy, dx, channels=end - start, source=start)
            gradients.append(dx)
        return tuple(gradients)


def _at_least_two(layer: Layer, shapes: Sequence[Shape]) -> None:
    if len(shapes) < 2:
        raise ShapeError(
            f"{type(layer).__name__} joins two or more inputs, not {len(shapes)}; "
            'name them, as in inputs = ["conv1", "conv2"].'
        )


def _listed(shapes: Sequence[Shape]) -> str:
    return " and ".join(map(str, shapes))
