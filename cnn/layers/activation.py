"""Activations as layers of their own, where they do not follow a product."""

from abc import abstractmethod
from dataclasses import dataclass

from cnn.arrays import Array, Shape
from cnn.layers.layer import Layer


class Activation(Layer):
    """Applies one function to every element."""

    repeatable = True

    @property
    @abstractmethod
    def function(self) -> str:
        """The backend's name for it."""

    def shape_after(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, x: Array, *, training: bool) -> Array:
        self._y = self._output(len(x))
        self.backend.activation(self.function, x, self._y)
        return self._y

    def backward(self, dy: Array) -> Array:
        dx = self._input_gradient(len(dy))
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
