"""The geometry of a window or a convolution as kernels read it: a tuple of named integers."""

from functools import cache
from typing import NamedTuple

from numba import types

from cnn.compiled.parts import INTEGER
from cnn.convolution import Convolution, Window


class Geometry(NamedTuple):
    """Sizes of images, kernels and outputs, strides down and right, padding at each edge, dilation, and groups.

    `over` is the padding at the right; kernel elements are `row_gap` and `column_gap` pixels apart. For pooling,
    `filters` is the number of channels.
    """

    height: int
    width: int
    channels: int
    kernel_rows: int
    kernel_columns: int
    out_rows: int
    out_columns: int
    filters: int
    down: int
    right: int
    top: int
    bottom: int
    left: int
    over: int
    row_gap: int
    column_gap: int
    groups: int


GEOMETRY = types.NamedUniTuple(INTEGER, len(Geometry._fields), Geometry)
"""The type of Geometry in kernels."""


@cache
def of_window(window: Window, channels: int) -> Geometry:
    """The geometry of a window over images with `channels` channels."""
    return of_convolution(Convolution(window, channels, channels))


@cache
def of_convolution(convolution: Convolution) -> Geometry:
    """The geometry of a convolution."""
    window, channels, filters = convolution.window, convolution.channels, convolution.filters
    sizes = (*window.size, channels, *window.kernel, *window.out, filters)
    return Geometry(*sizes, *window.stride, *window.padding, *window.dilation, convolution.groups)
