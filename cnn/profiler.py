"""Times a training step by layer, direction and phase: im2col (and col2im), GEMM, the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from cnn.model import Sequential
from cnn.optimizers import SGD

PHASES = {"im2col": "im2col", "col2im": "im2col", "gemm": "gemm"}
"""Backend methods that are timed, and the phase each belongs to."""


@dataclass
class Line:
    """One layer in one direction: median seconds of a step in all and by phase, and the FLOP its products executed."""

    layer: str
    direction: str
    seconds: float
    im2col: float
    gemm: float
    flops: int

    @property
    def rest(self) -> float:
        """Seconds that were neither im2col nor GEMM."""
        return max(0.0, self.seconds - self.im2col - self.gemm)


@dataclass
class _Tally:
    seconds: dict[tuple[str, str, str], float] = field(default_factory=dict)
    flops: dict[tuple[str, str], int] = field(default_factory=dict)
    place: tuple[str, str] = ("", "")

    def add(self, phase: str, seconds: float) -> None:
        key = (*self.place, phase)
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds


def profile_step(
    model: Sequential, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], *, repeats: int = 10
) -> list[Line]:
    """The lines of a training step with SGD on one batch, after one step to warm up.

    Reading the batch and the loss are one line, the weight update another. The rate is 0: weights stay as they are.
    """
    optimizer = SGD(0.9)
    optimizer.attach(model.backend, model.parameters)
    model.train_step(images, labels)
    optimizer.step(0.0)
    tallies = []
    for _ in range(repeats):
        tally = _Tally()
        with _timed(model, tally):
            started = perf_counter()
            model.train_step(images, labels)
            elapsed = perf_counter() - started
            in_layers = sum(value for key, value in tally.seconds.items() if key[2] == "all")
            tally.place = ("input and loss", "")
            tally.add("all", elapsed - in_layers)
            started = perf_counter()
            optimizer.step(0.0)
            tally.place = ("update", "")
            tally.add("all", perf_counter() - started)
        tallies.append(tally)
    places = list(dict.fromkeys((layer, direction) for layer, direction, _ in tallies[0].seconds))
    return [
        Line(
            *place,
            seconds=_median(tallies, *place, "all"),
            im2col=_median(tallies, *place, "im2col"),
            gemm=_median(tallies, *place, "gemm"),
            flops=tallies[0].flops.get(place, 0),
        )
        for place in places
    ]


def _median(tallies: list[_Tally], layer: str, direction: str, phase: str) -> float:
    return median(tally.seconds.get((layer, direction, phase), 0.0) for tally in tallies)


@contextmanager
def _timed(model: Sequential, tally: _Tally) -> Iterator[None]:
    """Shadows methods of the backend and the layers by timed ones for the length of the block."""
    shadowed: list[tuple[Any, str]] = []

    def shadow(owner: Any, name: str, timed: Callable[..., Any]) -> None:
        setattr(owner, name, timed)
        shadowed.append((owner, name))

    try:
        for name, phase in PHASES.items():
            shadow(model.backend, name, _phase(getattr(model.backend, name), phase, tally))
        for layer in model.layers:
            for name, direction in (
                ("forward", "forward"),
                ("backward", "backward"),
                ("backward_parameters", "backward"),
            ):
                shadow(layer, name, _direction(getattr(layer, name), (layer.name, direction), tally))
        yield
    finally:
        for owner, name in shadowed:
            delattr(owner, name)


def _phase(method: Callable[..., Any], phase: str, tally: _Tally) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        started = perf_counter()
        result = method(*arguments, **options)
        tally.add(phase, perf_counter() - started)
        if phase == "gemm":
            rows, columns = options["out"].shape
            depth = arguments[0].size // rows
            tally.flops[tally.place] = tally.flops.get(tally.place, 0) + 2 * rows * columns * depth
        return result

    return timed


def _direction(method: Callable[..., Any], place: tuple[str, str], tally: _Tally) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        # backward_parameters may call backward: only the outer call counts.
        outer, tally.place = tally.place, place
        started = perf_counter()
        result = method(*arguments, **options)
        if outer != place:
            tally.add("all", perf_counter() - started)
        tally.place = outer
        return result

    return timed
