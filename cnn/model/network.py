"""Networks: layers as nodes with inputs, order and shapes, and the walks forward and backward through them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TypeVar

from cnn.arithmetic import Footprint
from cnn.arrays import Array, Shape
from cnn.errors import ShapeError, UsageError
from cnn.layers.layer import Context, Layer, Parameter

FORWARD, BACKWARD = "forward", "backward"

INPUT = -1
"""The place that stands for the network's input among the inputs of a node."""

MOST_LAYERS = 1000
MOST_NUMBERS = 1 << 40
"""Of the output of a layer for one image, and of its parameters; they would take 4 TB."""

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

    def __init__(
        self, layers: Iterable[Layer], input_shape: Shape, inputs: Sequence[tuple[int, ...]] | None = None
    ) -> None:
        """`inputs` are the places that each layer reads; without them, each layer reads the one before it.

        Raises UsageError if there are no layers or a layer reads anything but layers before it, and ShapeError naming
        the layer that does not fit.
        """
        self.layers = tuple(layers)
        self.input_shape = tuple(input_shape)
        if not self.layers:
            raise UsageError("A network needs at least one layer.")
        if len(self.layers) > MOST_LAYERS:
            raise UsageError(f"A network has at most {MOST_LAYERS:,} layers, not {len(self.layers):,}.")
        sources = [(place - 1,) for place in range(len(self.layers))] if inputs is None else inputs
        nodes: list[Node] = []
        for name, layer, read in zip(_names(self.layers), self.layers, sources, strict=True):
            place = len(nodes)
            if not read or not all(INPUT <= source < place for source in read):
                raise UsageError(
                    f"{name} reads the layers at {read}; give it only layers before it, {INPUT} to {place - 1}."
                )
            shapes = tuple(self.input_shape if source == INPUT else nodes[source].output_shape for source in read)
            node = Node(place, name, layer, tuple(read), shapes, _named(name, layer.shape_after, *shapes))
            _check_size(node)
            nodes.append(node)
        self.nodes = tuple(nodes)
        self.output_shape = nodes[-1].output_shape
        self.order = range(len(nodes))
        self.readers = {place: [each.place for each in nodes if place in each.inputs] for place in (INPUT, *self.order)}
        self.observer: Observer | None = None
        self._find_trained()

    def build(self, context: Context) -> None:
        """Gives every layer its name, parameters and memory. Raises UsageError if a layer is already in a network."""
        self.context = context
        self.buffers = context.buffers()
        for node in self.nodes:
            if node.layer.name:
                raise UsageError(
                    f"{node.layer.name} is already part of a network; "
                    f"make a new {type(node.layer).__name__} for this one."
                )
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
        self.arrays.gradients = {self.order[-1]: dy}
        for place in self.backward_order:
            self.observed(place, BACKWARD, partial(self.visit, place, BACKWARD, self.arrays, training=True))
            if after_layer is not None:
                after_layer(place)

    def input_gradient(self, dy: Array) -> Array:
        """The gradient of the network's input, which training does not need; also fills the parameters' gradients."""
        gradients = {self.order[-1]: dy}
        for node in reversed(self.nodes):
            self._hand_on(node, node.layer.backward(gradients[node.place]), gradients, {INPUT, *self.order})
        return gradients[INPUT]

    def visit(self, place: int, direction: str, arrays: Arrays, *, training: bool) -> None:
        """Runs one node's part of a walk on `arrays`; arrays that are already there are overwritten in place."""
        node = self.nodes[place]
        if direction == FORWARD:
            self._put(arrays.outputs, place, node.layer.forward(*arrays.inputs(node), training=training))
        elif self.wants_input_gradient(node):
            self._hand_on(node, node.layer.backward(arrays.gradients[place]), arrays.gradients, self.trained)
        else:
            node.layer.backward_parameters(arrays.gradients[place])

    def _hand_on(
        self, node: Node, found: Array | tuple[Array, ...], gradients: dict[int, Array], wanted: set[int]
    ) -> None:
        """Gives each input of a node its gradient, or adds it to the gradients from other readers of that input."""
        for source, gradient in zip(node.inputs, found if isinstance(found, tuple) else (found,), strict=True):
            if source not in wanted:
                continue
            readers = self.readers[source]
            if len(readers) < 2:
                self._put(gradients, source, gradient)
            else:
                total = gradients[source] = self.buffers.get(f"gradient {source}", gradient.shape)
                if node.place == readers[-1]:
                    self.context.backend.copy(gradient, total)
                else:
                    self.context.backend.add(gradient, total)

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


def _names(layers: Iterable[Layer]) -> list[str]:
    """The name of each layer of a network: its class in short and its number within that class."""
    names, counts = [], dict[str, int]()
    for layer in layers:
        kind = type(layer).__name__.lower().removesuffix("2d")
        counts[kind] = counts.get(kind, 0) + 1
        names.append(f"{kind}{counts[kind]}")
    return names


def _check_size(node: Node) -> None:
    """Raises ShapeError for a layer that no machine could hold, before any memory is taken."""
    for what, count in (("parameters", node.parameter_count), ("numbers in its output", prod(node.output_shape))):
        if count > MOST_NUMBERS:
            raise ShapeError(
                f"{node.name} would have more than {MOST_NUMBERS:,} {what}; use fewer or smaller filters or units."
            )


T = TypeVar("T")


def _named(name: str, run: Callable[..., T], *shapes: Shape) -> T:
    """The result of `run` for the shapes; adds the layer's name to a ShapeError."""
    try:
        return run(*shapes)
    except ShapeError as error:
        raise ShapeError(f"{name}: {error}") from error
