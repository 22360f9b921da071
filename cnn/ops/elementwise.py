"""Bias, activations, scaling and sums, element by element."""

from math import pi, sqrt

import numpy as np
from scipy.special import erf, expit

from cnn.arrays import Array
from cnn.errors import UsageError
from cnn.precision import round_bfloat16
from cnn.words import unknown

FUSED = ("relu", "tanh", "sigmoid")
"""Activations that a product or a sum may apply: their gradient follows from their output alone."""

ACTIVATIONS = (*FUSED, "leaky_relu", "relu6", "gelu", "silu", "hard_swish")
"""All activations; the gradient of those that are not fused follows from their input."""

SLOPE = 0.01
"""The factor of leaky_relu for negative elements, unless another is given (Maas et al. 2013)."""


class Elementwise:
    """Operations on single elements."""

    def running_mean(self, running: Array, new: Array, *, momentum: float) -> None:
        """running = momentum * running + (1 - momentum) * new, in place."""
        running *= momentum
        running += (1 - momentum) * new

    def scale(self, x: Array, factors: Array | float, out: Array) -> None:
        """out = x * factors, broadcast over the leading axes."""
        np.multiply(x, factors, out=out)

    def add(self, x: Array, y: Array, activation: str | None, out: Array) -> None:
        """out = activation(x + y) for a fused activation or None; out may be x or y."""
        np.add(x, y, out=out)
        if activation is not None:
            self.activation(activation, out, out)

    def copy_channels(self, x: Array, out: Array, *, channels: int, source: int = 0, target: int = 0) -> None:
        """out[..., target : target + channels] = x[..., source : source + channels]; the rest of out stays."""
        out[..., target : target + channels] = x[..., source : source + channels]

    def round_bfloat16(self, x: Array, out: Array) -> None:
        """out = float32 x rounded to the nearest bfloat16, ties to even; out may be x."""
        round_bfloat16(x, out)

    def bias_activation(self, y: Array, bias: Array | None, activation: str | None) -> None:
        """y (..., K) = activation(y + bias (K,)), in place."""
        if bias is not None:
            np.add(y, bias, out=y)
        if activation is not None:
            self.activation(activation, y, y)

    def bias_gradient(self, dy: Array, out: Array) -> None:
        """out (K,) = the sum of dy (..., K) over all other axes."""
        np.einsum("mk->k", dy.reshape(-1, dy.shape[-1]), out=out)

    def activation(self, name: str, x: Array, out: Array, *, slope: float = SLOPE) -> None:
        """out = activation(x), with `slope` for leaky_relu only; out may be x. Raises UsageError for an unknown name.

        relu: max(x, 0). tanh. sigmoid: 1 / (1 + exp(-x)). leaky_relu: x, or slope * x below 0. relu6: x within 0 and 6
        (Howard et al. 2017). gelu: x times the normal distribution function of x (Hendrycks & Gimpel 2016). silu:
        x * sigmoid(x) (the same). hard_swish: x * relu6(x + 3) / 6 (Howard et al. 2019, section 5.2).
        """
        if name == "relu":
            np.maximum(x, 0, out=out)
        elif name == "tanh":
            np.tanh(x, out=out)
        elif name == "sigmoid":
            expit(x, out=out)
        elif name == "leaky_relu":
            np.multiply(x, np.where(x > 0, x.dtype.type(1), x.dtype.type(slope)), out=out)
        elif name == "relu6":
            np.clip(x, 0, 6, out=out)
        elif name == "gelu":
            np.multiply(x, (1 + erf(x / sqrt(2))) / 2, out=out)
        elif name == "silu":
            np.multiply(x, expit(x), out=out)
        elif name == "hard_swish":
            np.multiply(x, np.clip(x + 3, 0, 6) / 6, out=out)
        else:
            raise unknown_activation(name)

    def activation_gradient(self, name: str, source: Array, dy: Array, out: Array, *, slope: float = SLOPE) -> None:
        """out = dy * activation'(x); `source` is the activation's output if it is a fused one, else its input x.

        Where two straight pieces meet, the derivative is that of the flatter one.
        """
        s = source
        if name == "relu":
            np.multiply(dy, s > 0, out=out)
        elif name == "tanh":
            np.multiply(dy, 1 - s * s, out=out)
        elif name == "sigmoid":
            np.multiply(dy, s * (1 - s), out=out)
        elif name == "leaky_relu":
            np.multiply(dy, np.where(s > 0, s.dtype.type(1), s.dtype.type(slope)), out=out)
        elif name == "relu6":
            np.multiply(dy, (s > 0) & (s < 6), out=out)
        elif name == "gelu":
            np.multiply(dy, (1 + erf(s / sqrt(2))) / 2 + s * np.exp(-s * s / 2) / sqrt(2 * pi), out=out)
        elif name == "silu":
            np.multiply(dy, expit(s) * (1 + s * expit(-s)), out=out)
        elif name == "hard_swish":
            np.multiply(dy, np.where(s >= 3, s.dtype.type(1), (2 * s + 3) / 6) * (s > -3), out=out)
        else:
            raise unknown_activation(name)

    def activation_bias_gradient(self, name: str, y: Array, dy: Array, out: Array, bias: Array) -> None:
        """`activation_gradient` of a fused activation to out, then `bias_gradient` of out to bias (K,)."""
        self.activation_gradient(name, y, dy, out)
        self.bias_gradient(out, bias)


def unknown_activation(name: str) -> UsageError:
    """The error for an activation that no backend knows."""
    return unknown("There is no activation", name, ACTIVATIONS)
