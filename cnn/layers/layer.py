"""The base of all layers: settings, parameters, and a forward and a backward pass on one backend."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf, prod
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from cnn import plugins
from cnn.arithmetic import Footprint, Work, elementwise
from cnn.arrays import Array, Buffers, Shape
from cnn.backend import Backend
from cnn.config import Configurable
from cnn.errors import ShapeError, UsageError
from cnn.initializers import Initializer
from cnn.ops.elementwise import ACTIVATIONS, FUSED
from cnn.precision import SHORT
from cnn.shard import Shard

LINE = 16
"""float32 elements per cache line."""


@dataclass
class Context:
    """What a layer is built with: one backend, one number type, one random generator, shared temporary space.

    `shard` says which part of a batch the layers are given; `on_move` is called when a buffer moves to other memory.
    """

    backend: Backend
    dtype: npt.DTypeLike
    rng: np.random.Generator
    shard: Shard = field(default_factory=Shard)
    on_move: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.scratch = self.buffers()

    def buffers(self) -> Buffers:
        """A new set of buffers."""
        return Buffers(self.backend, self.dtype, self.on_move)


@dataclass
class Parameter:
    """A trained array with its gradient, and the factors on its learning rate and weight decay.

    Once a model is built, both arrays are written to but never replaced: recorded passes hold their addresses.
    """

    name: str
    value: Array
    gradient: Array
    lr_multiplier: float = 1.0
    decay_multiplier: float = 1.0
    epochs: float = inf
    """For how many epochs it is trained."""


@dataclass
class Group(Parameter):
    """A long parameter made of others; `parts` pairs each of them with the element at which it starts."""

    parts: Sequence[tuple[Parameter, int]] = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Copied one by one, the parts no longer share the memory of the whole.
        for part, start in self.parts:
            place, shape = slice(start, start + int(part.value.size)), part.value.shape
            part.value, part.gradient = self.value[place].reshape(shape), self.gradient[place].reshape(shape)


def packed(backend: Backend, parameters: Iterable[Parameter]) -> list[Group]:
    """Moves parameters with equal multipliers next to each other; returns one long parameter per pair of multipliers.

    An optimizer that is given the long ones updates all of them in fewer calls. Each part starts on a cache line.
    """
    groups: dict[tuple[float, float], list[Parameter]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.lr_multiplier, parameter.decay_multiplier), []).append(parameter)
    return [_joined(backend, multipliers, members) for multipliers, members in groups.items()]


def _joined(backend: Backend, multipliers: tuple[float, float], members: list[Parameter]) -> Group:
    starts = [0, *accumulate(-(-int(member.value.size) // LINE) * LINE for member in members)]
    value, gradient = (backend.zeros((starts[-1],), members[0].value.dtype) for _ in range(2))
    for member, start in zip(members, starts, strict=False):
        place, shape = slice(start, start + int(member.value.size)), member.value.shape
        backend.copy(backend.to_numpy(member.value), value[place].reshape(shape))
        member.value, member.gradient = value[place].reshape(shape), gradient[place].reshape(shape)
    name = f"x{multipliers[0]:g}, x{multipliers[1]:g}"
    return Group(name, value, gradient, *multipliers, parts=list(zip(members, starts, strict=False)))


class Lives(NamedTuple):
    """What a layer does with memory, so that a network can let arrays share it.

    `keeps_*`: whether the backward pass reads the input or the output of the forward pass. `shares_*`: whether the
    output may be the input's own memory, or the gradient of an input that of dy. `makes_output`: whether the output is
    written to `output_buffer`; `makes_gradients`: how many `input_gradient_buffer`s are written, None for one per
    input. `in_place`: whether the output buffer may be the first input's memory.
    """

    keeps_input: bool = False
    keeps_output: bool = False
    shares_output: bool = False
    shares_gradient: bool = False
    makes_output: bool = True
    makes_gradients: int | None = 1
    in_place: bool = False


class Stores(NamedTuple):
    """Which arrays of a layer may be bfloat16 in memory where the backend `stores_bfloat16`, each with its gradient.

    All of them have the same type, unless inputs and output may lie `apart`.
    """

    inputs: bool = False
    output: bool = False
    apart: bool = False


UNKNOWN = Lives(True, True, True, True, makes_output=False, makes_gradients=0)
"""A layer that says nothing may keep everything and share anything, and writes to buffers of its own."""


class SlotMemory:
    """The memory of a network's slots, each as large as the largest array that it ever holds."""

    def __init__(self, buffers: Buffers, sizes: Sequence[int]) -> None:
        """`sizes` are elements per image."""
        self._buffers, self._sizes = buffers, sizes
        self._names = [f"slot {number}" for number in range(len(sizes))]

    def get(self, slot: int, batch: int, shape: Shape, dtype: npt.DTypeLike | None = None) -> Array:
        """An array (batch, *shape) in a slot; `dtype` defaults to that of the buffers."""
        name = self._names[slot]
        self._buffers.get(name, (batch * self._sizes[slot],))
        if dtype is None:
            return self._buffers.get(name, (batch, *shape))
        return self._buffers.beginning(name, (batch, *shape), dtype)


class Slots(NamedTuple):
    """Where a layer writes its output and the gradients of its inputs: slots, or None for buffers of its own.

    And in which type each of them is stored, None for that of the network's numbers.
    """

    memory: SlotMemory
    output: int | None
    gradients: tuple[int | None, ...]
    output_type: npt.DTypeLike | None
    gradient_types: tuple[npt.DTypeLike | None, ...]


@dataclass(eq=False, kw_only=True)
class Layer(Configurable):
    """One step of a network. Shapes are those of a single image, without N; arrays have N.

    A concrete layer is a dataclass of its settings. `build` fixes these and its input shapes and makes its parameters;
    `forward` keeps what `backward` needs; both return buffers that the next call overwrites.

    Every layer may have a name, and inputs: the names of earlier layers, or "input" for the network's input. Without
    inputs it reads the layer before it, without a name it gets one of its class and a number, such as "conv2". A layer
    of several inputs takes several shapes and arrays, and returns a tuple of gradients.

    A frozen layer stays as it is in training: neither its parameters nor its running statistics change.

    A copy of a layer has its settings only, so that another network can build it.
    """

    _besides: ClassVar[str] = ", or a layer of your own (--import MODULE; `cnn reference` says what they are)"

    name: str | None = None
    """The name by which other layers read it; generated if none is given."""
    inputs: str | list[str] | None = field(default=None, repr=False)
    """The names of earlier layers that it reads, or "input"; by default the layer before it."""
    frozen: bool = field(default=False, repr=False)
    """Whether training leaves its parameters as they are."""

    generated_name = False
    """Whether `name` was not given but made by a network."""

    @classmethod
    def from_config(cls, table: Any) -> Self:
        """As of every configuration; a layer that is registered under the entry-point group `cnn.layers` is imported.

        Raises CnnError if it cannot be.
        """
        name = table.get("type") if isinstance(table, dict) else table
        if isinstance(name, str) and name not in cls._members and name in plugins.names(plugins.LAYERS):
            plugins.load(plugins.LAYERS, name)
        return super().from_config(table)

    def config(self) -> dict[str, Any]:
        """As every configuration, without a generated name."""
        table = super().config()
        if self.generated_name:
            del table["name"]
        return table

    slots: Slots | None = field(default=None, init=False, repr=False)
    """Given by the network; without, the layer has buffers of its own."""

    @property
    def lives(self) -> Lives:
        """What the layer does with memory. It does not hold for a subclass with passes of its own."""
        return UNKNOWN

    @property
    def known_lives(self) -> Lives:
        """`lives`, unless a subclass has passes of its own and does not say what they do with memory."""
        return self.lives if self._says("lives") else UNKNOWN

    @property
    def stores(self) -> Stores:
        """Which of its arrays may be bfloat16 in memory. It does not hold for a subclass with passes of its own."""
        return Stores()

    @property
    def known_stores(self) -> Stores:
        """`stores`, unless a subclass has passes of its own and does not say what they can read and write."""
        return self.stores if self._says("stores") else Stores()

    def _says(self, name: str) -> bool:
        """Whether the property `name` comes from the class that the passes come from, or from a subclass of it."""
        for kind in type(self).__mro__:
            if name in vars(kind):
                return True
            if {"forward", "backward", "backward_parameters"} & vars(kind).keys():
                break
        return False

    @property
    def repeatable(self) -> bool:
        """Whether all passes over inputs of one shape only make the same backend calls on the same arrays.

        If so, the calls may be recorded and repeated without calling the layer's methods.
        """
        return False

    def build(self, *input_shapes: Shape, context: Context) -> None:
        """Prepares the layer for inputs (N, *input_shape). Raises ShapeError if they do not fit."""
        self._settings = [key for key in vars(self) if key != "generated_name"]
        self.input_shapes = input_shapes
        self.input_shape = input_shapes[0]
        self.output_shape = self.shape_after(*input_shapes)
        self.context = context
        self.backend = context.backend
        self.buffers = context.buffers()
        self.parameters: list[Parameter] = []
        self.statistics: dict[str, Array] = {}
        self.create()

    def __getstate__(self) -> dict[str, Any]:
        # A copy is a layer with the same settings that is in no network yet; a model copies its own arrays.
        kept = {name: getattr(self, name) for name in getattr(self, "_settings", vars(self))}
        return kept | {"name": None if self.generated_name else self.name}

    @abstractmethod
    def shape_after(self, input_shape: Shape) -> Shape:
        """The shape of the output for one input of `input_shape`. Raises ShapeError if the input does not fit."""

    @abstractmethod
    def forward(self, x: Array, *, training: bool) -> Array:
        """The output (N, *output_shape) for x (N, *input_shape)."""

    @abstractmethod
    def backward(self, dy: Array) -> Array | tuple[Array, ...]:
        """The gradient of x, given the gradient dy of the last output; also fills the gradients of the parameters."""

    def backward_parameters(self, dy: Array) -> None:
        """Fills only the gradients of the parameters: no more is needed of the first layer that has parameters.

        A layer that can skip the gradient of x overrides this to save time.
        """
        self.backward(dy)

    @property
    def kind(self) -> str:
        """The name that times of such layers are kept under: the class and any setting that changes the computation."""
        return type(self).__name__

    def parameter_count(self, input_shape: Shape) -> int:
        """Trained numbers for inputs of `input_shape`. Unless overridden, it is known only once the layer is built."""
        return sum(int(each.value.size) for each in getattr(self, "parameters", ()))

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        """The operations on a batch; unless overridden, one elementwise pass forward and one backward."""
        x, y = batch * prod(input_shape), batch * prod(self.shape_after(input_shape))
        return Work([elementwise(y, x + y)], data_gradient=[elementwise(2 * y, 2 * y + x)])

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        """The memory per image besides the output and the gradient of the input; unless overridden, none."""
        return Footprint()

    def create(self) -> None:
        """Makes parameters and statistics; by default there are none."""

    def add_parameter(
        self, name: str, shape: Shape, initializer: Initializer, multipliers: tuple[float, float], groups: int = 1
    ) -> Parameter:
        """A new parameter with values drawn by `initializer`; multipliers are for (learning rate, weight decay).

        `groups` parts of the last axis are drawn one by one, each with the fans of its own shape.
        """
        value = self.backend.asarray(initializer.draw_groups(shape, groups, self.context.rng), self.context.dtype)
        gradient = self.backend.zeros(shape, self.context.dtype)
        parameter = Parameter(f"{self.name}.{name}", value, gradient, *multipliers)
        self.parameters.append(parameter)
        return parameter

    def output_buffer(self, batch: int) -> Array:
        """An array (batch, *output_shape) in the same memory at every call."""
        if self.slots is None or self.slots.output is None:
            return self.buffers.get("y", (batch, *self.output_shape))
        return self.slots.memory.get(self.slots.output, batch, self.output_shape, self.slots.output_type)

    def input_gradient_buffer(self, batch: int, number: int = 0) -> Array:
        """An array (batch, *input_shapes[number]) in the same memory at every call."""
        shape = self.input_shapes[number]
        slot = self.slots.gradients[number] if self.slots else None
        if self.slots is None or slot is None:
            return self.buffers.get(f"dx{number}", (batch, *shape))
        return self.slots.memory.get(slot, batch, shape, self.slots.gradient_types[number])

    def temporary(self, name: str, like: Array) -> Array:
        """Temporary space of the shape and the type of another array."""
        scratch = self.context.scratch
        return scratch.get(f"short {name}", like.shape, SHORT) if like.dtype == SHORT else scratch.get(name, like.shape)


def image_shape(layer: Layer, shape: Shape) -> tuple[int, int, int]:
    """`shape` as (H, W, C). Raises ShapeError for anything else."""
    if len(shape) != 3:
        raise ShapeError(f"{type(layer).__name__} takes images (H, W, C), not {shape}; put it before Flatten.")
    return shape[0], shape[1], shape[2]


def checked_activation(name: str | None) -> None:
    """Raises UsageError unless `name` is None or an activation that can be fused."""
    if name is not None and name not in FUSED:
        cure = "put it after this layer as a layer of its own" if name in ACTIVATIONS else "take one of these"
        raise UsageError(f"There is no fused activation {name!r}, only {', '.join(FUSED)}; {cure}.")


def checked_multipliers(values: tuple[float, float], what: str) -> tuple[float, float]:
    """(learning-rate factor, weight-decay factor). Raises UsageError unless they are two numbers of at least 0."""
    numbers = tuple(values)
    if len(numbers) != 2 or not all(isinstance(n, int | float) and n >= 0 for n in numbers):
        raise UsageError(f"{what} must be two numbers of at least 0 (learning rate, weight decay), not {values!r}.")
    return float(numbers[0]), float(numbers[1])
