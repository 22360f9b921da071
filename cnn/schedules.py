"""The learning rate as a function of the step, with Caffe's policies and a cosine with warm-up."""

from abc import abstractmethod
from copy import copy
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

    @property
    def needs_steps(self) -> bool:
        """Whether its rates depend on the number of steps of the run."""
        return False

    def over(self, steps: int) -> Self:
        """The same schedule for a run of so many steps."""
        return self

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate."""


class WholeRun(Schedule):
    """A schedule over the whole run, of which a trainer knows the number of steps."""

    _steps: int | None = None

    @property
    def needs_steps(self) -> bool:
        return True

    def over(self, steps: int) -> Self:
        bound = copy(self)
        object.__setattr__(bound, "_steps", steps)
        return bound

    def rate(self, step: int) -> float:
        """The learning rate. Raises UsageError unless `over` has said how many steps the run has."""
        name = type(self).__name__
        require(self._steps is not None, f"{name} depends on the number of steps; call `over(steps)` first.")
        return float(self.lr * self._factor(min(step, self._steps or 0), self._steps or 1))

    def _factor(self, step: int, steps: int) -> float:
        """The part of the base rate at a step of `steps`."""
        raise NotImplementedError


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

    @property
    def needs_steps(self) -> bool:
        return self.then.needs_steps

    def over(self, steps: int) -> Self:
        return replace(self, then=self.then.over(steps))

    def rate(self, step: int) -> float:
        risen = min(1.0, (step + 1) / self.steps)
        return self.then.rate(step) * (self.start + (1 - self.start) * risen)


@dataclass(frozen=True)
class Triangular(WholeRun):
    """Rises linearly from start * lr to lr at the fraction `peak` of the run, then falls linearly to end * lr.

    Smith 2017, "Cyclical learning rates for training neural networks", one cycle; as in Jordan 2024 the peak is at a
    whole step and the rate of step i is that at i of the run's steps.
    """

    lr: float
    peak: float = 0.5
    """The fraction of the run at which the rate is lr."""
    start: float = 0.0
    """The part of lr at the first step."""
    end: float = 0.0
    """The part of lr after the last step."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_part("peak", self.peak)
        _check_part("start", self.start)
        _check_part("end", self.end)

    def _factor(self, step: int, steps: int) -> float:
        peak = int(self.peak * steps)
        if step < peak:
            return self.start + (1 - self.start) * step / peak
        return 1 + (self.end - 1) * (step - peak) / max(1, steps - peak)


@dataclass(frozen=True)
class OneCycle(WholeRun):
    """Rises as half a cosine from start * lr to lr at the fraction `peak` of the run, then falls so to end * lr.

    Smith & Topin 2018, "Super-convergence", with cosines for its lines; without its cycle of the momentum.
    """

    lr: float
    peak: float = 0.3
    """The fraction of the run at which the rate is lr."""
    start: float = 0.04
    """The part of lr at the first step."""
    end: float = 4e-6
    """The part of lr after the last step."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_part("peak", self.peak)
        _check_part("start", self.start)
        _check_part("end", self.end)

    def _factor(self, step: int, steps: int) -> float:
        peak = self.peak * steps
        if step < peak:
            return 1 + (self.start - 1) * (1 + cos(pi * step / peak)) / 2
        return self.end + (1 - self.end) * (1 + cos(pi * (step - peak) / max(1.0, steps - peak))) / 2


@dataclass(frozen=True)
class Polynomial(WholeRun):
    """lr * (1 - step / the run's steps) ** power, Caffe's policy "poly"."""

    lr: float
    power: float = 1.0
    """1 falls linearly to 0."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_factor("power", self.power)

    def _factor(self, step: int, steps: int) -> float:
        return float((1 - step / steps) ** self.power)


@dataclass(frozen=True)
class FractionStep(WholeRun):
    """lr * gamma ** (the number of milestones reached), with milestones as fractions of the run."""

    lr: float
    milestones: tuple[float, ...]
    """The fractions of the run at which the rate is multiplied by gamma."""
    gamma: float = 0.1
    """The factor."""

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_factor("gamma", self.gamma)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        rising = list(self.milestones) == sorted(set(self.milestones))
        require(
            rising and all(0 < each < 1 for each in self.milestones),
            f"milestones must be fractions between 0 and 1 in rising order, not {self.milestones}.",
        )

    def _factor(self, step: int, steps: int) -> float:
        return float(self.gamma ** sum(step >= each * steps for each in self.milestones))


def _check_part(name: str, value: float) -> None:
    require(0 <= value <= 1, f"{name} must be from 0 to 1, not {value}.")


def _check_rate(lr: float) -> None:
    require(0 < lr < float("inf"), f"The learning rate must be above 0 and finite, not {lr}.")


def _check_factor(name: str, value: float) -> None:
    require(0 <= value < float("inf"), f"{name} must be at least 0 and finite, not {value}.")
