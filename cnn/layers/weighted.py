"""What the convolutional and the fully connected layer have in common: weights, a bias and a fused activation."""

from abc import abstractmethod
from math import prod

from cnn.arithmetic import Footprint, Operation, Work, elementwise
from cnn.arrays import Array, Shape
from cnn.initializers import Initializer, Zeros
from cnn.layers.activation import pass_of_its_own
from cnn.layers.layer import Layer, Lives, Parameter, checked_activation, checked_multipliers
from cnn.layers.norm import BatchNorm


class Weighted(Layer):
    """activation(product(x, weight) + bias), where the product is linear in both.

    Multipliers scale the (learning rate, weight decay) of weights and bias.
    """

    repeatable = True

    bias: bool
    """Whether a trained number is added to each output channel."""
    activation: str | None
    """None, "relu", "tanh" or "sigmoid", applied to the sum."""
    weights: Initializer
    """The initialiser of the weights; biases start at 0."""
    weight_multipliers: tuple[float, float]
    """Factors of the learning rate and of the weight decay for the weights."""
    bias_multipliers: tuple[float, float]
    """The same for the bias."""

    def __post_init__(self) -> None:
        checked_activation(self.activation)
        self.weights = Initializer.from_config(self.weights)
        self.weight_multipliers = checked_multipliers(self.weight_multipliers, "weight_multipliers")
        self.bias_multipliers = checked_multipliers(self.bias_multipliers, "bias_multipliers")

    @property
    def lives(self) -> Lives:
        return Lives(keeps_input=True, keeps_output=self.activation is not None)

    def forward(self, x: Array, *, training: bool) -> Array:
        self._x = x
        self._y = self.output_buffer(len(x))
        self._product(x, self.w.value, self.b.value if self.b else None, self.activation, self._y)
        return self._y

    def forward_normalised(self, x: Array, norm: BatchNorm) -> Array:
        """At inference, the output of `norm` for this layer's output: one product, with weights that norm has scaled.

        Unless nobody changes them, the weights are scaled anew each time, so that they are never those of an earlier
        step of training.
        """
        y = self.output_buffer(len(x))
        w, bias = norm.folded_into(self.w.value, self.b.value if self.b else None)
        self._product(x, w, bias, norm.activation, y)
        return y

    def backward(self, dy: Array) -> Array:
        dz = self._parameter_gradients(dy)
        dx = self.input_gradient_buffer(len(dy))
        self._data_gradient(dz, dx)
        return dx

    def backward_parameters(self, dy: Array) -> None:
        self._parameter_gradients(dy)

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        activated = training and self.activation is not None
        return Footprint(scratch={"dz": prod(self.shape_after(input_shape))} if activated else {})

    def _finished(
        self,
        outputs: int,
        forward: list[Operation],
        weight_gradient: list[Operation],
        data_gradient: list[Operation],
        taps: int = 1,
        *,
        fused: bool = False,
    ) -> Work:
        """The work of the given products, plus bias and activation on `outputs` elements.

        If `fused`, bias and ReLU are applied before an output is written, without another pass over the outputs.
        """
        passes = bool(self.bias) + (self.activation is not None)
        again = not (fused and pass_of_its_own(self.activation) is None)
        finish = [elementwise(passes * outputs, 2 * outputs if again else 0)] if passes else []
        if self.activation is not None:
            # The activation's gradient (y and dy read, dz written) and the bias's, in one pass.
            gradients = [elementwise((2 + self.bias) * outputs, 3 * outputs)]
        else:
            gradients = [elementwise(outputs, outputs)] if self.bias else []
        return Work(
            [*forward, *finish],
            [*gradients, *weight_gradient],
            data_gradient,
            taps,
            pass_of_its_own(self.activation),
        )

    @abstractmethod
    def _product(self, x: Array, w: Array, bias: Array | None, activation: str | None, out: Array) -> None:
        """Computes activation(product(x, w) + bias)."""

    @abstractmethod
    def _weight_gradient(self, x: Array, dz: Array, out: Array) -> None: ...

    @abstractmethod
    def _data_gradient(self, dz: Array, out: Array) -> None: ...

    def _create_weights(self, shape: Shape, groups: int = 1) -> None:
        self.w = self.add_parameter("weight", shape, self.weights, self.weight_multipliers, groups)
        self.b: Parameter | None = None
        if self.bias:
            self.b = self.add_parameter("bias", shape[-1:], Zeros(), self.bias_multipliers)

    def _parameter_gradients(self, dy: Array) -> Array:
        """Fills the gradients of weights and bias; returns the gradient of the sum before the activation."""
        dz = dy if self.activation is None else self.temporary("dz", dy)
        if self.activation is None:
            if self.b:
                self.backend.bias_gradient(dz, self.b.gradient)
        elif self.b:
            self.backend.activation_bias_gradient(self.activation, self._y, dy, dz, self.b.gradient)
        else:
            self.backend.activation_gradient(self.activation, self._y, dy, dz)
        self._weight_gradient(self._x, dz, self.w.gradient)
        return dz
