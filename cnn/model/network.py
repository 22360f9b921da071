"""Networks: layers as nodes with inputs, order and shapes, and the walks forward and backward through them."""

from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from inspect import signature
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Shape
from cnn.errors import ShapeError, UsageError
from cnn.layers.blocks import Block
from cnn.layers.layer import UNKNOWN, Context, Layer, Parameter, SlotMemory, Slots
from cnn.layers.norm import BatchNorm
from cnn.layers.weighted import Weighted
from cnn.model.liveness import Plan
from cnn.model.node import Node
from cnn.model.wiring import INPUT, INPUT_NAME, wire
from cnn.precision import SHORT

FORWARD, BACKWARD = "forward", "backward"

LEAST_STORED = 1 << 15
"""Numbers that the outputs of an image have in networks that are stored in bfloat16; fewer stay in the caches."""

MOST_LAYERS = 1000
MOST_NUMBERS = 1 << 40
"""Of the output of a layer for one image, and of its parameters; they would take 4 TB."""

Observer = Callable[[int, str, Callable[[], None]], None]
"""Called with a node's place, the direction, and a function that it must call to run the node's part of a walk."""

AfterLayer = Callable[[int], None]
"""Called with the place of each node whose gradients are complete, from the last node to the first."""


class _Memory(NamedTuple):
    """The slots of a walk, those of each layer, and those of summed gradients by place."""

    memory: SlotMemory
    layers: list[Slots]
    sums: dict[int, int]


class _Fold(NamedTuple):
    """A layer and the BatchNorm that goes into its weights at inference of at least so many images."""

    layer: Weighted
    norm: BatchNorm
    least: int


class Arrays:
    """The arrays of a walk by place: the output of each node, including the network's input, and its gradient.

    One that is needed no more may share its memory with a later one, and then holds that one's numbers.
    """

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
    forward, `backward_order` those of a walk backward: only layers that have parameters and are not frozen, or come
    after such a layer, need a gradient.
    """

    context: Context

    def __init__(self, layers: Iterable[Layer | Block], input_shape: Shape) -> None:
        """Each layer reads the inputs that it names, or else the layer before it.

        Raises UsageError if there are no layers or names do not fit, and ShapeError naming the layer that does not fit.
        """
        if not isinstance(layers, Iterable):
            raise UsageError("A network is made of a list of layers, such as [Flatten(), Linear(9)], and nothing else.")
        self.input_shape = tuple(input_shape)
        nodes: list[Node] = []
        wired = wire(layers)
        if not wired:
            raise UsageError("A network needs at least one layer.")
        if len(wired) > MOST_LAYERS:
            raise UsageError(f"A network has at most {MOST_LAYERS:,} layers, not {len(wired):,}.")
        for place, (layer, name, inputs) in enumerate(wired):
            shapes = tuple(self.input_shape if source == INPUT else nodes[source].output_shape for source in inputs)
            if len(shapes) > 1 and not _takes(layer, len(shapes)):
                raise UsageError(
                    f"{name} takes one input, not {len(shapes)}; join them by an Add or a Concat before it."
                )
            node = Node(place, name, layer, inputs, shapes, _named(name, layer.shape_after, *shapes))
            _check_size(node)
            nodes.append(node)
        self.layers = tuple(node.layer for node in nodes)
        self.nodes = tuple(nodes)
        self.output_shape = nodes[-1].output_shape
        self.order = range(len(nodes))
        self.readers: dict[int, list[int]] = {place: [] for place in (INPUT, *self.order)}
        """Of each output, the places that read it, from the last to the first; one that reads it twice stands twice."""
        self._turns: dict[tuple[int, int], int] = {}
        """For the k-th input of the node at a place: as which of that input's readers a walk backward meets it."""
        for node in reversed(nodes):
            for k, source in enumerate(node.inputs):
                self.readers[source].append(node.place)
                self._turns[node.place, k] = len(self.readers[source])
        self._folds = self._find_folds()
        self.storable = self._find_storable()
        """The places whose outputs, and gradients of these, are bfloat16 in memory where the backend stores that."""
        self.stored: frozenset[int] = frozenset()
        """Those that are."""
        self.observer: Observer | None = None
        self.random_state: Any = None
        """The state of the random generator before the last training pass, if a layer may draw from it."""
        self._find_trained()

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is the same structure with layers of its own, not built.
        return _copied, (self.layers, [self.input_names(node) for node in self.nodes], self.input_shape)

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
        # As large as they will ever be, so that they never move.
        for layer, norm, _ in self._folds.values():
            norm.reserve_folded(layer.w.value.shape)
        # Only now is it known whether a user's own layer has parameters.
        self.stored = self.storable if context.backend.stores_bfloat16 else frozenset()
        self._find_trained()
        self._slots = {training: self._planned(training=training) for training in (False, True)}

    def _find_folds(self) -> dict[int, _Fold]:
        """The convolutions and products, by place, that have no activation and are read by one BatchNorm alone.

        Their weights are scaled where they are no more than the outputs.
        """
        found = {}
        for node in self.nodes[1:]:
            norm, source = node.layer, node.inputs[0]
            before = self.nodes[source].layer
            # A subclass with a pass of its own may do anything.
            if not isinstance(norm, BatchNorm) or type(norm).forward is not BatchNorm.forward:
                continue
            if not isinstance(before, Weighted) or type(before).forward is not Weighted.forward:
                continue
            if source != INPUT and self.readers[source] == [node.place] and before.activation is None:
                weights, outputs = self.nodes[source].parameter_count, prod(self.nodes[source].output_shape)
                found[source] = _Fold(before, norm, -(-weights // outputs))
        return found

    def _find_storable(self) -> frozenset[int]:
        """Outputs that the layers on both sides can store, unless a layer with one type for all joins them to others.

        The network's input and output stay as they are, and so do small networks.
        """
        if sum(prod(node.output_shape) for node in self.nodes) < LEAST_STORED:
            return frozenset()
        refused, last = {INPUT, self.order[-1]}, self.order[-1]
        joined: list[set[int]] = []
        for node in self.nodes:
            stores = node.layer.known_stores
            refused |= set() if stores.inputs else set(node.inputs)
            refused |= set() if stores.output else {node.place}
            if not stores.apart:
                joined.append({node.place, *node.inputs})
        while any(refused & each and not each <= refused for each in joined):
            refused.update(*(each for each in joined if refused & each))
        return frozenset(range(last)) - refused

    def folds(self, place: int, batch: int) -> bool:
        """Whether, at inference, a BatchNorm scales the weights of this node."""
        return place in self._folds and batch >= self._folds[place].least

    def folded(self, place: int, batch: int) -> bool:
        """Whether, at inference, this node is a BatchNorm that has gone into the weights of the node before it."""
        node = self.nodes[place]
        return isinstance(node.layer, BatchNorm) and self.folds(node.inputs[0], batch)

    def _find_trained(self) -> None:
        self._plans = dict[bool, Plan]()
        self.trained = set[int]()
        for node in self.nodes:
            if (node.parameter_count and not node.layer.frozen) or self.trained.intersection(node.inputs):
                self.trained.add(node.place)
        self.backward_order = [place for place in reversed(self.order) if place in self.trained]

    def plan(self, *, training: bool) -> Plan:
        """Which arrays of a pass share memory."""
        if training not in self._plans:
            self._plans[training] = Plan(
                *(self.nodes, self.readers, self._turns, self.trained, self.stored), training=training
            )
        return self._plans[training]

    def _planned(self, *, training: bool) -> "_Memory":
        plan = self.plan(training=training)
        memory = SlotMemory(self.context.buffers(), plan.sizes)
        layers = [
            Slots(
                *(memory, plan.output(node.place), plan.gradients(node.place)),
                *(self._type(node.place), tuple(map(self._type, node.inputs))),
            )
            for node in self.nodes
        ]
        return _Memory(memory, layers, plan.sums)

    def _type(self, place: int) -> npt.DTypeLike | None:
        """The type of an output and its gradient in memory, None for that of the network's numbers."""
        return SHORT if place in self.stored else None

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
        """Elements needed for a batch: parameters with gradients, input, activations and temporary space.

        Activations that are not needed at the same time share memory. The same space serves all layers.
        """
        per_image = prod(self.input_shape) + sum(self.plan(training=training).sizes)
        scratch = dict[str, int]()
        for node in self.nodes:
            footprint = node.layer.memory(*node.input_shapes, training=training)
            per_image += footprint.kept
            if node.layer.known_lives is UNKNOWN:  # it has buffers of its own
                per_image += prod(node.output_shape) + (sum(map(prod, node.input_shapes)) if training else 0)
            for name, size in footprint.scratch.items():
                scratch[name] = max(size, scratch.get(name, 0))
        per_image += sum(scratch.values()) + prod(self.output_shape)  # of probabilities, or the gradient of scores
        folded = max((self.nodes[place].parameter_count for place in self._folds), default=0)
        return 2 * sum(node.parameter_count for node in self.nodes) + folded + batch * per_image

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
        """Fills every parameter's gradient, given the gradient of the last training forward walk's output.

        Once per walk forward: what that kept is overwritten.
        """
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
        node.layer.slots = self._slots[training].layers[place]
        if direction == FORWARD:
            self._put(arrays.outputs, place, self._output(node, arrays.inputs(node), training=training))
        elif self.wants_input_gradient(node):
            self._hand_on(node, node.layer.backward(arrays.gradients[place]), arrays, self.trained)
        else:
            node.layer.backward_parameters(arrays.gradients[place])

    def _output(self, node: Node, inputs: list[Array], *, training: bool) -> Array:
        if not training:
            if self.folds(node.place, len(inputs[0])):
                fold = self._folds[node.place]
                return fold.layer.forward_normalised(inputs[0], fold.norm)
            if self.folded(node.place, len(inputs[0])):
                return inputs[0]
        return node.layer.forward(*inputs, training=training)

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
            total = self._sum_buffer(source, gradient)
            before = arrays.first_gradients[source] if number == 2 else total
            self.context.backend.add(before, gradient, None, total)
            arrays.gradients[source] = total

    def _sum_buffer(self, source: int, gradient: Array) -> Array:
        """Where the gradients of an output that several nodes read are added up, each as large as the given one."""
        memory, _, sums = self._slots[True]
        if source in sums:
            return memory.get(sums[source], len(gradient), gradient.shape[1:], self._type(source))
        return self.buffers.get(f"gradient {source}", gradient.shape)  # of the network's input

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
        """Where NaN or infinity first appeared in the last walk forward in training, or None.

        The walk is repeated, because arrays that are needed no more have been overwritten: with the same random
        numbers, and, if several processes train together, by all of them.
        """
        finite = self.context.backend.all_finite
        if self.random_state is not None:
            self.context.rng.bit_generator.state = self.random_state
        arrays, first = Arrays(self.arrays.outputs[INPUT]), None
        for node in self.nodes:
            with np.errstate(all="ignore"):
                self.visit(node.place, FORWARD, arrays, training=True)
            broken = [each.name for each in node.layer.parameters if not finite(each.value)]
            if first is None and broken:
                first = f"the parameter {broken[0]}"
            elif first is None and not finite(arrays.outputs[node.place]):
                first = f"the output of {node.name}"
        return first


def _copied(layers: Iterable[Layer], inputs: Iterable[list[str]], input_shape: Shape) -> Network:
    """A network of copies of the layers, each with its inputs by name."""
    copies = [copy(layer) for layer in layers]
    for layer, names in zip(copies, inputs, strict=True):
        layer.inputs = names
    return Network(copies, input_shape)


def _takes(layer: Layer, inputs: int) -> bool:
    """Whether a layer can be given so many inputs."""
    try:
        signature(layer.shape_after).bind(*range(inputs))
    except TypeError:
        return False
    return True


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
