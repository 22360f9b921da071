"""The networks of the zoo as PyTorch modules with this library's weights, for `versus.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cnn.arrays import Shape
from cnn.layers import AvgPool2D, Conv2D, Flatten, Layer, Linear, MaxPool2D, ReLU
from cnn.layers.conv import connection_mask
from cnn.model.network import Network

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Layout = Callable[[Floats], Floats]
"""Converts an array from this library's layout to PyTorch's."""


def convert(network: Network, values: Sequence[Floats]) -> torch.nn.Sequential:
    """The layers of a network, with weights and biases `values` in this library's layout."""
    import torch

    modules: list[torch.nn.Module] = []
    for node in network.nodes:
        modules += _modules(node.layer, *node.input_shapes)
    model = torch.nn.Sequential(*modules)
    with torch.no_grad():
        for parameter, layout, value in zip(model.parameters(), layouts(network), values, strict=True):
            # copy_ would broadcast a smaller array.
            if parameter.shape != layout(value).shape:
                raise ValueError(f"PyTorch has {tuple(parameter.shape)} where this library has {value.shape}.")
            parameter.copy_(torch.from_numpy(layout(value)))
    return model


def layouts(network: Network) -> Iterator[Layout]:
    """The conversion of each parameter's layout."""
    flattened: Shape | None = None
    for node in network.nodes:
        layer = node.layer
        if isinstance(layer, Flatten):
            (flattened,) = node.input_shapes
        elif isinstance(layer, Conv2D):
            yield from (_filters, _same)[: 1 + layer.bias]
        elif isinstance(layer, Linear):
            yield from (partial(_matrix, flattened=flattened), _same)[: 1 + layer.bias]
            flattened = None


def masks(network: Network, model: torch.nn.Sequential) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The weights of each convolution with a connection table, and the table (K, C, 1, 1) of ones and zeros."""
    import torch

    convolutions = [module for module in model if isinstance(module, torch.nn.Conv2d)]
    settings = [layer for layer in network.layers if isinstance(layer, Conv2D)]
    for layer, module in zip(settings, convolutions, strict=True):
        if layer.connections is not None:
            table = connection_mask(layer.connections, module.in_channels).astype(np.float32)
            yield module.weight, torch.from_numpy(table.T[:, :, None, None].copy())


def _modules(layer: Layer, shape: Shape) -> list[torch.nn.Module]:
    """The modules that compute the layer on images of `shape`. Raises TypeError for an unsupported layer."""
    from torch import nn

    if isinstance(layer, Conv2D):
        window = layer.convolution_on(shape).window
        product: nn.Module = nn.Conv2d(
            shape[2], layer.filters, window.kernel, window.stride, _even(window.padding), bias=layer.bias
        )
        return [product, *_activation(layer.activation)]
    if isinstance(layer, Linear):
        return [nn.Linear(shape[0], layer.units, bias=layer.bias), *_activation(layer.activation)]
    if isinstance(layer, MaxPool2D):
        window = layer.window_on(shape)
        return [nn.MaxPool2d(window.kernel, window.stride, _even(window.padding), ceil_mode=layer.ceil)]
    if isinstance(layer, AvgPool2D):
        window = layer.window_on(shape)
        # Without padding both values mean the same, but with True torch.compile's gradient is wrong where a window
        # extends beyond the edge (pytorch issue 198119).
        counted = any(window.padding)
        padding = _even(window.padding)
        return [nn.AvgPool2d(window.kernel, window.stride, padding, ceil_mode=layer.ceil, count_include_pad=counted)]
    if isinstance(layer, Flatten):
        return [nn.Flatten()]
    if isinstance(layer, ReLU):
        return _activation("relu")
    raise TypeError(f"There is no PyTorch module here for {type(layer).__name__}; choose another network.")


def _activation(name: str | None) -> list[torch.nn.Module]:
    from torch import nn

    modules = {"relu": nn.ReLU(inplace=True), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}
    return [] if name is None else [modules[name]]


def _even(padding: tuple[int, int, int, int]) -> tuple[int, int]:
    """(rows, columns) of padding that is the same on opposite sides, as PyTorch's modules need it."""
    top, bottom, left, right = padding
    if top != bottom or left != right:
        raise ValueError(f"PyTorch's modules pad opposite sides equally; {padding} is not possible.")
    return top, left


def _same(b: Floats) -> Floats:
    """A bias (K,), which has the same layout in both."""
    return b


def _filters(w: Floats) -> Floats:
    """(R, S, C, K) as (K, C, R, S)."""
    return np.ascontiguousarray(w.transpose(3, 2, 0, 1))


def _matrix(w: Floats, flattened: Shape | None) -> Floats:
    """(D, K) as (K, D); after flattening images (H, W, C), D is reordered to PyTorch's (C, H, W)."""
    if flattened is None:
        return np.ascontiguousarray(w.T)
    units = w.shape[1]
    return np.ascontiguousarray(w.reshape(*flattened, units).transpose(3, 2, 0, 1).reshape(units, -1))
