"""Networks: layers as nodes with inputs, order and shapes, and the walks forward and backward through them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from math import prod
from typing import Any, TypeVar

from cnn.arithmetic import Footprint
from cnn.arrays import Array, Shape
from cnn.errors import ShapeError, UsageError
from cnn.layers.blocks import Block
from cnn.layers.layer import Context, Layer, Parameter
from cnn.model.wiring import INPUT, INPUT_NAME, wire

FORWARD, BACKWARD = "forward", "backward"

Observer = Callable[[int, str, Callable[[], None]], None]
"""Called with a node's place, the direction, and a function that it must call to run the node's part of a walk."""

AfterLayer = Callable[[int], None]
"""Called with the place of each node whose gradients are complete, from the last node to the first."""


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
    def footprint(self) -> Footprint:
        """Elements that the layer needs per image."""
        return self.layer.memory(*self.input_shapes)


class Arrays:
    """The arrays of a walk by place: the output of each node, including the network's input, and its gradient."""

    def __init__(self, x: Array) -> None:
        self.outputs: dict[int, Array] = {INPUT: x}
        self.gradients: dict[int, Array] = {}
        self.first_gradients: dict[int, Array] = {}
        """Of an output with several readers: the gradient from the reader that the walk backward meets first."""

    def inputs(self, node: Node) -> list[Array]:
        """What the node reads."""
        return [self.outputs[source] for source in node.inputs]


class Network:
    """Layers in an order where each comes after the layers it reads; the output of the last is the network's output.

    It is a structure with shapes until `build` gives the layers parameters and memory. `order` has the places of a walk
    forward, `backward_order` those of a walk backward: only layers that have parameters, or come after a layer with
    parameters, need a gradient.
    """

    context: Context

    def __init__(self, layers: Iterable[Layer | Block], input_shape: Shape) -> None:
        """Each layer reads the inputs that it names, or else the layer before it.

        Raises UsageError if there are no layers or names do not fit, and ShapeError naming the layer that does not fit.
        """
        self.input_shape = tuple(input_shape)
        nodes: list[Node] = []
        for place, (layer, name, inputs) in enumerate(wire(layers)):
            shapes = tuple(self.input_shape if source == INPUT else nodes[source].output_shape for source in inputs)
            if len(shapes) > 1 and not _takes(layer, len(shapes)):
                raise UsageError(
                    f"{name} takes one input, not {len(shapes)}; join them by an Add or a Concat before it."
                )
            nodes.append(Node(place, name, layer, inputs, shapes, _named(name, layer.shape_after, *shapes)))
        if not nodes:
            raise UsageError("A network needs at least one layer.")
        self.layers = tuple(node.layer for node in nodes)
        self.nodes = tuple(nodes)
        self.output_shape = nodes[-1].output_shape
        self.order = range(len(nodes))
        self.readers: dict[int, list[int]] = {place: [] for place in (INPUT, *self.order)}
        self._turns: dict[tuple[int, int], int] = {}
        """For the k-th input of the node at a place: as which of that input's readers a walk backward meets it."""
        for node in reversed(nodes):
            for k, source in enumerate(node.inputs):
                self.readers[source].append(node.place)
                self._turns[node.place, k] = len(self.readers[source])
        self.observer: Observer | None = None
        self._find_trained()

    def build(self, context: Context) -> None:
        """Gives every layer its name, parameters and memory. Raises UsageError if a layer is already in a network."""
        self.context = context
        self.buffers = context.buffers()
        for node in self.nodes:
            if hasattr(node.layer, "context"):
                raise UsageError(
                    f"{node.layer.name} is already part of a network; "
                    f"make a new {type(node.layer).__name__} for this one."
                )
            node.layer.generated_name = node.layer.name is None
            node.layer.name = node.name
            _named(node.name, partial(node.layer.build, context=context), *node.input_shapes)
        # Only now is it known whether a user's own layer has parameters.
        self._find_trained()

    def _find_trained(self) -> None:
        self.trained = set[int]()
        for node in self.nodes:
            if node.parameter_count or self.trained.intersection(node.inputs):
                self.trained.add(node.place)
        self.backward_order = [place for place in reversed(self.order) if place in self.trained]

    def wants_input_gradient(self, node: Node) -> bool:
        """Whether the walk backward needs the gradient of the node's input, not only those of its parameters."""
        return not self.trained.isdisjoint(node.inputs)

    def input_names(self, node: Node) -> list[str]:
        """The names of what a node reads."""
        return [INPUT_NAME if source == INPUT else self.nodes[source].name for source in node.inputs]

    def config(self) -> list[dict[str, Any]]:
        """The settings of each layer, with the names of its inputs unless it reads the layer before it."""
        tables = []
        for node in self.nodes:
            table = node.layer.config()
            table.pop("inputs", None)
            if node.inputs != (node.place - 1,):
                table["inputs"] = self.input_names(node)
            tables.append(table)
        return tables

    @property
    def parameters(self) -> list[Parameter]:
        """Every trained array, in the order of the layers."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    @property
    def statistics(self) -> dict[str, Array]:
        """Every running statistic by name."""
        return {name: array for layer in self.layers for name, array in layer.statistics.items()}

    def memory(self, batch: int, *, training: bool) -> int:
        """Elements needed for a batch: parameters, activations and temporary space, and in training gradients."""
        parameters = sum(node.parameter_count for node in self.nodes)
        needs = [node.footprint for node in self.nodes]
        per_image = prod(self.input_shape) + sum(each.forward for each in needs) + max(each.scratch for each in needs)
        if not training:
            return parameters + batch * per_image
        per_image += prod(self.output_shape) + sum(each.backward for each in needs)
        per_image += sum(
            each.input_gradient for node, each in zip(self.nodes, needs, strict=True) if self.wants_input_gradient(node)
        )
        return 2 * parameters + batch * per_image

    def forward(self, x: Array, *, training: bool) -> Array:
        """The output (N, *output_shape) for x (N, *input_shape); the next walk overwrites it."""
        self.arrays = Arrays(x)
        for place in self.order:
            self.observed(place, FORWARD, partial(self.visit, place, FORWARD, self.arrays, training=training))
        return self.scores

    @property
    def scores(self) -> Array:
        """The output (N, *output_shape) of the last walk forward."""
        return self.arrays.outputs[self.order[-1]]

    def backward(self, dy: Array, after_layer: AfterLayer | None = None) -> None:
        """Fills every parameter's gradient, given the gradient of the last training forward walk's output."""
        self.arrays.gradients, self.arrays.first_gradients = {self.order[-1]: dy}, {}
        for place in self.backward_order:
            self.observed(place, BACKWARD, partial(self.visit, place, BACKWARD, self.arrays, training=True))
            if after_layer is not None:
                after_layer(place)

    def input_gradient(self, dy: Array) -> Array:
        """The gradient of the network's input, which training does not need; also fills the parameters' gradients."""
        arrays = Arrays(self.arrays.outputs[INPUT])
        arrays.gradients[self.order[-1]] = dy
        for node in reversed(self.nodes):
            self._hand_on(node, node.layer.backward(arrays.gradients[node.place]), arrays, {INPUT, *self.order})
        return arrays.gradients[INPUT]

    def visit(self, place: int, direction: str, arrays: Arrays, *, training: bool) -> None:
        """Runs one node's part of a walk on `arrays`; arrays that are already there are overwritten in place."""
        node = self.nodes[place]
        if direction == FORWARD:
            self._put(arrays.outputs, place, node.layer.forward(*arrays.inputs(node), training=training))
        elif self.wants_input_gradient(node):
            self._hand_on(node, node.layer.backward(arrays.gradients[place]), arrays, self.trained)
        else:
            node.layer.backward_parameters(arrays.gradients[place])

    def _hand_on(self, node: Node, found: Array | tuple[Array, ...], arrays: Arrays, wanted: set[int]) -> None:
        """Gives each input of a node its gradient, or adds it to the gradients from other readers of that input."""
        gradients_found = found if isinstance(found, tuple) else (found,)
        for k, (source, gradient) in enumerate(zip(node.inputs, gradients_found, strict=True)):
            if source not in wanted:
                continue
            number = self._turns[node.place, k]
            if number == 1:
                store = arrays.gradients if len(self.readers[source]) == 1 else arrays.first_gradients
                self._put(store, source, gradient)
                continue
            total = self.buffers.get(f"gradient {source}", gradient.shape)
            before = arrays.first_gradients[source] if number == 2 else total
            self.context.backend.add(before, gradient, None, total)
            arrays.gradients[source] = total

    def _put(self, store: dict[int, Array], place: int, array: Array) -> None:
        there = store.setdefault(place, array)
        if there is not array:
            self.context.backend.copy(array, there)

    def observed(self, place: int, direction: str, run: Callable[[], None]) -> None:
        """Runs a node's part of a walk, through the observer if there is one."""
        if self.observer is None:
            run()
        else:
            self.observer(place, direction, run)

    def first_non_finite(self) -> str | None:
        """Where NaN or infinity first appeared in the last walk forward, or None."""
        finite = self.context.backend.all_finite
        for node in self.nodes:
            for parameter in node.layer.parameters:
                if not finite(parameter.value):
                    return f"the parameter {parameter.name}"
            if not finite(self.arrays.outputs[node.place]):
                return f"the output of {node.name}"
        return None


def _takes(layer: Layer, inputs: int) -> bool:
    """Whether a layer can be given so many inputs."""
    try:
        signature(layer.shape_after).bind(*range(inputs))
    except TypeError:
        return False
    return True


T = TypeVar("T")


def _named(name: str, run: Callable[..., T], *shapes: Shape) -> T:
    """The result of `run` for the shapes; adds the layer's name to a ShapeError."""
    try:
        return run(*shapes)
    except ShapeError as error:
        raise ShapeError(f"{name}: {error}") from error
