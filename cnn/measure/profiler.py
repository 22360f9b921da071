"""Times a training step by layer and direction, and parts each time into im2col (and col2im), GEMM and the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from cnn.backend import Clock
from cnn.cost import FORWARD, UPDATE, Operation, Stage, count
from cnn.model.passes import SETTLED
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD
from cnn.product import ProductReport
from cnn.timing import now, seconds_of

LOWERING = ("im2col", "col2im")
"""Backend methods whose time is shown apart; a backend that lowers inside its kernels does not call them."""

Place = tuple[str, str]
INPUT_AND_LOSS: Place = ("input and loss", "")


@dataclass
class Line:
    """One layer in one direction: median seconds of a step in all and by phase, and the FLOP of its products."""

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
    """Seconds of one step by layer and direction, and those of them spent in methods of LOWERING."""

    seconds: dict[Place, float] = field(default_factory=dict)
    lowering: dict[Place, float] = field(default_factory=dict)
    place: Place = ("", "")

    def add(self, seconds: float) -> None:
        self.seconds[self.place] = self.seconds.get(self.place, 0.0) + seconds

    def add_lowering(self, seconds: float) -> None:
        self.lowering[self.place] = self.lowering.get(self.place, 0.0) + seconds


def profile_step(
    model: Sequential, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], *, repeats: int = 10
) -> list[Line]:
    """The lines of a training step with SGD on one batch, each layer run by itself, after some steps to warm up.

    The time of the products is that of the step less that of the same step without them. Where lowering happens inside
    kernels, im2col is what a convolution takes without its products: bias and activation are in it. Reading the batch
    and the loss are one line, the weight update another. The rate is 0: weights stay as they are.
    """
    optimizer = _optimizer(model)

    def step() -> _Tally:
        return _tally(model, optimizer, images, labels, _Tally())

    whole = [step() for _ in range(SETTLED + repeats)][SETTLED:]
    # Without products the arrays hold whatever they held: what overflows then does not matter.
    with model.backend.without_products(), np.errstate(all="ignore"):
        bare = [step() for _ in range(SETTLED + repeats)][SETTLED:]
    counted: dict[Place, list[Operation]] = {}
    for stage in count(model, len(labels), training=True).stages:
        counted.setdefault(place_of(stage), []).extend(stage.operations)
    lines = []
    for place in whole[0].seconds:
        seconds = median(tally.seconds[place] for tally in whole)
        around = median(tally.seconds[place] for tally in bare)
        lowering = median(tally.lowering.get(place, 0.0) for tally in whole)
        operations = counted.get(place, [])
        flops = sum(each.flops for each in operations if each.sizes)
        lowers = any(each.kind in LOWERING for each in operations)
        if lowers and not lowering:
            lowering = min(seconds, around)
        gemm = max(0.0, min(seconds - around, seconds - lowering)) if flops else 0.0
        lines.append(Line(*place, seconds=seconds, im2col=lowering, gemm=gemm, flops=flops))
    return lines


def least_times(
    model: Sequential,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    *,
    training: bool,
    repeats: int,
) -> dict[Place, float]:
    """The least seconds of each layer and direction over `repeats` steps after some to warm up.

    A step is one of training with SGD at a rate of 0, or the classification of the batch. What disturbs a step hits
    some of its layers: the sum of these times is closer to an undisturbed step than the least step is.
    """
    optimizer = _optimizer(model)
    tallies = []
    for _ in range(SETTLED + repeats):
        tally = _Tally()
        if training:
            _tally(model, optimizer, images, labels, tally)
        else:
            _pass(model, tally, partial(model.predict, images, batch_size=len(images)))
        tallies.append(tally.seconds)
    return {place: min(seconds[place] for seconds in tallies[SETTLED:]) for place in tallies[-1]}


def whole_step(
    model: Sequential, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], *, repeats: int = 10
) -> tuple[float, float | None]:
    """Median seconds of a training step as it is run, and of those outside compiled kernels.

    The latter is None where the backend's work is not in such.
    """
    optimizer = _optimizer(model)

    def step() -> None:
        model.train_step(images, labels)
        optimizer.step(0.0)

    seconds, outside = [], []
    with model.backend.timed_kernels() as clock:
        inside = clock or Clock()
        for _ in range(SETTLED + repeats):
            inside.seconds = 0.0
            seconds.append(seconds_of(step))
            outside.append(seconds[-1] - inside.seconds)
    return median(seconds[SETTLED:]), None if clock is None else median(outside[SETTLED:])


@dataclass(frozen=True)
class LayerProduct:
    """A product of a step: its layer, whether forward, weight gradient or data gradient, and where it ran."""

    layer: str
    direction: str
    report: ProductReport


def reported_products(
    model: Sequential, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> list[LayerProduct]:
    """The products of one training step, as far as the backend reports where it ran them."""
    optimizer = _optimizer(model)
    tally, products = _Tally(), list[LayerProduct]()

    def note(report: ProductReport) -> None:
        layer, direction = tally.place
        if direction == "backward":
            # dw = x^T dy, dx = dy w^T.
            direction = "weight gradient" if report.product.transpose_a else "data gradient"
        products.append(LayerProduct(layer, direction, report))

    model.backend.on_product = note
    try:
        _tally(model, optimizer, images, labels, tally)
    finally:
        model.backend.on_product = None
    return products


def place_of(stage: Stage) -> Place:
    """Where the time of a stage is found."""
    if stage.kind in ("input", "loss"):
        return INPUT_AND_LOSS
    if stage.phase == UPDATE:
        return (UPDATE, "")
    return (stage.layer, "forward" if stage.phase == FORWARD else "backward")


def _tally(
    model: Sequential,
    optimizer: SGD,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    tally: _Tally,
) -> _Tally:
    """Takes one step into `tally` and returns that."""
    _pass(model, tally, partial(model.train_step, images, labels))
    started = now()
    optimizer.step(0.0)
    tally.place = ("update", "")
    tally.add(now() - started)
    return tally


def _pass(model: Sequential, tally: _Tally, run: Callable[[], object]) -> None:
    """Takes the layers that `run` calls into `tally`, and what is around them as input and loss."""
    with _timed(model, tally):
        elapsed = seconds_of(run)
    tally.place = INPUT_AND_LOSS
    tally.add(elapsed - sum(tally.seconds.values()))


def _optimizer(model: Sequential) -> SGD:
    optimizer = SGD(0.9)
    optimizer.attach(model.backend, model.groups)
    return optimizer


@contextmanager
def _timed(model: Sequential, tally: _Tally) -> Iterator[None]:
    """Has the layers timed, and the backend's methods of LOWERING, for the length of the block."""

    def observe(place: int, direction: str, run: Callable[[], Any]) -> Any:
        tally.place = (model.layers[place].name, direction)
        started = now()
        result = run()
        tally.add(now() - started)
        return result

    model.observer = observe
    for name in LOWERING:
        setattr(model.backend, name, _lowering(getattr(model.backend, name), tally))
    try:
        yield
    finally:
        model.observer = None
        for name in LOWERING:
            delattr(model.backend, name)


def _lowering(method: Callable[..., Any], tally: _Tally) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        started = now()
        result = method(*arguments, **options)
        tally.add_lowering(now() - started)
        return result

    return timed
