"""The rules that turn gradients into weight updates."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from math import inf
from typing import Any, Self, cast

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.config import Configurable, check_values, require, settle
from cnn.layers.layer import Group, Parameter
from cnn.words import unknown


class Optimizer(Configurable):
    """Updates parameters in place and keeps its own state arrays for each.

    A parameter's multipliers scale the learning rate and the weight decay, as Caffe's lr_mult and decay_mult. A copy
    has the same settings and is not attached to any parameters.
    """

    slots: tuple[str, ...]
    weight_decay: float
    """The factor of the weights that is added to their gradient (L2)."""

    def fresh(self) -> Self:
        """A new optimizer with the same settings, not attached to any parameters."""
        return replace(self)  # type: ignore[type-var]

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(cast(Any, self))}

    def attach(self, backend: Backend, parameters: Iterable[Parameter], base_lr: float = 1.0) -> None:
        """Starts afresh with zeroed state arrays for the parameters, which `step` will then update.

        `base_lr` is the learning rate of which those of the steps are parts.
        """
        self.backend = backend
        self.base_lr = base_lr
        self.parameters = list(parameters)
        self.time = 0
        self.state: dict[str, Array] = {
            f"{parameter.name}.{slot}": backend.zeros(parameter.value.shape, parameter.value.dtype)
            for parameter in self.parameters
            for slot in self.slots
        }
        self._states = [[self.state[f"{each.name}.{slot}"] for slot in self.slots] for each in self.parameters]
        self._scratch = Buffers(backend)

    @np.errstate(all="ignore")
    def step(self, lr: float, epoch: int = 0) -> None:
        """Updates every parameter from its gradient with learning rate `lr`. Raises UsageError before `attach`.

        Parameters that are trained for so many epochs as `epoch`, counted from 0, or fewer are left as they are.
        """
        require(hasattr(self, "state"), f"This {type(self).__name__} updates no parameters yet; call `attach` first.")
        self.time += 1
        for parameter, state in zip(self.parameters, self._states, strict=True):
            if epoch < parameter.epochs:
                rate = lr * parameter.lr_multiplier
                self._update(parameter, state, rate, self._decay(parameter))

    def _decay(self, parameter: Parameter) -> float:
        """The factor of a parameter's weights that is added to their gradient."""
        return self.weight_decay * parameter.decay_multiplier

    @abstractmethod
    def _update(self, parameter: Parameter, state: list[Array], lr: float, decay: float) -> None: ...


@dataclass(eq=False)
class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov's) momentum and L2 weight decay, as Caffe defines them."""

    momentum: float = 0.9
    """The part of the last step that is added to the next."""
    weight_decay: float = 0.0
    nesterov: bool = False
    """Whether the gradient counts as if it were taken after the momentum's step."""
    lr_outside: bool = False
    """Whether the learning rate multiplies the velocity, as in PyTorch, instead of what is added to it."""
    decoupled: bool = False
    """Whether weights decay by weight_decay in a step at the base rate, whatever this is and its multipliers are.

    At other rates of the schedule they decay in proportion (Loshchilov & Hutter 2019, section 2), through the momentum.
    """

    slots = ("velocity",)

    def __post_init__(self) -> None:
        _check_fraction("momentum", self.momentum)
        _check_decay(self.weight_decay)

    def _update(self, parameter: Parameter, state: list[Array], lr: float, decay: float) -> None:
        self.backend.sgd_update(
            parameter.value,
            parameter.gradient,
            state[0],
            self._scratch,
            lr=lr,
            momentum=self.momentum,
            decay=decay,
            nesterov=self.nesterov,
            outside=self.lr_outside,
        )

    def _decay(self, parameter: Parameter) -> float:
        decay = super()._decay(parameter)
        if not self.decoupled:
            return decay
        base = self.base_lr * parameter.lr_multiplier
        return decay / base if base else 0.0


@dataclass(eq=False)
class RMSprop(Optimizer):
    """Tieleman & Hinton 2012: the gradient divided by its running root mean square."""

    rho: float = 0.9
    """The part of the running mean of squares that a step keeps."""
    epsilon: float = 1e-8
    """Added to the root mean square."""
    weight_decay: float = 0.0

    slots = ("square",)

    def __post_init__(self) -> None:
        _check_fraction("rho", self.rho)
        _check_epsilon(self.epsilon)
        _check_decay(self.weight_decay)

    def _update(self, parameter: Parameter, state: list[Array], lr: float, decay: float) -> None:
        self.backend.rmsprop_update(
            parameter.value,
            parameter.gradient,
            state[0],
            self._scratch,
            lr=lr,
            rho=self.rho,
            epsilon=self.epsilon,
            decay=decay,
        )


@dataclass(eq=False)
class Adam(Optimizer):
    """Kingma & Ba 2015, algorithm 1; weight decay is added to the gradient."""

    beta1: float = 0.9
    """The part of the running mean of gradients that a step keeps."""
    beta2: float = 0.999
    """The part of the running mean of squares that a step keeps."""
    epsilon: float = 1e-8
    """Added to the root mean square."""
    weight_decay: float = 0.0

    slots = ("first", "second")

    def __post_init__(self) -> None:
        _check_fraction("beta1", self.beta1)
        _check_fraction("beta2", self.beta2)
        _check_epsilon(self.epsilon)
        _check_decay(self.weight_decay)

    def _update(self, parameter: Parameter, state: list[Array], lr: float, decay: float) -> None:
        self.backend.adam_update(
            parameter.value,
            parameter.gradient,
            state[0],
            state[1],
            self._scratch,
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            decay=decay,
            time=self.time,
        )


@dataclass(eq=False)
class AdamW(Adam):
    """Loshchilov & Hutter 2019, algorithm 2: Adam, but the weights shrink by lr * weight_decay apart from the gradient.

    The rate of a step, which the schedule gives, multiplies the decay as in PyTorch.
    """

    weight_decay: float = 0.01

    def _update(self, parameter: Parameter, state: list[Array], lr: float, decay: float) -> None:
        if lr * decay:
            self.backend.scale(parameter.value, 1 - lr * decay, parameter.value)
        super()._update(parameter, state, lr, 0.0)


@dataclass(frozen=True)
class Multiplier:
    """Factors on the learning rate and the decay of the parameters that a pattern stands for, and when they freeze."""

    pattern: str
    """Names such as "conv1.bias" or "batchnorm*.beta", with *, ? and [] as in those of files."""
    lr: float | None = None
    """The factor of the learning rate in place of the layer's own, which None keeps."""
    decay: float | None = None
    """The factor of the weight decay in place of the layer's own, which None keeps."""
    epochs: int | None = None
    """After so many epochs the parameters stay as they are; None trains them to the end."""

    def __post_init__(self) -> None:
        settle(self)
        for name, value in (("lr", self.lr), ("decay", self.decay)):
            require(value is None or 0 <= value < inf, f"{name} must be at least 0 and finite, not {value}.")
        require(self.epochs is None or self.epochs >= 0, f"epochs must be at least 0, not {self.epochs}.")

    @classmethod
    def list_of(cls, tables: Sequence[Any]) -> list["Multiplier"]:
        """Multipliers from tables. Raises UsageError for an unknown setting or a missing pattern."""
        known = {each.name: each for each in fields(cls)}
        for table in tables:
            if not isinstance(table, cls):
                check_values("multipliers", table, known, " (`cnn reference Multiplier` says what they are)")
                require("pattern" in table, "Each of the multipliers needs a pattern.")
        return [table if isinstance(table, cls) else cls(**table) for table in tables]


def multiplied(groups: Sequence[Group], multipliers: Sequence[Multiplier]) -> list[Parameter]:
    """The groups, cut into stretches of parameters that have the same multipliers and freeze at the same time.

    Of several patterns that stand for a parameter, the last one that has a setting counts. Raises UsageError for a
    pattern that stands for none.
    """
    if not multipliers:
        return list(groups)
    names = [part.name for group in groups for part, _ in group.parts]
    for each in multipliers:
        if not any(fnmatchcase(name, each.pattern) for name in names):
            raise unknown("There is no trained parameter named", each.pattern, names)
    found: list[Parameter] = []
    for group in groups:
        starts = [start for _, start in group.parts] + [int(group.value.size)]
        last: tuple[float, float, float] | None = None
        first = 0
        for (part, start), end in zip(group.parts, starts[1:], strict=True):
            lr, decay, epochs = group.lr_multiplier, group.decay_multiplier, inf
            for each in multipliers:
                if fnmatchcase(part.name, each.pattern):
                    lr = lr if each.lr is None else each.lr
                    decay = decay if each.decay is None else each.decay
                    epochs = epochs if each.epochs is None else each.epochs
            if (lr, decay, epochs) == last:
                found.pop()
            else:
                last, first = (lr, decay, epochs), start
            place = slice(first, end)
            name = f"{group.name} from {first}"
            found.append(Parameter(name, group.value[place], group.gradient[place], lr, decay, epochs))
    return found


class SlowWeights(Configurable):
    """A second copy of parameters and running statistics that follows the first, and that the run ends with."""

    every: int
    """Steps between two updates of the copy."""
    evaluated = False
    """Whether the copy is validated during the run, too."""

    def attach(self, backend: Backend, arrays: dict[str, Array]) -> None:
        """Starts with a copy of the arrays."""
        self.backend, self._fast = backend, arrays
        self.state: dict[str, Array] = {}
        for name, array in arrays.items():
            self.state[name] = backend.zeros(array.shape, array.dtype)
            backend.scale(array, 1.0, self.state[name])
        self._scratch = Buffers(backend)

    def fresh(self) -> Self:
        """New slow weights with the same settings, not attached to any arrays."""
        return replace(self)  # type: ignore[type-var]

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(cast(Any, self))}

    @abstractmethod
    def after(self, step: int, steps: int) -> None:
        """Called after each step, counted from 1, of a run of `steps`."""

    def finish(self) -> None:
        """Overwrites the arrays with their copies."""
        for name, slow in self.state.items():
            self.backend.scale(slow, 1.0, self._fast[name])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within the block the arrays hold their copies, if these are evaluated."""
        if not self.evaluated:
            yield
            return
        kept = {name: self.backend.to_numpy(array) for name, array in self._fast.items()}
        self.finish()
        try:
            yield
        finally:
            for name, array in kept.items():
                self.backend.copy(array, self._fast[name])

    @np.errstate(all="ignore")
    def _follow(self, keep: float) -> None:
        """slow = keep * slow + (1 - keep) * fast."""
        for name, slow in self.state.items():
            fast = self._fast[name]
            part = self._scratch.get("part", fast.shape, fast.dtype)
            self.backend.scale(fast, 1 - keep, part)
            self.backend.scale(slow, keep, slow)
            self.backend.add(slow, part, None, slow)


@dataclass(eq=False)
class Lookahead(SlowWeights):
    """Zhang et al. 2019, algorithm 1: every few steps the slow weights follow, and training goes on from them.

    The slow weights keep the part keep * (step / steps of the run) ** power of themselves; a rising part is that of
    Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.5. Running statistics follow, too.
    """

    every: int = 5
    keep: float = 0.5
    """The part of the slow weights that stays."""
    power: float = 0.0
    """How late in the run that part rises to `keep`; 0 has it throughout."""

    def __post_init__(self) -> None:
        require(self.every >= 1, f"every must be at least 1 step, not {self.every}.")
        require(0 <= self.keep <= 1, f"keep must be from 0 to 1, not {self.keep}.")
        require(0 <= self.power < inf, f"power must be at least 0 and finite, not {self.power}.")

    def after(self, step: int, steps: int) -> None:
        if step % self.every == 0:
            self._follow(self.keep * (step / steps) ** self.power)
            self.finish()


@dataclass(eq=False)
class EMA(SlowWeights):
    """The exponential moving average of weights (Polyak & Juditsky 1992), which is validated and saved in the model."""

    keep: float = 0.999
    """The part of the average that stays at an update."""
    every: int = 1

    evaluated = True

    def __post_init__(self) -> None:
        require(self.every >= 1, f"every must be at least 1 step, not {self.every}.")
        _check_fraction("keep", self.keep)

    def after(self, step: int, steps: int) -> None:
        if step % self.every == 0:
            self._follow(self.keep)


def _check_fraction(name: str, value: float) -> None:
    require(0 <= value < 1, f"{name} must be at least 0 and below 1, not {value}.")


def _check_decay(value: float) -> None:
    require(0 <= value < float("inf"), f"weight_decay must be at least 0 and finite, not {value}.")


def _check_epsilon(value: float) -> None:
    require(0 < value < float("inf"), f"epsilon must be above 0 and finite, not {value}.")
