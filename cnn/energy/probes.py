"""The stages a machine is calibrated by: single layers over the sizes that CNNs have, none of them a network's own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from time import perf_counter
from typing import NamedTuple

import numpy as np

from cnn.arrays import Buffers
from cnn.backend import Backend
from cnn.cost import DATA, FORWARD, WEIGHT, Stage, input_stage, layer_stages, loss_stage, update_stage
from cnn.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    ReLU,
    Setting,
    Sigmoid,
    Tanh,
)
from cnn.layers.layer import Parameter
from cnn.losses import SoftmaxCrossEntropy
from cnn.ops.input import Changes
from cnn.optimizers import SGD

ELEMENTS = 1 << 22
"""The largest array of a probe, 16 MiB."""
FLOPS = 2_000_000_000
"""The largest product of a probe."""
TURNS = 24
"""Probes that take turns: their arrays push each other out of the caches as the layers of a network do."""


class Probe(NamedTuple):
    """A layer on `batch` images of `shape`."""

    layer: Layer
    shape: tuple[int, ...]
    batch: int


@dataclass
class Timing:
    """A stage, how to run it, and the least seconds that took so far.

    The data gradient of a layer with weights runs together with their gradient, and its seconds are of both.
    """

    stage: Stage
    run: Callable[[], object]
    seconds: float = float("inf")


def probes() -> Iterator[Probe]:
    """Layers drawn over the sizes of CNNs, and the smallest of each kind, which shows the overhead."""
    rng = np.random.default_rng(5)

    def some(low: float, high: float) -> int:
        """A whole number, its logarithm drawn evenly."""
        return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))

    def width() -> int:
        """Channels or filters: as often as not a multiple of 16, as most networks have."""
        return 16 * some(1, 18) if rng.random() < 0.6 else some(4, 260)

    for number in range(120):
        kernel = (3, 5)[int(rng.random() < 0.4)]
        # Every fifth is a first layer, on grey or colour pictures.
        first = number % 5 == 0
        channels = (1, 3)[number % 2] if first else width()
        side = some(24, 40) if first else some(kernel + 1, 34)
        layer = Conv2D(width(), kernel, padding=(0, kernel // 2)[int(rng.random() < 0.6)], activation="relu")
        yield from _fitting(layer, (side, side, channels), some(16, 130) if number % 4 else some(1, 8))
    for number in range(48):
        linear = Linear((10, some(8, 1000))[number % 4 > 0], activation="relu")
        yield from _fitting(linear, (some(32, 4000),), some(16, 130) if number % 3 else some(1, 8))
    yield Probe(Conv2D(1, 1, padding=1, activation="relu"), (1, 1, 1), 1)
    yield Probe(Linear(1, activation="relu"), (1,), 1)
    for kind in (MaxPool2D, AvgPool2D):
        for number in range(16):
            side = some(6, 34)
            yield from _fitting(kind((2, 3)[number % 2], 2, ceil=True), (side, side, some(4, 130)), some(1, 130))
        yield Probe(kind(1), (1, 1, 1), 1)
    flat: list[Callable[[], Layer]] = [
        ReLU,
        Tanh,
        Sigmoid,
        BatchNorm,
        Dropout,
        LocalResponseNorm,
        lambda: LocalResponseNorm(3, region="within"),
    ]
    for make in flat:
        for _ in range(8):
            side = some(4, 34)
            yield from _fitting(make(), (side, side, some(4, 130)), some(1, 130))
        yield Probe(make(), (1, 1, 1), 1)


def _fitting(layer: Layer, shape: tuple[int, ...], batch: int) -> Iterator[Probe]:
    """The probe with as many images as its limits allow."""
    one = layer_stages("", layer, shape, 1, training=False)[0]
    largest = max(prod(shape), prod(layer.shape_after(shape)))
    most = min(batch, ELEMENTS // largest, FLOPS // max(one.gemm_flops, 1))
    yield Probe(layer, shape, max(1, most))


def timings(probe: Probe, backend: Backend) -> list[Timing]:
    """The stages of a probe, ready to run."""
    rng = np.random.default_rng(0)
    layer, stages = probe.layer, layer_stages("", probe.layer, probe.shape, probe.batch)
    layer.build(probe.shape, Setting(backend, np.float32, rng, Buffers(backend)))
    x = backend.asarray(rng.standard_normal((probe.batch, *probe.shape)), np.float32)

    ahead = partial(layer.forward, x, training=True)
    dy = backend.asarray(rng.standard_normal(ahead().shape), np.float32)
    by_phase = {stage.phase: stage for stage in stages}
    found = [Timing(by_phase[FORWARD], ahead), Timing(by_phase[DATA], partial(layer.backward, dy))]
    if WEIGHT in by_phase:
        found.append(Timing(by_phase[WEIGHT], partial(layer.backward_parameters, dy)))
    return found


def other_timings(backend: Backend) -> list[Timing]:
    """Reading a batch, the loss and the update, from one element up."""
    rng = np.random.default_rng(0)
    found = []
    for batch, side, channels in (
        (1, 1, 1),
        (1, 28, 1),
        (1, 32, 3),
        (16, 28, 1),
        (16, 32, 3),
        (100, 28, 1),
        (100, 32, 3),
    ):
        images = rng.integers(0, 256, (batch, side, side, channels), np.uint8)
        x = backend.empty(images.shape, np.float32)
        load = partial(backend.load_batch, images, np.arange(len(images)), Changes(), 1 / 256, None, None, x)
        found.append(Timing(input_stage(images.size), load))
    for images_, classes in ((1, 2), (1, 10), (8, 10), (64, 10), (128, 10), (64, 100), (128, 1000)):
        scores = backend.asarray(rng.standard_normal((images_, classes)), np.float32)
        labels = backend.asarray(rng.integers(0, classes, images_), np.int64)
        slopes = backend.empty(scores.shape, np.float32)

        loss = partial(SoftmaxCrossEntropy().evaluate, backend, scores, labels, slopes)
        found.append(Timing(loss_stage(images_ * classes), loss))
    for count in (1, 1_000, 20_000, 100_000, 400_000, 2_000_000):
        optimizer = SGD(0.9)
        optimizer.attach(
            backend, [Parameter("w", backend.zeros((count,), np.float32), backend.zeros((count,), np.float32))]
        )

        found.append(Timing(update_stage(count), partial(optimizer.step, 0.0)))
    return found


def take_turns(timed: list[Timing], rounds: int) -> None:
    """Runs all in turns, once to warm up and then for `rounds`, and keeps the least seconds of each."""
    for turn in range(1 + rounds):
        for timing in timed:
            started = perf_counter()
            timing.run()
            elapsed = perf_counter() - started
            if turn:
                timing.seconds = min(timing.seconds, elapsed)
