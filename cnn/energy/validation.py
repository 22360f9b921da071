"""Compares the model with steps measured on this machine, and with the speed-ups of the Cornell study."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cnn.backend import Backend
from cnn.cost import Cost, count
from cnn.energy.calibrated import predict_calibrated
from cnn.energy.calibration import Calibration
from cnn.energy.devices import Device
from cnn.energy.interval import Compared, Interval
from cnn.energy.model import predict
from cnn.energy.prediction import Prediction
from cnn.energy.published import published_curves
from cnn.measure.benchmark import random_batch
from cnn.measure.profiler import LayerPass, layer_pass_of, least_times
from cnn.model.architecture import Architecture
from cnn.system.threads import limit_threads

CORNELL_BATCH = 360
"""Images of a minibatch in the Cornell study."""
CORNELL_DIFFERENCE = """\
Speed-ups are relative to one vectorised thread of the host. The study ran direct loops in double precision, each \
thread on images of its own; the model multiplies float32 matrices (im2col + GEMM), natively on both machines. The \
cost of loops on the host cancels, as its own thread is the reference. The model knows no cost of threads except \
shared bandwidth, while the study gained little from many threads. A Phi gets its speed from vectors of 16 float32 \
numbers: loops without vectors reach a 16th of it, double precision at best half, and an offload also waits for PCIe."""


@dataclass(frozen=True)
class LayerError:
    """One layer in one direction, predicted and measured."""

    layer: str
    direction: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class ValidatedStep(Compared):
    """One step predicted, and measured here with the backend `where`."""

    net: str
    where: str
    threads: int
    mode: str
    batch: int
    predicted: Interval
    measured: float
    parts: tuple[LayerError, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The case as JSON values."""
        table = vars(self) | {"predicted": self.predicted._asdict(), "error": self.error, "within": self.within}
        return table | {"parts": [vars(part) | {"error": part.error} for part in self.parts]}


def measured_layers(
    architecture: Architecture, backend: Backend, threads: int, *, training: bool, batch: int, repeats: int
) -> dict[LayerPass, float]:
    """A step measured here: the seconds of each layer, the minimum over `repeats` steps."""
    model = architecture.build(backend=backend)
    images, labels = random_batch(model, batch)
    with limit_threads(threads):
        return least_times(model, images, labels, training=training, repeats=repeats)


def validated(
    architecture: Architecture,
    calibration: Calibration,
    times: dict[LayerPass, float],
    *,
    training: bool,
    batch: int,
) -> ValidatedStep:
    """A step whose layers were measured here, beside the calibration's prediction of it."""
    prediction = predict_calibrated(count(architecture, batch, training=training), calibration)
    predicted = _by_place(prediction)
    parts = [LayerError(*place, predicted[place], times[place]) for place in times if predicted.get(place)]
    return ValidatedStep(
        net=architecture.name,
        where=calibration.backend,
        threads=calibration.threads,
        mode="train" if training else "infer",
        batch=batch,
        predicted=prediction.seconds,
        measured=sum(times.values()),
        parts=tuple(parts),
    )


def _by_place(prediction: Prediction) -> dict[LayerPass, float]:
    """Seconds by layer and direction, as the profiler names them."""
    found: dict[LayerPass, float] = {}
    for each in prediction.stages:
        place = layer_pass_of(each.stage)
        found[place] = found.get(place, 0.0) + each.seconds.value
    return found


def mean_absolute_error(cases: Iterable[ValidatedStep]) -> float | None:
    """The mean of |error|: 0 is exact, 1 is wrong by the whole measured time; None without cases."""
    errors = [abs(case.error) for case in cases]
    return sum(errors) / len(errors) if errors else None


@dataclass(frozen=True)
class CurvePoint:
    """One thread count of a published curve; both speed-ups are relative to one vectorised thread of the host."""

    device: str
    name: str
    threads: int
    published: float
    model: Interval

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON values."""
        return vars(self) | {"model": self.model._asdict()}


def cornell_curves(architecture: Architecture, devices: dict[str, Device]) -> list[CurvePoint]:
    """The Cornell study's speed-ups by threads, beside the model's for a training step as float32 GEMM.

    The study computed in double precision with direct loops. Its speed-ups are divided by that of one vectorised thread
    on the host, and the model's are relative to the same thread in the model, where everything runs natively.
    """
    curves = published_curves()
    cost: Cost = count(architecture, CORNELL_BATCH, training=True)
    host = curves[0]
    base = predict(cost, devices[host["device"]], threads=1).seconds.value
    points = []
    for curve in curves:
        for threads, speedup in zip(curve["threads"], curve["speedup"], strict=True):
            seconds = predict(cost, devices[curve["device"]], threads=threads).seconds
            published = speedup / host["speedup"][0]
            model = seconds.inverse().times(base)
            points.append(CurvePoint(curve["device"], curve["name"], threads, published, model))
    return points
