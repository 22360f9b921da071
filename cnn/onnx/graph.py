"""What an operator is given: values, constants, and the graph that it is in."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cnn.onnx.builder import Builder, Value
from cnn.onnx.files import Numbers, Unfit
from cnn.onnx.functions import GRID, same
from cnn.onnx.nodes import Node

Given = Value | Numbers | None


class Graph(Protocol):
    """What an operator needs to know of the graph that it is in."""

    builder: Builder
    batch: int

    def readers(self, name: str) -> int:
        """How many nodes read a value, the output of the network counted."""
        ...

    def title(self, node: Node) -> str:
        """What a layer made of the node may be called."""
        ...


Operator = Callable[[Graph, Node, Sequence[Given]], Value]


def value_of(inputs: Sequence[Given], place: int = 0) -> Value:
    found = inputs[place] if len(inputs) > place else None
    if not isinstance(found, Value):
        raise Unfit("it does not read the images where a layer does")
    if found.scores is not None:
        raise Unfit("it comes after a Softmax, which only ends a network here")
    return found


def constant_of(inputs: Sequence[Given], place: int, what: str) -> Numbers:
    found = inputs[place] if len(inputs) > place else None
    if not isinstance(found, np.ndarray):
        raise Unfit(f"{what} is not in the file but computed from the images or not given")
    return found


def optional_of(inputs: Sequence[Given], place: int) -> Numbers | None:
    found = inputs[place] if len(inputs) > place else None
    if isinstance(found, Value):
        raise Unfit(f"its input {place} is computed from the images, and must be a constant")
    return found


def made(graph: Graph, node: Node, axes: str, place: int, order: Numbers | None = None) -> Value:
    name = node.outputs[0]
    return Value(name, axes, graph.builder.shape(place), graph.readers(name), place, order)


def view(graph: Graph, node: Node, x: Value, axes: str) -> Value:
    """The same numbers with other axes."""
    place, name = graph.builder.place(x), node.outputs[0]
    exclusive = x.exclusive and x.readers == 1
    return Value(name, axes, x.shape, graph.readers(name), place, x.order, exclusive=exclusive)


def shape_of(graph: Graph, x: Value) -> list[int]:
    """The shape of a value in the graph."""
    sizes = {"N": graph.batch, "1": 1, "C": x.shape[-1]}
    if len(x.shape) == 3:
        sizes |= {"H": x.shape[0], "W": x.shape[1]}
    return [sizes[axis] for axis in x.axes]


def images_of(x: Value) -> Value:
    if x.axes != "NCHW" or len(x.shape) != 3:
        raise Unfit(f"it takes images N C H W, but reads {' '.join(x.axes)}")
    return x


def vector_of(x: Value) -> Value:
    if x.axes != "NC":
        raise Unfit(f"it takes vectors, but reads {' '.join(x.axes)}")
    return x


def rows(x: Value, weight: Numbers) -> Numbers:
    """A weight (D, K) with its rows in our order."""
    if weight.shape[0] != x.channels:
        raise Unfit(f"its weight has {weight.shape[0]} rows for vectors of {x.channels}")
    if x.order is None:
        return weight
    found = np.empty_like(weight)
    found[x.order] = weight
    return found


def squared(x: Value) -> Value | None:
    """What the value is the square of, None if it is no square."""
    if x.place is not None:
        return None
    return next((base for base, values in x.ancestors if same(values, GRID * GRID)), None)
