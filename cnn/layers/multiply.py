"""Multiplication by a number that is not trained."""

from dataclasses import dataclass
from math import isfinite, prod

from cnn.arithmetic import Work, elementwise
from cnn.arrays import Array, Shape
from cnn.config import require
from cnn.layers.layer import Layer, Lives


@dataclass(eq=False)
class Multiply(Layer):
    """Multiplies every element by `factor`, such as 1/9 for scores that shall start small."""

    repeatable = True

    factor: float
    """The number, which is not trained."""

    lives = Lives()

    def __post_init__(self) -> None:
        require(isfinite(self.factor), f"factor must be finite, not {self.factor}.")

    def shape_after(self, input_shape: Shape) -> Shape:
        return input_shape

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        y = batch * prod(input_shape)
        return Work([elementwise(y, 2 * y)], data_gradient=[elementwise(y, 2 * y)])

    def forward(self, x: Array, *, training: bool) -> Array:
        y = self.output_buffer(len(x))
        self.backend.scale(x, self.factor, y)
        return y

    def backward(self, dy: Array) -> Array:
        dx = self.input_gradient_buffer(len(dy))
        self.backend.scale(dy, self.factor, dx)
        return dx
