"""Times a step by layer and direction, and divides each time into im2col (and col2im), GEMM and the rest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from cnn.arithmetic import Operation
from cnn.backend import Backend
from cnn.cost import FORWARD, UPDATE, Stage, count, moved_precision
from cnn.instruments import AlgorithmChoice
from cnn.layers import Conv2D
from cnn.measure.benchmark import random_batch
from cnn.model.architecture import Architecture
from cnn.model.passes import SETTLED
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD
from cnn.precision import chosen
from cnn.product import ProductReport
from cnn.system.perf_events import Counters
from cnn.system.timing import Stopwatch, Times, now, seconds_of

LOWERING = ("im2col", "col2im")
"""Operations of a backend that are timed separately; a backend that lowers inside its kernels does not call them."""

LayerPass = tuple[str, str]
INPUT_AND_LOSS: LayerPass = ("input and loss", "")


@dataclass
class Line:
    """One layer in one direction: median seconds per step, in total and by phase, FLOP of its products, and bytes.

    The bytes are those that it has to read and write at least; 0 where there are products, which reread the caches.
    `times` are the seconds of each step.
    """

    layer: str
    direction: str
    seconds: float
    im2col: float
    gemm: float
    flops: int
    bytes: int
    times: Times = field(default_factory=Times)

    @property
    def rest(self) -> float:
        """Seconds that were neither im2col nor GEMM."""
        return max(0.0, self.seconds - self.im2col - self.gemm)


@dataclass
class _Tally:
    """Seconds of one step by layer and direction, and how many of them were spent in operations of LOWERING."""

    seconds: dict[LayerPass, float] = field(default_factory=dict)
    lowering: dict[LayerPass, float] = field(default_factory=dict)
    place: LayerPass = ("", "")

    def add(self, seconds: float, lowering: float = 0.0) -> None:
        self.seconds[self.place] = self.seconds.get(self.place, 0.0) + seconds
        self.lowering[self.place] = self.lowering.get(self.place, 0.0) + lowering


def profile_step(
    architecture: Architecture, backend: Backend, batch: int, *, repeats: int = 10, training: bool = True
) -> list[Line]:
    """The lines of a training step with SGD on random images, each layer run by itself, after some steps to warm up.

    Without `training` they are those of the classification of a batch.

    The time of the products is the time of the step minus that of the same step without products. Where lowering
    happens inside kernels, im2col is the time of a convolution without its products, bias and activation included.
    Reading the batch and the loss are one line, the weight update another. The learning rate is 0: weights stay.
    """
    lowering = Stopwatch()
    timed = backend.instruments.timed(LOWERING, lowering)
    whole = _steps(architecture, timed, batch, repeats, lowering, training=training)
    # Without products the arrays hold arbitrary values; if they overflow, it does not matter.
    with np.errstate(all="ignore"):
        bare = _steps(architecture, backend.instruments.without_products(), batch, repeats, training=training)
    moved_in = moved_precision(chosen(architecture.precision), backend)
    counted: dict[LayerPass, list[Operation]] = {}
    for stage in count(architecture, batch, training=training, precision=moved_in).stages:
        if not stage.folded:
            counted.setdefault(layer_pass_of(stage), []).extend(stage.operations)
    lines = []
    for place in whole[0].seconds:
        times = Times(tally.seconds[place] for tally in whole)
        seconds = times.median
        around = median(tally.seconds[place] for tally in bare)
        im2col = median(tally.lowering[place] for tally in whole)
        operations = counted.get(place, [])
        flops = sum(each.flops for each in operations if each.sizes)
        lowers = any(each.kind in LOWERING for each in operations)
        if lowers and not im2col:
            im2col = min(seconds, around)
        gemm = max(0.0, min(seconds - around, seconds - im2col)) if flops else 0.0
        moved = 0 if flops else sum(each.bytes for each in operations)
        lines.append(Line(*place, seconds=seconds, im2col=im2col, gemm=gemm, flops=flops, bytes=moved, times=times))
    return lines


def _steps(
    architecture: Architecture,
    backend: Backend,
    batch: int,
    repeats: int,
    lowering: Stopwatch | None = None,
    *,
    training: bool = True,
) -> list[_Tally]:
    """`repeats` steps of a new model on the backend; `lowering` counts the time of its operations of LOWERING."""
    model = architecture.build(backend=backend)
    images, labels = random_batch(model, batch)
    optimizer = _optimizer(model)
    tallies = []
    for _ in range(SETTLED + repeats):
        tally = _Tally()
        if training:
            _step(model, optimizer, images, labels, tally, lowering)
        else:
            _pass(model, tally, partial(model.predict, images, batch_size=batch), lowering)
        tallies.append(tally)
    return tallies[SETTLED:]


def least_times(
    model: Sequential,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    *,
    training: bool,
    repeats: int,
) -> dict[LayerPass, float]:
    """The minimum seconds of each layer and direction over `repeats` steps, after some to warm up.

    A step is a training step with SGD at a rate of 0, or the classification of the batch. A disturbance hits only some
    layers of a step: the sum of these times is closer to an undisturbed step than the fastest step is.
    """
    optimizer = _optimizer(model)
    tallies = []
    for _ in range(SETTLED + repeats):
        tally = _Tally()
        if training:
            _step(model, optimizer, images, labels, tally)
        else:
            _pass(model, tally, partial(model.predict, images, batch_size=len(images)))
        tallies.append(tally.seconds)
    return {place: min(seconds[place] for seconds in tallies[SETTLED:]) for place in tallies[-1]}


def whole_step(
    architecture: Architecture, backend: Backend, batch: int, *, repeats: int = 10, training: bool = True
) -> tuple[Times, float | None]:
    """Seconds of whole training steps, and how many of a step's are spent outside compiled kernels, the median.

    Without `training`, of classifying a batch. The latter is None for a backend that does not work in compiled kernels.
    """
    model = architecture.build(backend=backend)
    images, labels = random_batch(model, batch)
    optimizer = _optimizer(model)

    def step() -> None:
        if training:
            model.train_step(images, labels)
            optimizer.step(0.0)
        else:
            model.predict(images, batch_size=batch)

    seconds, outside = Times(), []
    with backend.instruments.timed_kernels() as stopwatch:
        inside = stopwatch or Stopwatch()
        for _ in range(SETTLED + repeats):
            inside.seconds = 0.0
            seconds.append(seconds_of(step))
            outside.append(seconds[-1] - inside.seconds)
    return Times(seconds[SETTLED:]), None if stopwatch is None else median(outside[SETTLED:])


def layer_counts(
    architecture: Architecture, backend: Backend, batch: int, counters: Counters, *, repeats: int, training: bool
) -> dict[LayerPass, dict[str, float]]:
    """The processor's counts of each layer and direction in one step: medians over `repeats` steps, by counter."""
    model = architecture.build(backend=backend)
    images, labels = random_batch(model, batch)
    optimizer = _optimizer(model)
    found: dict[LayerPass, list[dict[str, float]]] = {}

    def observe(place: int, direction: str, run: Callable[[], None]) -> None:
        before = counters.read()
        run()
        after = counters.read()
        counts = {name: after[name] - before[name] for name in after}
        found.setdefault((model.network.nodes[place].name, direction), []).append(counts)

    model.network.observer = observe
    try:
        for _ in range(SETTLED + repeats):
            if training:
                model.train_step(images, labels)
                optimizer.step(0.0)
            else:
                model.predict(images, batch_size=batch)
    finally:
        model.network.observer = None
    return {
        place: {name: median(each[name] for each in counts[-repeats:]) for name in counts[-1]}
        for place, counts in found.items()
    }


@dataclass(frozen=True)
class LayerProduct:
    """A product of a step: its layer, its direction (forward, weight gradient or data gradient), and where it ran."""

    layer: str
    direction: str
    report: ProductReport


def reported_products(
    architecture: Architecture, backend: Backend, batch: int, *, training: bool = True
) -> list[LayerProduct]:
    """The products of one step on random images, as far as the backend reports where it ran them."""
    tally, products = _Tally(), list[LayerProduct]()

    def note(report: ProductReport) -> None:
        layer, direction = tally.place
        if direction == "backward":
            # dw = x^T dy, dx = dy w^T.
            direction = "weight gradient" if report.product.transpose_a else "data gradient"
        products.append(LayerProduct(layer, direction, report))

    reporting = backend.instruments.reporting(note)
    if reporting is not None:
        model = architecture.build(backend=reporting)
        images, labels = random_batch(model, batch)
        if training:
            _step(model, _optimizer(model), images, labels, tally)
        else:
            _pass(model, tally, partial(model.predict, images, batch_size=batch))
    return products


class ConvolutionChoice(NamedTuple):
    """The algorithm of a convolution: forward, weight gradient or data gradient; its times are of `images` images."""

    direction: str
    images: int
    choice: AlgorithmChoice


def algorithms_by_layer(
    architecture: Architecture, batch: int, threads: int, choices: Mapping[str, AlgorithmChoice]
) -> dict[LayerPass, list[ConvolutionChoice]]:
    """The algorithms by layer and direction, from those by shape; backward has both gradients."""
    found: dict[LayerPass, list[ConvolutionChoice]] = {}
    if choices:
        # A backend with a choice of algorithms has loaded it.
        from cnn.compiled.convolution import Problem

        for node in architecture.network.nodes:
            if isinstance(node.layer, Conv2D):
                convolution = node.layer.convolution_on(*node.input_shapes)
                for each in ("forward", "weight gradient", "data gradient"):
                    problem = Problem(each, convolution, batch, threads)
                    choice = choices.get(str(problem))
                    if choice is not None:
                        measured = problem.alike.fullmatch(choice.source)
                        place = node.name, "forward" if each == "forward" else "backward"
                        images = int(measured[1]) if measured else batch
                        found.setdefault(place, []).append(ConvolutionChoice(each, images, choice))
    return found


def layer_pass_of(stage: Stage) -> LayerPass:
    """The layer and direction that the time of a stage belongs to."""
    if stage.kind in ("input", "loss"):
        return INPUT_AND_LOSS
    if stage.phase == UPDATE:
        return (UPDATE, "")
    return (stage.layer, "forward" if stage.phase == FORWARD else "backward")


def _step(
    model: Sequential,
    optimizer: SGD,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    tally: _Tally,
    lowering: Stopwatch | None = None,
) -> None:
    """Takes one training step into `tally`."""
    _pass(model, tally, partial(model.train_step, images, labels), lowering)
    started = now()
    optimizer.step(0.0)
    tally.place = ("update", "")
    tally.add(now() - started)


def _pass(model: Sequential, tally: _Tally, run: Callable[[], object], lowering: Stopwatch | None = None) -> None:
    """Records in `tally` the layers that `run` calls, and the time around them as input and loss."""
    stopwatch = lowering or Stopwatch()

    def observe(place: int, direction: str, run: Callable[[], None]) -> None:
        tally.place = (model.network.nodes[place].name, direction)
        before = stopwatch.seconds
        started = now()
        run()
        tally.add(now() - started, stopwatch.seconds - before)

    model.network.observer = observe
    try:
        elapsed = seconds_of(run)
    finally:
        model.network.observer = None
    tally.place = INPUT_AND_LOSS
    tally.add(elapsed - sum(tally.seconds.values()))


def _optimizer(model: Sequential) -> SGD:
    optimizer = SGD(0.9)
    optimizer.attach(model.backend, model.groups)
    return optimizer
