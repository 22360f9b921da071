"""Bias, activations, dropout and copies, element by element."""

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from cnn.arrays import Array
from cnn.errors import UsageError

ACTIVATIONS = ("relu", "tanh", "sigmoid")

ALIGNMENT = 64
"""Bytes of a cache line. MKL promises the same bits from run to run only for arrays that are aligned to it."""


class Elementwise:
    """Arrays in and out of the backend, and operations without neighbours."""

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """A new array with any content, aligned to ALIGNMENT bytes."""
        size = prod(shape) * np.dtype(dtype).itemsize
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + size].view(dtype).reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
        """A new array of zeros."""
        x = self.empty(shape, dtype)
        x.fill(0)
        return x

    def asarray(self, host: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """A copy of a host array in the backend's memory."""
        source = np.asarray(host, dtype)
        x = self.empty(source.shape, source.dtype)
        np.copyto(x, source)
        return x

    def to_numpy(self, x: Array) -> npt.NDArray[Any]:
        """A copy of x in host memory."""
        return np.array(x)

    def copy(self, host: npt.NDArray[Any], out: Array) -> None:
        """Overwrites out with a host array of its shape."""
        np.copyto(out, host)

    def running_mean(self, running: Array, new: Array, *, momentum: float) -> None:
        """running = momentum * running + (1 - momentum) * new, in place."""
        running *= momentum
        running += (1 - momentum) * new

    def all_finite(self, x: Array) -> bool:
        """Whether x holds neither NaN nor infinity."""
        return bool(np.isfinite(x).all())

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
        """out = dy * activation'(x), from the activation's output y alone; at a relu's zero the slope is 0."""
        if name == "relu":
            np.multiply(dy, y > 0, out=out)
        elif name == "tanh":
            np.multiply(dy, 1 - y * y, out=out)
        elif name == "sigmoid":
            np.multiply(dy, y * (1 - y), out=out)
        else:
            raise unknown_activation(name)

    def activation_bias_gradient(self, name: str, y: Array, dy: Array, out: Array, bias: Array) -> None:
        """`activation_gradient` and, of its result, `bias_gradient` to bias (K,)."""
        self.activation_gradient(name, y, dy, out)
        self.bias_gradient(out, bias)


def unknown_activation(name: str) -> UsageError:
    """The error for an activation that no backend knows."""
    return UsageError(f"There is no activation {name!r}; known are: {', '.join(ACTIVATIONS)}.")
