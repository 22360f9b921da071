"""Activations as separate layers, for where they are not fused into a product."""

from abc import abstractmethod
from dataclasses import dataclass
from math import prod

from cnn.arithmetic import Work, elementwise
from cnn.arrays import Array, Shape
from cnn.layers.layer import Layer


class Activation(Layer):
    """Applies one function to every element."""

    repeatable = True

    @property
    @abstractmethod
    def function(self) -> str:
        """The name by which the backend knows the function."""

    def shape_after(self, input_shape: Shape) -> Shape:
        return input_shape

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        y = batch * prod(input_shape)
        return Work([elementwise(y, 2 * y)], data_gradient=[elementwise(2 * y, 3 * y)])

    def forward(self, x: Array, *, training: bool) -> Array:
        self._y = self.output_buffer(len(x))
        self.backend.activation(self.function, x, self._y)
        return self._y

    def backward(self, dy: Array) -> Array:
        dx = self.input_gradient_buffer(len(dy))
        self.backend.activation_gradient(self.function, self._y, dy, dx)
        return dx


@dataclass(eq=False)
class ReLU(Activation):
    """max(x, 0)."""

    function = "relu"


@dataclass(eq=False)
class Tanh(Activation):
    """tanh(x)."""

    function = "tanh"


@dataclass(eq=False)
class Sigmoid(Activation):
    """1 / (1 + exp(-x))."""

    function = "sigmoid"


_LAYERS: dict[str, str] = {each.function: each.__name__ for each in (ReLU, Tanh, Sigmoid)}


def pass_of_its_own(function: str | None) -> str | None:
    """The layer that a fused activation runs as; None if it is applied in the product's own pass, as relu is."""
    return None if function in (None, ReLU.function) else _LAYERS[function]
