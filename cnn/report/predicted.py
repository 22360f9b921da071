"""Predicted rows: a network's step on devices of the catalogue, and on this machine as it was calibrated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cnn.cost import Cost
from cnn.energy.calibrated import predict_calibrated
from cnn.energy.calibration import Calibration
from cnn.energy.devices import Device
from cnn.energy.model import Thresholds, predict
from cnn.energy.prediction import Prediction
from cnn.energy.published import tested_devices
from cnn.errors import UsageError
from cnn.report.comparison import Breakdown, StageTime, mode_name
from cnn.report.row import Row
from cnn.words import unknown

UNTESTED = "the time of any network on it"
"""What is said of a device of which no published step of im2col + GEMM is known."""


@dataclass(frozen=True)
class Target:
    """Where a step runs: on a device, or on a host that offloads to it."""

    device: Device
    host: Device | None = None

    @property
    def how(self) -> str | None:
        """What to say after the device's name."""
        if self.host:
            return f"offloaded to by {self.host.name}"
        return "by itself" if self.device.kind == "coprocessor" else None

    def predict(
        self, cost: Cost, thresholds: Thresholds, threads: int | None = None, library: str = "im2col"
    ) -> Prediction:
        """A step there, on `threads` of a processor, computed as `library` does. Raises UsageError if it is unknown."""
        if (self.host or self.device).kind == "gpu":
            threads = None
        offload = thresholds if self.host else None
        return predict(cost, self.device, threads=threads, host=self.host, offload=offload, library=library)


def targets(texts: Sequence[str], devices: Mapping[str, Device]) -> list[Target]:
    """The places that KEY and CARD@HOST name. Raises UsageError for a key that is not in the catalogue."""
    found = []
    for text in texts:
        keys = text.split("@")
        for key in keys:
            if key not in devices:
                raise unknown("There is no device", key, devices, ", and CARD@HOST for a card that a host offloads to")
        if len(keys) > 2:
            raise UsageError(f"{text} names {len(keys)} devices; give one, or CARD@HOST for a card and its host.")
        found.append(Target(*(devices[key] for key in keys)))
    return found


def predict_at(
    cost: Cost, target: Target, thresholds: Thresholds, threads: int | None = None, library: str = "im2col"
) -> tuple[Row, Breakdown]:
    """The row and the breakdown of a step there. Raises UsageError for what is unknown."""
    device = target.device
    prediction = target.predict(cost, thresholds, threads, library)
    how = ", ".join(text for text in (target.how, library if library != "im2col" else None) if text)
    row = _row(prediction, device.name, how or None, "the model, with the catalogue's numbers (`cnn devices`)")
    if device.origin == "catalogue" and (target.host or device.key not in tested_devices()):
        row = replace(row, unverified=(*row.unverified, UNTESTED))
    # Two devices have no common roofline.
    roof, memory = device.peak_gflops or device.sgemm_gflops, device.stream_gbs
    if target.host or roof is None or memory is None:
        return row, _breakdown(prediction, row.label, None, None)
    return row, _breakdown(prediction, row.label, roof.value * 1e9, memory.value * 1e9)


def predict_here(cost: Cost, calibration: Calibration) -> tuple[Row, Breakdown]:
    """The row and the breakdown of a step on this machine."""
    prediction = predict_calibrated(cost, calibration)
    source = f"the model, with `cnn calibrate` of {calibration.date}"
    row = _row(prediction, calibration.cpu, calibration.backend, source)
    return row, _breakdown(prediction, row.label, calibration.sgemm_rate, calibration.triad_rate)


def _row(prediction: Prediction, device: str, software: str | None, source: str) -> Row:
    cost = prediction.cost
    return Row(
        device=device,
        software=software,
        net=cost.net,
        batch=cost.batch,
        mode=mode_name(cost),
        provenance="predicted",
        source=source,
        threads=prediction.threads,
        seconds_per_image=prediction.seconds.times(1 / cost.batch),
        watts=prediction.watts,
        joules_per_image=prediction.joules_per_image,
        energy="unavailable" if prediction.joules is None else "modelled",
        unverified=tuple(_short(prediction.unverified)),
        note="; ".join(prediction.remarks) or None,
    )


def _breakdown(prediction: Prediction, device: str, peak: float | None, bandwidth: float | None) -> Breakdown:
    stages = [StageTime(each.stage, each.seconds, each.joules) for each in prediction.stages if each.stage.operations]
    return Breakdown(device, tuple(stages), peak, bandwidth)


def _short(names: Sequence[str]) -> list[str]:
    """Names of numbers, without the device's key if all have the same."""
    if len({name.partition(".")[0] for name in names}) > 1:
        return list(names)
    return [name.partition(".")[2] for name in names]
