"""The rules that turn gradients into weight updates."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.config import Configurable, require
from cnn.layers.layer import Parameter


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

    def attach(self, backend: Backend, parameters: Iterable[Parameter]) -> None:
        """Starts afresh with zeroed state arrays for the parameters, which `step` will then update."""
        self.backend = backend
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
    def step(self, lr: float) -> None:
        """Updates every parameter from its gradient with learning rate `lr`. Raises UsageError before `attach`."""
        require(hasattr(self, "state"), f"This {type(self).__name__} updates no parameters yet; call `attach` first.")
        self.time += 1
        for parameter, state in zip(self.parameters, self._states, strict=True):
            decay = self.weight_decay * parameter.decay_multiplier
            self._update(parameter, state, lr * parameter.lr_multiplier, decay)

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
        )


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


def _check_fraction(name: str, value: float) -> None:
    require(0 <= value < 1, f"{name} must be at least 0 and below 1, not {value}.")


def _check_decay(value: float) -> None:
    require(0 <= value < float("inf"), f"weight_decay must be at least 0 and finite, not {value}.")


def _check_epsilon(value: float) -> None:
    require(0 < value < float("inf"), f"epsilon must be above 0 and finite, not {value}.")
