"""The base of all layers: settings, parameters, and a forward and a backward pass on one backend."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arithmetic import Footprint, Work, elementwise
from cnn.arrays import Array, Buffers, Shape
from cnn.backend import Backend
from cnn.config import Configurable
from cnn.errors import ShapeError, UsageError
from cnn.initializers import Initializer
from cnn.ops.elementwise import ACTIVATIONS, unknown_activation
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


class Layer(Configurable):
    """One step of a network. Shapes are those of a single image, without N; arrays have N.

    A concrete layer is a dataclass of its settings. `build` fixes these and its input shape and makes its parameters;
    `forward` keeps what `backward` needs; both return buffers that the next call overwrites. A copy of a layer has its
    settings only, so that another network can build it.
    """

    name = ""

    @property
    def repeatable(self) -> bool:
        """Whether all passes over inputs of one shape only make the same backend calls on the same arrays.

        If so, the calls may be recorded and repeated without calling the layer's methods.
        """
        return False

    def build(self, *input_shapes: Shape, context: Context) -> None:
        """Prepares the layer for inputs (N, *input_shape). Raises ShapeError if they do not fit."""
        self._settings = [key for key in vars(self) if key != "name"]
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
        return {name: getattr(self, name) for name in getattr(self, "_settings", vars(self))}

    @abstractmethod
    def shape_after(self, input_shape: Shape) -> Shape:
        """The shape of the output for one input of `input_shape`. Raises ShapeError if the input does not fit."""

    @abstractmethod
    def forward(self, x: Array, *, training: bool) -> Array:
        """The output (N, *output_shape) for x (N, *input_shape)."""

    @abstractmethod
    def backward(self, dy: Array) -> Array:
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

    def memory(self, input_shape: Shape) -> Footprint:
        """The memory needed per image; unless overridden, the output and the gradient of the input."""
        return Footprint(prod(self.shape_after(input_shape)), prod(input_shape))

    def create(self) -> None:
        """Makes parameters and statistics; by default there are none."""

    def add_parameter(
        self, name: str, shape: Shape, initializer: Initializer, multipliers: tuple[float, float]
    ) -> Parameter:
        """A new parameter with values drawn by `initializer`; multipliers are for (learning rate, weight decay)."""
        value = self.backend.asarray(initializer.draw(shape, self.context.rng), self.context.dtype)
        gradient = self.backend.zeros(shape, self.context.dtype)
        parameter = Parameter(f"{self.name}.{name}", value, gradient, *multipliers)
        self.parameters.append(parameter)
        return parameter

    def output_buffer(self, batch: int) -> Array:
        """An array (batch, *output_shape) in the same memory at every call."""
        return self.buffers.get("y", (batch, *self.output_shape))

    def input_gradient_buffer(self, batch: int) -> Array:
        """An array (batch, *input_shape) in the same memory at every call."""
        return self.buffers.get("dx", (batch, *self.input_shape))


def image_shape(layer: Layer, shape: Shape) -> tuple[int, int, int]:
    """`shape` as (H, W, C). Raises ShapeError for anything else."""
    if len(shape) != 3:
        raise ShapeError(f"{type(layer).__name__} takes images (H, W, C), not {shape}; put it before Flatten.")
    return shape[0], shape[1], shape[2]


def checked_activation(name: str | None) -> None:
    """Raises UsageError unless `name` is None or an activation."""
    if name is not None and name not in ACTIVATIONS:
        raise unknown_activation(name)


def checked_multipliers(values: tuple[float, float], what: str) -> tuple[float, float]:
    """(learning-rate factor, weight-decay factor). Raises UsageError unless they are two numbers of at least 0."""
    numbers = tuple(values)
    if len(numbers) != 2 or not all(isinstance(n, int | float) and n >= 0 for n in numbers):
        raise UsageError(f"{what} must be two numbers of at least 0 (learning rate, weight decay), not {values!r}.")
    return float(numbers[0]), float(numbers[1])
