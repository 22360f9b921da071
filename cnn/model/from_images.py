"""Weights that are made of the training images: those of a first convolution whose initialiser asks for them."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from cnn.errors import UsageError
from cnn.layers import Conv2D
from cnn.layers.weighted import Weighted
from cnn.model.node import Node
from cnn.model.wiring import INPUT

LOADED = 64
"""Images that are looked at at a time."""

Load = Callable[[int, int], npt.NDArray[np.float64]]
"""The images from one number up to another (N, H, W, C), as the network takes them."""


def awaiting(nodes: Iterable[Node]) -> list[tuple[Node, Conv2D]]:
    """The convolutions whose weights are to be made of images.

    Raises UsageError for such an initialiser in any other layer, or in a convolution that does not read the network's
    input or has groups or connections.
    """
    found = []
    for node in nodes:
        layer = node.layer
        if not isinstance(layer, Weighted) or not layer.weights.from_images:
            continue
        whole = isinstance(layer, Conv2D) and layer.groups == 1 and layer.connections is None
        if not whole or node.inputs != (INPUT,):
            kind = type(layer.weights).__name__
            raise UsageError(
                f"{node.name} cannot have the weights {kind}: they are for a Conv2D without groups or connections that "
                "reads the network's input; take another initialiser for it."
            )
        assert isinstance(layer, Conv2D)
        found.append((node, layer))
    return found


def fill(layers: Iterable[tuple[Node, Conv2D]], load: Load, count: int) -> None:
    """Gives convolutions that `awaiting` found the weights that their initialisers make of `count` training images."""
    for _, layer in layers:
        found = layer.weights.draw_from(
            moments(layer, load, min(count, layer.weights.most_images)), layer.w.value.shape
        )
        layer.backend.copy(found.astype(layer.context.dtype), layer.w.value)


def moments(layer: Conv2D, load: Load, count: int) -> npt.NDArray[np.float64]:
    """The mean of v v' over all patches v (R*S*C,) of the first images that lie within the image, (R*S*C, R*S*C).

    No BLAS adds them up, so that each process of a run gets the same bytes, however many threads it has.
    """
    window = layer.convolution.window
    (rows, columns), (down, across) = window.kernel, window.dilation
    depth = rows * columns * layer.input_shape[-1]
    total, patches = np.zeros((depth, depth)), 0
    for start in range(0, count, LOADED):
        images = load(start, min(start + LOADED, count))
        height = images.shape[1] - (rows - 1) * down
        width = images.shape[2] - (columns - 1) * across
        taps = [(r * down, s * across) for r in range(rows) for s in range(columns)]
        shifted = [images[:, r : r + height, s : s + width] for r, s in taps]
        # (R*S*C, patches): each row is read in the order of its memory.
        each = np.concatenate([np.moveaxis(part, -1, 0).reshape(part.shape[-1], -1) for part in shifted])
        total += np.einsum("pn,qn->pq", each, each)
        patches += each.shape[1]
    return total / patches
