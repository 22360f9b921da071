"""Pooling layers."""

from dataclasses import dataclass
from math import prod

import numpy as np

from cnn.arithmetic import FLOAT, Footprint, Operation, Work, elementwise
from cnn.arrays import Array, Shape
from cnn.convolution import Padding, Window, pair, resolve_padding
from cnn.errors import ShapeError
from cnn.layers.layer import Layer, Lives, Stores, image_shape
from cnn.ops.pooling import mean_weights, pixels_inside


class Pool2D(Layer):
    """Slides a window over each channel of images (H, W, C) to (P, Q, C).

    stride defaults to the kernel. ceil rounds the number of windows up instead of down (as Caffe does), so that the
    last ones may extend past the edge.
    """

    kernel: int | tuple[int, int]
    """Height and width of the window, one number or (rows, columns)."""
    stride: int | tuple[int, int] | None
    padding: Padding
    """"valid", "same", one number, (rows, columns) or (top, bottom, left, right)."""
    ceil: bool

    def __post_init__(self) -> None:
        self._kernel = pair(self.kernel, "kernel")
        self._stride = self._kernel if self.stride is None else pair(self.stride, "stride")

    def window_on(self, shape: Shape) -> Window:
        """The window sliding over an image of `shape`. Raises ShapeError if a window could cover padding only."""
        height, width, _ = image_shape(self, shape)
        padding = resolve_padding(self.padding, (height, width), self._kernel, self._stride)
        for before, kernel in zip((max(padding[:2]), max(padding[2:])), self._kernel, strict=True):
            if before >= kernel:
                raise ShapeError(f"Padding {padding} must be smaller than the pooling kernel {self._kernel}.")
        return Window((height, width), self._kernel, self._stride, padding, self.ceil)

    def shape_after(self, input_shape: Shape) -> Shape:
        return (*self.window_on(input_shape).out, input_shape[2])

    def _work(self, batch: int, input_shape: Shape, *, routed: bool, training: bool) -> Work:
        """With `routed` a gradient goes to one element per window, whose position, a byte, is kept in training."""
        window = self.window_on(input_shape)
        x, y = batch * prod(input_shape), batch * prod(window.out) * input_shape[2]
        positions = y if routed and training else 0
        moved = FLOAT * (x + y) + positions
        forward = Operation("elementwise", window.taps * y, moved, integers=positions)
        backward = Operation("elementwise", y if routed else window.taps * y, moved, integers=positions)
        return Work([forward], data_gradient=[backward], taps=window.taps)

    def create(self) -> None:
        self.window = self.window_on(self.input_shape)


@dataclass(eq=False)
class MaxPool2D(Pool2D):
    """The largest element under each window; padding is never the largest."""

    repeatable = True

    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: Padding = "valid"
    ceil: bool = False

    lives = Lives()
    stores = Stores(True, True)

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        return self._work(batch, input_shape, routed=True, training=training)

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        if not training:
            return Footprint()
        outputs = prod(self.shape_after(input_shape))
        winners = -(-outputs // FLOAT)  # a byte each
        return Footprint(winners, {"larger": winners, "routed": outputs})

    def forward(self, x: Array, *, training: bool) -> Array:
        y = self.output_buffer(len(x))
        self._winners = None
        if training:
            self._winners = self.buffers.get("winners", y.shape, np.min_scalar_type(self.window.taps - 1))
        self.backend.max_pool2d(x, self.window, y, self._winners, self.context.scratch)
        return y

    def backward(self, dy: Array) -> Array:
        if self._winners is None:
            raise ShapeError("MaxPool2D.backward needs a forward pass first; call forward with training=True.")
        dx = self.input_gradient_buffer(len(dy))
        self.backend.max_pool2d_gradient(dy, self._winners, self.window, dx, self.context.scratch)
        return dx


@dataclass(eq=False)
class AvgPool2D(Pool2D):
    """The mean under each window; padding counts as zeros, anything beyond the padding does not count (as in Caffe).

    Without count_padding only pixels of the image count, as in most networks of Keras.
    """

    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: Padding = "valid"
    ceil: bool = False
    count_padding: bool = True

    lives = Lives()

    @property
    def stores(self) -> Stores:
        # Without counting padding, factors per pixel are applied by NumPy on every backend.
        return Stores(self.count_padding, self.count_padding)

    @property
    def repeatable(self) -> bool:
        # Factors per pixel are applied by NumPy on every backend.
        return self._factors is None

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        return self._work(batch, input_shape, routed=False, training=training)

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        outputs = prod(self.shape_after(input_shape))
        shares = {"uncounted": outputs} if self._uncounts(self.window_on(input_shape)) else {}
        return Footprint(scratch=shares | {"shares": outputs} if training else {})

    def create(self) -> None:
        super().create()
        self._factors: Array | None = None
        if self._uncounts(self.window):
            factors = 1 / (pixels_inside(self.window) * mean_weights(self.window))
            self._factors = self.backend.asarray(np.broadcast_to(factors, self.output_shape), self.context.dtype)

    def forward(self, x: Array, *, training: bool) -> Array:
        y = self.output_buffer(len(x))
        self.backend.avg_pool2d(x, self.window, y)
        if self._factors is not None:
            self.backend.scale(y, self._factors, y)
        return y

    def backward(self, dy: Array) -> Array:
        if self._factors is not None:
            scaled = self.context.scratch.get("uncounted", dy.shape)
            self.backend.scale(dy, self._factors, scaled)
            dy = scaled
        dx = self.input_gradient_buffer(len(dy))
        self.backend.avg_pool2d_gradient(dy, self.window, dx, self.context.scratch)
        return dx

    def _uncounts(self, window: Window) -> bool:
        """Whether there is padding that does not count."""
        return not self.count_padding and any(window.padding)


@dataclass(eq=False)
class GlobalAvgPool2D(Layer):
    """The mean of each channel over all pixels: images (H, W, C) to vectors (C,) (Lin et al. 2013, section 3.2)."""

    repeatable = True

    lives = Lives()
    stores = Stores(True, True)

    def shape_after(self, input_shape: Shape) -> Shape:
        return image_shape(self, input_shape)[2:]

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        x, y = batch * prod(input_shape), batch * input_shape[2]
        return Work([elementwise(x, x + y)], data_gradient=[elementwise(y, x + y)], taps=prod(input_shape[:2]))

    def create(self) -> None:
        height, width, _ = self.input_shape
        self._window = Window((height, width), (height, width))

    def forward(self, x: Array, *, training: bool) -> Array:
        y = self.output_buffer(len(x))
        self.backend.avg_pool2d(x, self._window, y.reshape(len(x), 1, 1, -1))
        return y

    def backward(self, dy: Array) -> Array:
        dx = self.input_gradient_buffer(len(dy))
        self.backend.avg_pool2d_gradient(dy.reshape(len(dy), 1, 1, -1), self._window, dx, self.context.scratch)
        return dx
