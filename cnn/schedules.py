"""The learning rate as a function of the step, with Caffe's policies and a cosine with warm-up."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Self

from cnn.config import Configurable, require


class Schedule(Configurable):
    """Gives the learning rate at a step, counted from 0; a step is one batch."""

    lr: float
    """The base rate, of which all others are multiples."""

    def at(self, lr: float) -> Self:
        """The same schedule with another base rate."""
        return replace(self, lr=lr)  # type: ignore[type-var]

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate."""


@dataclass(frozen=True)
class Constant(Schedule):
    """lr."""

    lr: float = 0.01

    def __post_init__(self) -> None:
        _check_rate(self.lr)

    def rate(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Step(Schedule):
    """lr * gamma ** floor(step / every)."""

    lr: float
    every: int
    """Steps after which the rate is multiplied by gamma."""
    gamma: float = 0.1
    """The factor."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_factor("gamma", self.gamma)
        require(self.every >= 1, f"every must be at least 1 step, not {self.every}.")

    def rate(self, step: int) -> float:
        return self.lr * self.gamma ** (step // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """lr * gamma ** (the number of milestones reached)."""

    lr: float
    milestones: tuple[int, ...]
    """The steps at which the rate is multiplied by gamma."""
    gamma: float = 0.1
    """The factor."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_factor("gamma", self.gamma)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        require(
            list(self.milestones) == sorted(set(self.milestones)) and min(self.milestones, default=1) > 0,
            f"milestones must be steps above 0 in rising order, not {self.milestones}.",
        )

    def rate(self, step: int) -> float:
        return self.lr * self.gamma ** sum(step >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class Inv(Schedule):
    """lr * (1 + gamma * step) ** -power."""

    lr: float
    gamma: float = 1e-4
    """How fast the rate falls."""
    power: float = 0.75
    """The power of the fall."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_factor("gamma", self.gamma)
        _check_factor("power", self.power)

    def rate(self, step: int) -> float:
        return float(self.lr * (1 + self.gamma * step) ** -self.power)


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr * gamma ** step."""

    lr: float
    gamma: float
    """The factor of each step."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_factor("gamma", self.gamma)

    def rate(self, step: int) -> float:
        return float(self.lr * self.gamma**step)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Rises linearly over `warmup` steps to lr, then falls as half a cosine to `floor` at `steps`.

    Loshchilov & Hutter 2017, eq. 5, without restarts.
    """

    lr: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        require(
            0 <= self.warmup < self.steps,
            f"warmup ({self.warmup}) must be at least 0 and below steps ({self.steps}).",
        )
        require(0 <= self.floor <= self.lr, f"floor ({self.floor}) must be from 0 to lr ({self.lr}).")

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.floor + (self.lr - self.floor) * (1 + cos(pi * done)) / 2


@dataclass(frozen=True)
class Warmup(Schedule):
    """The rate of `then`, reached over the first `steps` by a linear rise from the fraction `start` of it.

    Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2.
    """

    then: Schedule
    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "then", Schedule.from_config(self.then))
        require(self.steps >= 1, f"steps must be at least 1, not {self.steps}.")
        require(0 <= self.start <= 1, f"start must be from 0 to 1, not {self.start}.")

    @property
    def lr(self) -> float:  # type: ignore[override]
        return self.then.lr

    def at(self, lr: float) -> Self:
        return replace(self, then=self.then.at(lr))

    def rate(self, step: int) -> float:
        risen = min(1.0, (step + 1) / self.steps)
        return self.then.rate(step) * (self.start + (1 - self.start) * risen)


def _check_rate(lr: float) -> None:
    require(0 < lr < float("inf"), f"The learning rate must be above 0 and finite, not {lr}.")


def _check_factor(name: str, value: float) -> None:
    require(0 <= value < float("inf"), f"{name} must be at least 0 and finite, not {value}.")
