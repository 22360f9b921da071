"""Time, energy and power of a step on this machine, as `cnn calibrate` measured it."""

import numpy as np

from cnn.cost import Cost
from cnn.energy.calibration import Calibration
from cnn.energy.devices import Quantity
from cnn.energy.prediction import DRAWS, SEED, Prediction, Vector, predicted
from cnn.energy.tasks import tasks, work_of


def predict_calibrated(cost: Cost, calibration: Calibration) -> Prediction:
    """A step on this machine as it was calibrated: each task by the law of its kind, with the law's own deviation.

    The whole step is off by a factor of its own, of the spread that the calibration found on its probes. A kind without
    a law, or whose law knows far smaller tasks only, runs at the triad's bandwidth. The stages of a task share its time
    by their work.
    """
    rng = np.random.default_rng(SEED)
    normal: dict[str, Vector] = {}
    power = None
    if calibration.idle_watts is not None and calibration.busy_watts is not None:
        power = (calibration.idle_watts, calibration.busy_watts)
    uncalibrated, seconds = set[str](), {stage: np.zeros(1 + DRAWS) for stage in cost.stages}
    for task in tasks(cost):
        law = calibration.laws.get(task.law)
        if law is None or not law.reaches(task.work):
            uncalibrated.add(task.law)
            for stage in task.stages:
                moved = stage.bytes / calibration.triad_rate
                seconds[stage] = seconds[stage] + calibration.call_seconds * len(stage.operations) + moved
            continue
        # One deviation for all tasks of a law: most of its error is common to them.
        z = normal.setdefault(task.law, np.concatenate([[0.0], rng.standard_normal(DRAWS)]))
        time, deviation = law.seconds(task.sizes, task.work)
        drawn = time * np.exp(deviation * z)
        for stage in task.stages:
            seconds[stage] = seconds[stage] + drawn * (work_of(stage) / sum(map(work_of, task.stages)))
    z = np.concatenate([[0.0], rng.standard_normal(DRAWS)])
    seconds = {stage: time * np.exp(calibration.step_spread * z) for stage, time in seconds.items()}
    parts = []
    for stage in cost.stages:
        dynamic = None
        if power is not None:
            # Direct and Winograd convolution do other FLOP than those counted; the power is at most the busy watts.
            busy = max(stage.flops / calibration.sgemm_rate, stage.bytes / calibration.triad_rate)
            dynamic = (power[1] - power[0]) * np.minimum(busy, seconds[stage])
        parts.append((stage, calibration.backend, seconds[stage], dynamic))
    idle = None if power is None else np.full(1 + DRAWS, power[0])
    source = f"cnn calibrate, {calibration.backend} at {calibration.threads}, {calibration.date}, {calibration.cpu}"
    numbers = {
        "sgemm_gflops": calibration.sgemm_rate / 1e9,
        "stream_gbs": calibration.triad_rate / 1e9,
        "half_side": calibration.half,
        "call_us": calibration.call_seconds * 1e6,
    }
    used = {f"this machine.{name}": Quantity.of(number, "measured", source) for name, number in numbers.items()}
    remarks: tuple[str, ...] = ()
    if uncalibrated:
        remarks = (f"not calibrated, taken at the triad's rate: {', '.join(sorted(uncalibrated))}",)
    name = f"{calibration.cpu}, {calibration.backend}"
    if power is None:
        remarks += ("no energy, as the machine's watts are unknown; give them to cnn calibrate",)
    return predicted("this machine", name, cost, calibration.threads, parts, idle, used, remarks)
