"""Predicted steps on many nodes: what every node is, and the curve of each link."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnn.cost import Cost, count, gradient_bytes
from cnn.energy.calibrated import predict_calibrated
from cnn.energy.calibration import Calibration
from cnn.energy.devices import Quantity
from cnn.energy.links import Link
from cnn.energy.model import Thresholds
from cnn.energy.prediction import Prediction
from cnn.energy.scaling import StepTime, curve, step_of
from cnn.errors import UsageError
from cnn.model.architecture import Architecture
from cnn.report.curve import Curve
from cnn.report.predicted import Target


@dataclass(frozen=True)
class Node:
    """What every node is: its name, its prediction of a step, and its memory's bandwidth in 1e9 bytes per second."""

    name: str
    predict: Callable[[Cost], Prediction]
    memory: Quantity

    @classmethod
    def of_target(
        cls, target: Target, thresholds: Thresholds, threads: int | None = None, library: str = "im2col"
    ) -> "Node":
        """A target of the catalogue. Raises UsageError if its bandwidth is unknown."""
        device = target.device
        memory = (target.host or device).stream_gbs
        if memory is None:
            raise UsageError(
                f"No scaling can be predicted for {device.name}: stream_gbs unknown; add it in a TOML file of your own "
                "(--devices)."
            )
        name = f"{device.name}, {target.how}" if target.how else device.name
        return cls(name, lambda cost: target.predict(cost, thresholds, threads, library), memory)

    @classmethod
    def of_calibration(cls, calibration: Calibration) -> "Node":
        """This machine."""
        memory = Quantity.of(calibration.triad_rate / 1e9, "measured", "cnn calibrate")
        name = f"{calibration.cpu}, {calibration.backend}"
        return cls(name, lambda cost: predict_calibrated(cost, calibration), memory)


def curves(
    architecture: Architecture, node: Node, links: Sequence[Link], counts: Sequence[int], batch: int, *, weak: bool
) -> list[Curve]:
    """The curve of each link. Raises UsageError if strong scaling has more nodes than images."""
    gradients = gradient_bytes(architecture)
    predictions: dict[int, Prediction] = {}

    def step_at(own: int) -> StepTime:
        if own not in predictions:
            predictions[own] = node.predict(count(architecture, own, training=True))
        return step_of(predictions[own], gradients, node.memory)

    found = []
    for link in links:
        points = tuple(curve(step_at, link, counts, batch, weak=weak))
        used = [name for name, each in link.quantities().items() if each.confidence == "unverified"]
        unknown = [] if link.overlap else ["overlap"]
        unverified = [*predictions[batch].unverified, *(f"{link.key}.{name}" for name in (*used, *unknown))]
        found.append(Curve(node.name, link, weak, batch, points, tuple(unverified)))
    return found
