"""`lr_find`: the learning-rate range test, which trains a copy of a model for some steps at growing rates."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.config import require, whole
from cnn.data.conversion import Layout
from cnn.errors import NonFiniteError
from cnn.model.architecture import Architecture, Recipe
from cnn.model.sequential import Sequential
from cnn.schedules import Schedule
from cnn.training.fitting import settings_and_split
from cnn.training.trainer import Callback, Trainer

LOWEST, HIGHEST, STEPS = 1e-5, 10.0, 200
KEEP = 0.9
"""The part of the running mean of losses that a step keeps."""
DIVERGED, SETTLED = 4.0, 10
"""How many times its lowest value the smoothed loss must reach, and after how many steps at the earliest."""
BELOW = 10.0
"""How far the suggested rate is below that of the lowest smoothed loss."""
RULE = "a tenth of the rate at which the smoothed loss is lowest"


@dataclass(frozen=True)
class RateSearch:
    """The losses (S,) of the steps taken at growing rates (S,), as they are and smoothed (S,)."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steps: int
    """Steps that were to be taken."""
    diverged: bool
    """Whether the test ended because the loss grew or was not finite."""

    @property
    def lowest(self) -> float:
        """The rate of the lowest smoothed loss."""
        return self.rates[int(np.argmin(self.smoothed))]

    @property
    def steepest(self) -> float | None:
        """The rate, up to that of the lowest smoothed loss, at which this falls fastest over the rate's logarithm.

        None if it never falls. Smoothing has it some steps late.
        """
        end = int(np.argmin(self.smoothed)) + 1
        falls = np.diff(self.smoothed[:end])
        return self.rates[int(np.argmin(falls)) + 1] if len(falls) and falls.min() < 0 else None

    @property
    def suggestion(self) -> float:
        """The suggested learning rate: RULE."""
        return self.lowest / BELOW


class _Growing(Schedule):
    """Rates from `lowest` to `highest`, each the same multiple of the one before; `lr` is the recipe's base rate."""

    def __init__(self, lr: float, lowest: float, highest: float, steps: int) -> None:
        self.lr, self._lowest, self._highest, self._steps = lr, lowest, highest, steps - 1

    def rate(self, step: int) -> float:
        # Not by the quotient of the two rates: that of rates far apart is beyond the largest float.
        way = step / self._steps
        return float(self._lowest ** (1 - way) * self._highest**way)


class _Ended(Exception):
    """The loss has diverged."""


class _Watch(Callback):
    def __init__(self, rates: Schedule, told: Callback | None) -> None:
        self.rates, self.losses, self.smoothed = list[float](), list[float](), list[float]()
        self._schedule, self._told = rates, told
        self._mean = 0.0
        self._before = (0, 0.0, 0)

    def on_batch(self, trainer: Trainer) -> None:
        position = trainer.position
        epoch, loss, seen = self._before
        loss, seen = (loss, seen) if epoch == position.epoch else (0.0, 0)
        self._before = (position.epoch, position.loss, position.seen)
        self.rates.append(self._schedule.rate(position.step - 1))
        self.losses.append((position.loss - loss) / (position.seen - seen))
        self._mean = KEEP * self._mean + (1 - KEEP) * self.losses[-1]
        self.smoothed.append(self._mean / (1 - KEEP ** len(self.losses)))
        if self._told is not None:
            self._told.on_batch(trainer)
        if len(self.losses) > SETTLED and self.smoothed[-1] > DIVERGED * min(self.smoothed):
            raise _Ended


def lr_find(
    model: Sequential,
    train: Any,
    y: Any = None,
    *,
    recipe: Recipe | Architecture | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    layout: Layout = "NHWC",
    sample_weight: npt.ArrayLike | None = None,
    class_weight: Mapping[Any, float] | str | None = None,
    callback: Callback | None = None,
    **settings: Any,
) -> RateSearch:
    """Trains a copy of `model` for `steps` steps at rates from `lowest` to `highest`, until its loss diverges.

    The rate grows by the same factor at each step. Everything else is as `cnn.fit` would train: data, recipe and
    settings are given as there; the recipe's own rate counts only where weights decay in proportion to it. Losses are
    smoothed by an exponential mean that is corrected for its start. The model and its random state stay as they are.

    Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3 (arXiv 1506.01186).

    Raises UsageError for impossible rates and what `cnn.fit` raises, NonFiniteError if the first step's loss is one.
    """
    require(0 < lowest < highest < inf, f"lowest is {lowest} and highest {highest}; give two rates, the lower first.")
    steps = whole(steps, "The number of steps", 2)
    require(isinstance(model, Sequential), f"A learning rate is found for a cnn.Sequential, not {model!r:.40}.")
    copy = deepcopy(model)
    split, given = settings_and_split(
        copy, train, y, recipe=recipe, layout=layout, sample_weight=sample_weight, class_weight=class_weight
    )
    settings = {"batch_size": 64} | given | settings
    base = settings.pop("schedule", None)
    lr = base.lr if isinstance(base, Schedule) else base or 1.0
    growing = _Growing(lr, lowest, highest, steps)
    trainer = Trainer(copy, split, schedule=growing, **settings)
    watch = _Watch(growing, callback)
    diverged = False
    try:
        trainer.run(steps / trainer.steps_per_epoch, watch)
    except _Ended:
        diverged = True
    except NonFiniteError:
        if not watch.losses:
            raise
        diverged = True
    finally:
        if callback is not None:
            callback.on_end()
    kept = [all(map(isfinite, each)) for each in zip(watch.losses, watch.smoothed, strict=True)].count(True)
    rates, losses, smoothed = (tuple(each[:kept]) for each in (watch.rates, watch.losses, watch.smoothed))
    return RateSearch(rates, losses, smoothed, steps, diverged or kept < steps)
