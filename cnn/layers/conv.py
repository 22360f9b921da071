"""The convolutional layer."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from cnn.arithmetic import Footprint, Operation, Work, elementwise, move, product, sliding
from cnn.arrays import Array, Shape
from cnn.config import require
from cnn.convolution import Convolution, Padding, Window, kernel_extent, padded_size, pair, resolve_padding
from cnn.errors import ShapeError
from cnn.initializers import Glorot, Initializer
from cnn.layers.layer import Stores, image_shape
from cnn.layers.weighted import Weighted


@dataclass(eq=False)
class Conv2D(Weighted):
    """Correlates images (H, W, C) with `filters` kernels to (P, Q, K), adds a bias, applies an activation.

    padding is "valid", "same", one number, (rows, columns) or (top, bottom, left, right). connections, if given,
    lists for each filter the input channels it sees (LeCun et al. 1998, table I); all other weights stay zero.
    With groups, channels and filters are cut into as many equal parts, and a filter sees only the channels of its own
    part (Krizhevsky et al. 2012, section 3.5); as many groups as channels make the convolution depthwise. dilation is
    the distance in pixels between neighbouring kernel elements, one number or (rows, columns).
    """

    filters: int
    kernel: int | tuple[int, int]
    """Height and width of the kernels, one number or (rows, columns)."""
    stride: int | tuple[int, int] = 1
    """Pixels from one window to the next, one number or (rows, columns)."""
    padding: Padding = "valid"
    bias: bool = True
    activation: str | None = None
    weights: Initializer = field(default_factory=Glorot)
    weight_multipliers: tuple[float, float] = (1.0, 1.0)
    bias_multipliers: tuple[float, float] = (1.0, 1.0)
    connections: list[list[int]] | None = None
    groups: int = 1
    dilation: int | tuple[int, int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.filters >= 1, f"Conv2D needs at least 1 filter, not {self.filters}.")
        self._kernel = pair(self.kernel, "kernel")
        self._stride = pair(self.stride, "stride")
        self._dilation = pair(self.dilation, "dilation")
        require(
            min(self._dilation) >= 1, f"dilation {self._dilation} must be at least 1; 1 leaves no gaps in a kernel."
        )
        require(
            self.groups >= 1 and self.filters % self.groups == 0,
            f"{self.filters} filters cannot be divided into {self.groups} groups; give a number that divides them.",
        )
        require(
            self.groups == 1 or self.connections is None,
            f"connections and groups ({self.groups}) both say which channels a filter sees; give one of them.",
        )
        if self.connections is not None and len(self.connections) != self.filters:
            raise ShapeError(f"connections lists {len(self.connections)} filters, but there are {self.filters}.")

    @property
    def stores(self) -> Stores:
        plain = self.groups == 1 and self._dilation == (1, 1)
        return Stores(inputs=plain, output=plain, apart=True)

    @property
    def kind(self) -> str:
        # A kernel per channel is no product of matrices, and takes another time.
        return f"{super().kind} depthwise" if self.groups == self.filters > 1 else super().kind

    def convolution_on(self, shape: Shape) -> Convolution:
        """The convolution of an image of `shape`."""
        height, width, channels = image_shape(self, shape)
        extent = kernel_extent(self._kernel, self._dilation)
        padding = resolve_padding(self.padding, (height, width), extent, self._stride)
        window = Window((height, width), self._kernel, self._stride, padding, dilation=self._dilation)
        return Convolution(window, channels, self.filters, self.groups)

    def shape_after(self, input_shape: Shape) -> Shape:
        return self.convolution_on(input_shape).output_shape

    def parameter_count(self, input_shape: Shape) -> int:
        return self.filters * (self.convolution_on(input_shape).depth + self.bias)

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        convolution = self.convolution_on(input_shape)
        rows, depth = batch * prod(convolution.out), convolution.depth
        if convolution.depthwise:
            arrays = batch * prod(input_shape) + prod(convolution.weights_shape) + rows * self.filters
            each = [sliding(batch * convolution.macs, arrays)]
            return self._finished(rows * self.filters, each, each, each, taps=convolution.taps, fused=True)
        lowering = _lowering(convolution, batch)
        mask = [elementwise(depth * self.filters, 3 * depth * self.filters)] if self.connections else []
        groups, group = convolution.groups, convolution.group
        x, columns = batch * prod(input_shape), rows * depth * groups
        scatter = [] if convolution.copyless else [move("col2im", columns + x, columns)]
        return self._finished(
            rows * self.filters,
            [*lowering, *[product(rows, group.filters, depth)] * groups],
            [*lowering, *[product(depth, group.filters, rows)] * groups, *mask],
            [*[product(rows, depth, group.filters)] * groups, *scatter],
            taps=convolution.taps,
        )

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        convolution = self.convolution_on(input_shape)
        scratch = dict(super().memory(input_shape, training=training).scratch)
        if not (convolution.copyless or convolution.depthwise):
            scratch["columns"] = prod(convolution.out) * convolution.depth
            if any(convolution.window.padding):
                scratch["padded"] = prod(padded_size(convolution.window)) * convolution.channels
        return Footprint(scratch=scratch)

    def create(self) -> None:
        self.convolution = self.convolution_on(self.input_shape)
        self._create_weights(self.convolution.weights_shape, self.groups)
        self._mask: Array | None = None
        if self.connections is not None:
            mask = connection_mask(self.connections, self.convolution.channels)
            mask = np.broadcast_to(mask, self.w.value.shape)
            self._mask = self.backend.asarray(mask, self.context.dtype)
            self.backend.scale(self.w.value, self._mask, self.w.value)

    def _product(self, x: Array, w: Array, bias: Array | None, activation: str | None, out: Array) -> None:
        self.backend.conv2d(x, w, bias, self.convolution, activation, out, self.context.scratch)

    def _weight_gradient(self, x: Array, dz: Array, out: Array) -> None:
        self.backend.conv2d_weight_gradient(x, dz, self.convolution, out, self.context.scratch)
        if self._mask is not None:
            self.backend.scale(out, self._mask, out)

    def _data_gradient(self, dz: Array, out: Array) -> None:
        self.backend.conv2d_data_gradient(dz, self.w.value, self.convolution, out, self.context.scratch)


def _lowering(convolution: Convolution, batch: int) -> list[Operation]:
    """Writing the column matrix, from the image or from a padded copy of it."""
    if convolution.copyless:
        return []
    top, bottom, left, right = convolution.window.padding
    height, width, channels = convolution.input_shape
    padded = batch * (height + top + bottom) * (width + left + right) * channels
    copy = [move("im2col", batch * height * width * channels + padded)] if top or bottom or left or right else []
    columns = batch * prod(convolution.out) * convolution.depth * convolution.groups
    return [*copy, move("im2col", padded + columns)]


def connection_mask(connections: list[list[int]], channels: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(C, K): one where filter k sees channel c, zero elsewhere. Raises ShapeError for a channel outside 0..C-1."""
    mask = np.zeros((channels, len(connections)))
    for k, seen in enumerate(connections):
        if not seen or not all(0 <= c < channels for c in seen):
            raise ShapeError(
                f"Filter {k} is connected to channels {seen}, but the input has channels 0 to {channels - 1}."
            )
        mask[list(seen), k] = 1
    return mask
