"""The geometry of sliding windows and of convolutions, and im2col and col2im in NumPy."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from numpy.lib.stride_tricks import sliding_window_view

from cnn.arrays import Array, Shape
from cnn.errors import ShapeError

Pair = tuple[int, int]
Padding = str | int | tuple[int, int] | tuple[int, int, int, int]
MOST_SIDE = 1 << 16
"""Rows or columns of an image with its padding, and of a kernel, its dilation and its stride."""


class Tap(NamedTuple):
    """Where kernel element (r, s) lies inside the image: output rows and columns, and the input ones they read."""

    r: int
    s: int
    p: slice
    q: slice
    h: slice
    w: slice


@dataclass(frozen=True)
class Window:
    """A kernel sliding over an image: (H, W) in, (P, Q) out.

    Kernel elements lie `dilation` pixels apart. padding is (top, bottom, left, right). With ceil (Caffe's pooling), the
    last window may extend past the bottom and right edges, as long as it starts before the bottom or right padding; so
    a kernel fits an image that it exceeds by less than the stride.
    """

    size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil: bool = False
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        if min(self.kernel) < 1 or min(self.stride) < 1 or min(self.padding) < 0:
            raise ShapeError(
                f"Kernel {self.kernel} and stride {self.stride} must be at least 1, padding {self.padding} at least 0."
            )
        if min(self.dilation) < 1:
            raise ShapeError(f"Dilation {self.dilation} must be at least 1; 1 leaves no gaps in a kernel.")
        if any(span > MOST_SIDE for span in (*self.padded, *self.kernel, *self.extent, *self.stride)):
            raise ShapeError(
                f"An image of {self.size} with padding {self.padding}, a kernel of {self.kernel}, stride {self.stride} "
                f"and dilation {self.dilation} goes beyond {MOST_SIDE:,} pixels; use smaller numbers."
            )
        if min(self.out) < 1:
            dilated = f" with dilation {self.dilation}" if self.dilated else ""
            raise ShapeError(
                f"A kernel of {self.kernel}{dilated} does not fit an image of {self.size} with padding {self.padding}; "
                "use a smaller kernel, more padding, or fewer pooling layers before it."
            )

    @property
    def padded(self) -> Pair:
        """The size of the image with its padding."""
        top, bottom, left, right = self.padding
        return self.size[0] + top + bottom, self.size[1] + left + right

    @cached_property
    def out(self) -> Pair:
        """Output size (P, Q)."""
        top, bottom, left, right = self.padding
        return self._outputs(0, top, bottom), self._outputs(1, left, right)

    def _outputs(self, axis: int, before: int, after: int) -> int:
        size, stride = self.size[axis], self.stride[axis]
        room = size + before + after - self.extent[axis]
        if not self.ceil:
            return room // stride + 1 if room >= 0 else 0
        count = -(-room // stride) + 1
        return count - 1 if (count - 1) * stride >= size + before else count

    @cached_property
    def extent(self) -> Pair:
        """Rows and columns that a kernel spans, gaps included: (k - 1) * dilation + 1."""
        return kernel_extent(self.kernel, self.dilation)

    @property
    def dilated(self) -> bool:
        """Whether there are gaps between the pixels under a kernel."""
        return self.extent != self.kernel

    @property
    def taps(self) -> int:
        """Kernel elements, R * S."""
        return self.kernel[0] * self.kernel[1]

    @cached_property
    def copyless(self) -> bool:
        """Whether an image is its own column matrix: each window is one pixel, or one window is the whole image."""
        each_pixel = self.kernel == (1, 1) and self.stride == (1, 1)
        return not any(self.padding) and (each_pixel or self.kernel == self.size)

    def each_tap(self) -> Iterator[Tap]:
        """Every kernel element, with the part of the output for which it lies inside the image."""
        for r in range(self.kernel[0]):
            p, h = self._overlap(0, r, self.padding[0])
            for s in range(self.kernel[1]):
                q, w = self._overlap(1, s, self.padding[2])
                yield Tap(r, s, p, q, h, w)

    def _overlap(self, axis: int, element: int, before: int) -> tuple[slice, slice]:
        size, stride = self.size[axis], self.stride[axis]
        offset = element * self.dilation[axis]
        first = max(0, -((offset - before) // stride))
        end = max(first, min(self.out[axis], (size - 1 + before - offset) // stride + 1))
        start = first * stride + offset - before
        return slice(first, end), slice(start, start + (end - first - 1) * stride + 1 if end > first else start, stride)


@dataclass(frozen=True)
class Convolution:
    """A window's kernels over images (H, W, C) to (P, Q, K), with C `channels` and K `filters`.

    Channels and filters are both cut into `groups`, in order; a filter sees only the channels of its group.
    """

    window: Window
    channels: int
    filters: int
    groups: int = 1

    def __post_init__(self) -> None:
        if min(self.channels, self.filters, self.groups) < 1:
            raise ShapeError(
                f"A convolution needs at least 1 channel, filter and group, not {self.channels} channels, "
                f"{self.filters} filters and {self.groups} groups."
            )
        if self.channels % self.groups or self.filters % self.groups:
            raise ShapeError(
                f"{self.groups} groups do not divide {self.channels} channels and {self.filters} filters; "
                "give a number that divides both."
            )

    @property
    def out(self) -> Pair:
        """Output size (P, Q)."""
        return self.window.out

    @property
    def taps(self) -> int:
        """Elements of a kernel in one channel, R * S."""
        return self.window.taps

    @property
    def depth(self) -> int:
        """Products summed per output, the weights of one filter: R * S * C / groups."""
        return self.window.taps * self.channels // self.groups

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image; 1 MAC is 2 FLOP."""
        return prod(self.output_shape) * self.depth

    @property
    def input_shape(self) -> Shape:
        """(H, W, C)."""
        return (*self.window.size, self.channels)

    @property
    def output_shape(self) -> Shape:
        """(P, Q, K)."""
        return (*self.window.out, self.filters)

    @property
    def weights_shape(self) -> Shape:
        """(R, S, C / groups, K)."""
        return (*self.window.kernel, self.channels // self.groups, self.filters)

    @property
    def copyless(self) -> bool:
        """Whether an image is its own column matrix."""
        return self.groups == 1 and self.window.copyless

    @property
    def plain(self) -> bool:
        """Whether it has neither dilation nor groups."""
        return self.groups == 1 and not self.window.dilated

    @property
    def depthwise(self) -> bool:
        """Whether each channel is a group, with kernels of its own: no sum over channels, and so no matrix product."""
        return self.groups > 1 and self.groups == self.channels

    @cached_property
    def group(self) -> "Convolution":
        """The convolution of a single group."""
        return Convolution(self.window, self.channels // self.groups, self.filters // self.groups)

    @cached_property
    def turned(self) -> "Convolution | None":
        """The convolution of dy that gives the gradient of x; None if no single convolution gives it.

        Its kernels are turned by 180 degrees, and their channels and filters exchanged.
        """
        (rows, columns), (r, s), (top, bottom, left, right) = self.window.size, self.window.extent, self.window.padding
        if self.window.stride != (1, 1) or max(top, bottom) >= r or max(left, right) >= s:
            return None
        p, q = self.out
        above, before = r - 1 - top, s - 1 - left
        padding = above, rows + r - 1 - p - above, before, columns + s - 1 - q - before
        window = Window((p, q), self.window.kernel, padding=padding, dilation=self.window.dilation)
        return Convolution(window, self.filters, self.channels, self.groups)


def pair(value: int | tuple[int, ...] | list[int], what: str) -> Pair:
    """One number or two as (rows, columns). Raises ShapeError naming `what`."""
    numbers = (value, value) if isinstance(value, int) else tuple(value)
    if len(numbers) != 2 or not all(isinstance(n, int) for n in numbers):
        raise ShapeError(f"{what} must be one whole number or two (rows, columns), not {value!r}.")
    return numbers[0], numbers[1]


def kernel_extent(kernel: Pair, dilation: Pair) -> Pair:
    """Rows and columns that a kernel spans whose elements lie `dilation` pixels apart."""
    return (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1


def resolve_padding(padding: Padding, size: Pair, kernel: Pair, stride: Pair) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) from "valid", "same", one number, (rows, columns), or all four.

    `kernel` is what a kernel spans, gaps included. "same" gives ceil(size / stride) outputs; an odd remainder goes to
    the bottom and right.
    """
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        total = [max((-(-n // t) - 1) * t + k - n, 0) for n, k, t in zip(size, kernel, stride, strict=True)]
        return total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2
    if isinstance(padding, str):
        raise ShapeError(f'padding must be "same", "valid" or whole numbers, not {padding!r}.')
    if not isinstance(padding, int) and len(padding) == 4:
        top, bottom, left, right = padding
        return top, bottom, left, right
    rows, columns = pair(padding, "padding")
    return rows, rows, columns, columns


def pad(x: Array, window: Window, out: Array) -> None:
    """Copies x (N, H, W, C) into out (N, H', W', C), the padded plane that the windows cover, with zeros around it.

    (H', W') is `padded_size`; pixels that no window reads are left out.
    """
    top, _, left, _ = window.padding
    h = max(0, min(window.size[0], out.shape[1] - top))
    w = max(0, min(window.size[1], out.shape[2] - left))
    out[:, :top].fill(0)
    out[:, top + h :].fill(0)
    out[:, top : top + h, :left].fill(0)
    out[:, top : top + h, left + w :].fill(0)
    out[:, top : top + h, left : left + w] = x[:, :h, :w]


def padded_size(window: Window) -> Pair:
    """(H', W'): the size of the padded plane that the windows cover."""
    (rows, columns), (r, s), (down, right) = window.out, window.extent, window.stride
    return (rows - 1) * down + r, (columns - 1) * right + s


def im2col(x: Array, window: Window, out: Array) -> None:
    """Copies every window of the padded plane x (N, H', W', C) into a row of out (N*P*Q, R*S*C)."""
    # One strided assignment: NumPy merges (S, C) into one run, several times faster than a copy per kernel element.
    windows = sliding_window_view(x, window.extent, axis=(1, 2))[:, :: window.stride[0], :: window.stride[1]]
    rows, columns = window.out
    windows = windows[:, :rows, :columns, :, :: window.dilation[0], :: window.dilation[1]].transpose(0, 1, 2, 4, 5, 3)
    out.reshape(windows.shape)[...] = windows


def col2im(columns: Array, window: Window, out: Array) -> None:
    """Adds every row of columns (N*P*Q, R*S*C) to the pixels it came from; out (N, H, W, C) is overwritten."""
    n, _, _, c = out.shape
    cells = columns.reshape(n, *window.out, *window.kernel, c)
    out.fill(0)
    for r, s, p, q, h, w in window.each_tap():
        out[:, h, w] += cells[:, p, q, r, s]
