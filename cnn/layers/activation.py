"""Activations as separate layers, for where they are not fused into a product."""

from abc import abstractmethod
from dataclasses import dataclass
from math import isfinite, prod

from cnn.arithmetic import Work, elementwise
from cnn.arrays import Array, Shape
from cnn.config import require
from cnn.layers.layer import Layer, Lives, Stores
from cnn.ops.elementwise import FUSED, SLOPE


class Activation(Layer):
    """Applies one function to every element."""

    repeatable = True
    stores = Stores(True, True)

    @property
    @abstractmethod
    def function(self) -> str:
        """The name by which the backend knows the function."""

    @property
    def lives(self) -> Lives:
        return Lives(keeps_output=True, in_place=True) if self.function in FUSED else Lives(keeps_input=True)

    def shape_after(self, input_shape: Shape) -> Shape:
        return input_shape

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        y = batch * prod(input_shape)
        return Work([elementwise(y, 2 * y)], data_gradient=[elementwise(2 * y, 3 * y)])

    @property
    def numbers(self) -> dict[str, float]:
        """The function's own settings, as the backend takes them."""
        return {}

    def forward(self, x: Array, *, training: bool) -> Array:
        y = self.output_buffer(len(x))
        self._source = y if self.function in FUSED else x
        self.backend.activation(self.function, x, y, **self.numbers)
        return y

    def backward(self, dy: Array) -> Array:
        dx = self.input_gradient_buffer(len(dy))
        self.backend.activation_gradient(self.function, self._source, dy, dx, **self.numbers)
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


@dataclass(eq=False)
class LeakyReLU(Activation):
    """x, or slope * x where x is below 0 (Maas et al. 2013, "Rectifier nonlinearities", section 2)."""

    slope: float = SLOPE
    """The slope below 0."""

    function = "leaky_relu"

    def __post_init__(self) -> None:
        require(isfinite(self.slope), f"slope must be finite, not {self.slope}.")

    @property
    def numbers(self) -> dict[str, float]:
        return {"slope": self.slope}


@dataclass(eq=False)
class ReLU6(Activation):
    """min(max(x, 0), 6) (Howard et al. 2017, "MobileNets")."""

    function = "relu6"


@dataclass(eq=False)
class GELU(Activation):
    """x times the normal distribution function of x, not its tanh approximation (Hendrycks & Gimpel 2016)."""

    function = "gelu"


@dataclass(eq=False)
class SiLU(Activation):
    """x / (1 + exp(-x)), also called swish (Hendrycks & Gimpel 2016, section 2)."""

    function = "silu"


@dataclass(eq=False)
class HardSwish(Activation):
    """x * relu6(x + 3) / 6 (Howard et al. 2019, "Searching for MobileNetV3", section 5.2)."""

    function = "hard_swish"


_LAYERS: dict[str, str] = {each.function: each.__name__ for each in (ReLU, Tanh, Sigmoid)}


def pass_of_its_own(function: str | None) -> str | None:
    """The layer that a fused activation runs as; None if it is applied in the product's own pass, as relu is."""
    return None if function in (None, ReLU.function) else _LAYERS[function]
