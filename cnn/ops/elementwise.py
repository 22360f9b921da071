"""Bias, activations, scaling and sums, element by element."""

import numpy as np
from scipy.special import expit

from cnn.arrays import Array
from cnn.errors import UsageError
from cnn.words import unknown

ACTIVATIONS = ("relu", "tanh", "sigmoid")


class Elementwise:
    """Operations on single elements."""

    def running_mean(self, running: Array, new: Array, *, momentum: float) -> None:
        """running = momentum * running + (1 - momentum) * new, in place."""
        running *= momentum
        running += (1 - momentum) * new

    def scale(self, x: Array, factors: Array | float, out: Array) -> None:
        """out = x * factors, broadcast over the leading axes."""
        np.multiply(x, factors, out=out)

    def add(self, x: Array, out: Array) -> None:
        """out += x."""
        np.add(out, x, out=out)

    def bias_activation(self, y: Array, bias: Array | None, activation: str | None) -> None:
        """y (..., K) = activation(y + bias (K,)), in place."""
        if bias is not None:
            np.add(y, bias, out=y)
        if activation is not None:
            self.activation(activation, y, y)

    def bias_gradient(self, dy: Array, out: Array) -> None:
        """out (K,) = the sum of dy (..., K) over all other axes."""
        np.einsum("mk->k", dy.reshape(-1, dy.shape[-1]), out=out)

    def activation(self, name: str, x: Array, out: Array) -> None:
        """out = relu(x), tanh(x) or sigmoid(x); out may be x. Raises UsageError for another name."""
        if name == "relu":
            np.maximum(x, 0, out=out)
        elif name == "tanh":
            np.tanh(x, out=out)
        elif name == "sigmoid":
            expit(x, out=out)
        else:
            raise unknown_activation(name)

    def activation_gradient(self, name: str, y: Array, dy: Array, out: Array) -> None:
        """out = dy * activation'(x), from the activation's output y alone; at a relu's zero the derivative is 0."""
        if name == "relu":
            np.multiply(dy, y > 0, out=out)
        elif name == "tanh":
            np.multiply(dy, 1 - y * y, out=out)
        elif name == "sigmoid":
            np.multiply(dy, y * (1 - y), out=out)
        else:
            raise unknown_activation(name)

    def activation_bias_gradient(self, name: str, y: Array, dy: Array, out: Array, bias: Array) -> None:
        """`activation_gradient` to out, then `bias_gradient` of out to bias (K,)."""
        self.activation_gradient(name, y, dy, out)
        self.bias_gradient(out, bias)


def unknown_activation(name: str) -> UsageError:
    """The error for an activation that no backend knows."""
    return unknown("There is no activation", name, ACTIVATIONS)
