"""Layers that reshape or drop elements."""

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from cnn.arithmetic import Footprint, Work, elementwise
from cnn.arrays import Array, Shape
from cnn.config import require
from cnn.layers.layer import Layer, Lives, Stores


@dataclass(eq=False)
class Flatten(Layer):
    """Turns images (H, W, C) into vectors (H*W*C,), without a copy."""

    repeatable = True

    lives = Lives(shares_output=True, shares_gradient=True, makes_output=False, makes_gradients=0)
    stores = Stores(True, True)

    def shape_after(self, input_shape: Shape) -> Shape:
        return (prod(input_shape),)

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        return Work([])

    def forward(self, x: Array, *, training: bool) -> Array:
        return x.reshape(len(x), *self.output_shape)

    def backward(self, dy: Array) -> Array:
        return dy.reshape(len(dy), *self.input_shape)


def channels_first(height: int, width: int, channels: int) -> npt.NDArray[np.int64] | None:
    """For each element of a flattened (C, H, W) its place in the flattened (H, W, C); None if it is the same."""
    if channels == 1 or height * width == 1:
        return None
    return np.arange(height * width * channels).reshape(height, width, channels).transpose(2, 0, 1).ravel()


@dataclass(eq=False)
class Dropout(Layer):
    """Drops elements with probability `rate` in training and scales the rest by 1 / (1 - rate).

    Srivastava et al. 2014, section 10.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.rate < 1, f"rate must be at least 0 and below 1, not {self.rate}.")

    lives = Lives(shares_output=True, shares_gradient=True)

    def shape_after(self, input_shape: Shape) -> Shape:
        return input_shape

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        if not self.rate:
            return Work([])
        x = batch * prod(input_shape)
        # A mask is drawn and written, then read with the input.
        return Work([elementwise(2 * x, 4 * x)] if training else [], data_gradient=[elementwise(x, 3 * x)])

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        return Footprint(prod(input_shape) if training and self.rate else 0)

    def forward(self, x: Array, *, training: bool) -> Array:
        self._dropped = training and self.rate > 0
        if not self._dropped:
            return x
        y = self.output_buffer(len(x))
        kept = self.context.shard.uniform(self.context.rng, x.shape) >= self.rate
        self._mask = self.buffers.get("mask", x.shape)
        self.backend.copy(kept / np.float32(1 - self.rate), self._mask)
        self.backend.scale(x, self._mask, y)
        return y

    def backward(self, dy: Array) -> Array:
        if not self._dropped:
            return dy
        dx = self.input_gradient_buffer(len(dy))
        self.backend.scale(dy, self._mask, dx)
        return dx
