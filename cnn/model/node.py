"""A node of a network: a layer with its name, its inputs and its shapes."""

from dataclasses import dataclass
from math import prod

from cnn.arrays import Shape
from cnn.layers.layer import UNKNOWN, Layer


@dataclass(frozen=True, eq=False)
class Node:
    """A layer in its place: its name in the network, the places of its input nodes, and shapes without N."""

    place: int
    name: str
    layer: Layer
    inputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image in the forward pass; 1 MAC is 2 FLOP."""
        return self.layer.work(1, *self.input_shapes, training=False).macs

    @property
    def parameter_count(self) -> int:
        """Trained numbers of the layer."""
        return self.layer.parameter_count(*self.input_shapes)

    @property
    def activations(self) -> int:
        """Elements per image of the output, unless it lies in the input's memory, and of what else is kept of it."""
        lives = self.layer.known_lives
        made = prod(self.output_shape) if lives is UNKNOWN or lives.makes_output else 0
        return made + self.layer.memory(*self.input_shapes, training=True).kept
