"""The networks of the zoo as PyTorch modules with this library's weights and statistics, for `versus.py`.

It imports PyTorch, so it is imported only where that is needed.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from cnn.arrays import Shape
from cnn.layers import (
    Add,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    ReLU,
)
from cnn.layers.conv import connection_mask
from cnn.model.network import Network
from cnn.model.wiring import INPUT

Floats = npt.NDArray[np.float32]
Layout = Callable[[Floats], Floats]
"""Converts an array from this library's layout to PyTorch's."""


class Graph(nn.Module):
    """A network with this library's weights and running statistics by name, in this library's layout."""

    def __init__(self, network: Network, values: Mapping[str, Floats]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_module(node.layer, *node.input_shapes) for node in network.nodes)
        self.inputs = [node.inputs for node in network.nodes]
        with torch.no_grad():
            for name, parameter, layout in self.weights(network):
                _fill(parameter, layout(values[name]))
            for node, module in zip(network.nodes, self.steps, strict=True):
                if isinstance(module[0], nn.BatchNorm2d):
                    _fill(module[0].running_mean, values[f"{node.name}.running_mean"])
                    _fill(module[0].running_var, values[f"{node.name}.running_variance"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = {INPUT: x}
        for place, (module, inputs) in enumerate(zip(self.steps, self.inputs, strict=True)):
            outputs[place] = module(*(outputs[source] for source in inputs))
        return outputs[len(self.inputs) - 1]

    def weights(self, network: Network) -> Iterator[tuple[str, torch.Tensor, Layout]]:
        """Each parameter: its name in this library, PyTorch's array, and the conversion of the layout."""
        flattened: Shape | None = None
        for node, module in zip(network.nodes, self.steps, strict=True):
            layer, names = node.layer, _names(node.layer)
            if isinstance(layer, Flatten):
                (flattened,) = node.input_shapes
            matrix = partial(_matrix, flattened=flattened) if isinstance(layer, Linear) else _filters
            for name, parameter in zip(names, module.parameters(), strict=True):
                yield f"{node.name}.{name}", parameter, matrix if name == "weight" else _same
            if isinstance(layer, Linear):
                flattened = None

    def drop(self, active: bool) -> None:
        """Switches dropout on or off in training."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train(active)


def masks(network: Network, model: Graph) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The weights of each convolution with a connection table, and the table (K, C, 1, 1) of ones and zeros."""
    for node, module in zip(network.nodes, model.steps, strict=True):
        layer = node.layer
        if isinstance(layer, Conv2D) and layer.connections is not None:
            table = connection_mask(layer.connections, node.input_shapes[0][2]).astype(np.float32)
            yield module[0].weight, torch.from_numpy(table.T[:, :, None, None].copy())


class Sum(nn.Module):
    """The sum of several inputs."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        total = inputs[0]
        for x in inputs[1:]:
            total = total + x
        return total


class Joined(nn.Module):
    """The channels of several inputs one after the other."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat(inputs, 1)


class GlobalMean(nn.Module):
    """The mean of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


class _Chain(nn.Sequential):
    """Modules one after the other, the first of which may take several inputs."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        first, *others = self
        x: torch.Tensor = first(*inputs)
        for module in others:
            x = module(x)
        return x


def _module(layer: Layer, shape: Shape, *others: Shape) -> _Chain:
    """The modules that compute the layer on inputs of `shape`. Raises TypeError for an unsupported layer."""
    product = _without_activation(layer, shape)
    activation = getattr(layer, "activation", None)
    modules = {"relu": partial(nn.ReLU, inplace=True), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    return _Chain(product, *([] if activation is None else [modules[activation]()]))


def _without_activation(layer: Layer, shape: Shape) -> nn.Module:
    if isinstance(layer, Conv2D):
        window = layer.convolution_on(shape).window
        return nn.Conv2d(
            *(shape[2], layer.filters, window.kernel, window.stride, _even(window.padding), window.dilation),
            groups=layer.groups,
            bias=layer.bias,
        )
    if isinstance(layer, Linear):
        return nn.Linear(shape[0], layer.units, bias=layer.bias)
    if isinstance(layer, BatchNorm) and layer.scale and layer.shift:
        return nn.BatchNorm2d(shape[2], layer.epsilon, 1 - layer.momentum)
    if isinstance(layer, LocalResponseNorm) and layer.region == "across" and layer.size % 2:
        return nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
    if isinstance(layer, MaxPool2D):
        window = layer.window_on(shape)
        return nn.MaxPool2d(window.kernel, window.stride, _even(window.padding), ceil_mode=layer.ceil)
    if isinstance(layer, AvgPool2D):
        window = layer.window_on(shape)
        # Without padding both values mean the same, but with True torch.compile's gradient is wrong where a window
        # extends beyond the edge (pytorch issue 198119).
        counted = any(window.padding)
        padding = _even(window.padding)
        return nn.AvgPool2d(window.kernel, window.stride, padding, ceil_mode=layer.ceil, count_include_pad=counted)
    if isinstance(layer, ReLU):
        return nn.ReLU(inplace=True)
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.rate)
    plain: dict[type[Layer], type[nn.Module]] = {
        Add: Sum,
        Concat: Joined,
        Flatten: nn.Flatten,
        GlobalAvgPool2D: GlobalMean,
    }
    if type(layer) in plain:
        return plain[type(layer)]()
    raise TypeError(f"There is no PyTorch module here for {type(layer).__name__}; choose another network.")


def _names(layer: Layer) -> list[str]:
    """The names of a layer's parameters, in the order of its module's."""
    if isinstance(layer, Conv2D | Linear):
        return ["weight", "bias"][: 1 + layer.bias]
    return ["gamma", "beta"] if isinstance(layer, BatchNorm) else []


def _fill(tensor: Any, value: Floats) -> None:
    # copy_ would broadcast a smaller array.
    if tensor.shape != value.shape:
        raise ValueError(f"PyTorch has {tuple(tensor.shape)} where this library has {value.shape}.")
    tensor.copy_(torch.from_numpy(value))


def _even(padding: tuple[int, int, int, int]) -> tuple[int, int]:
    """(rows, columns) of padding that is the same on opposite sides, as PyTorch's modules need it."""
    top, bottom, left, right = padding
    if top != bottom or left != right:
        raise ValueError(f"PyTorch's modules pad opposite sides equally; {padding} is not possible.")
    return top, left


def _same(b: Floats) -> Floats:
    """A vector, which has the same layout in both."""
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
