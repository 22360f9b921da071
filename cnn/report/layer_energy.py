"""Joules of each layer of a step: measured by repeating the layer under a meter, or modelled; never mixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil

from cnn.backend import Backend
from cnn.cost import count
from cnn.energy.calibrated import predict_calibrated
from cnn.energy.calibration import find
from cnn.energy.meters import open_meter
from cnn.errors import CnnError
from cnn.measure.benchmark import layer_jobs
from cnn.measure.profiler import LayerPass, layer_pass_of
from cnn.meter import Kind, Meter
from cnn.model.architecture import Architecture
from cnn.system.threads import in_words
from cnn.system.timing import repeat, seconds_of

STRETCH = 1.0
"""Seconds that a layer is repeated for under a meter."""


@dataclass(frozen=True)
class LayerEnergy:
    """Joules by layer and direction for one step, how they are known, and what they come from or why there are none."""

    joules: Mapping[LayerPass, float]
    kind: Kind
    source: str


def layer_energy(
    architecture: Architecture,
    backend: Backend,
    batch: int,
    threads: int,
    seconds: Mapping[LayerPass, float],
    *,
    training: bool,
    watts: float | None = None,
    measure: bool = False,
) -> LayerEnergy:
    """By `watts` if they are given, else with `measure` by the meters that are ready, else by the calibration.

    `seconds` are those of each layer and direction.
    """
    if watts is not None:
        joules = {place: watts * each for place, each in seconds.items()}
        return LayerEnergy(joules, "modelled", f"{watts:g} W, as given, times the seconds of the layer")
    if measure:
        with open_meter(backend.powered) as meter:
            if meter.kind == "measured":
                return _measured(architecture, backend, batch, meter, training)
            reason = f"{meter.source}; "
    else:
        reason = ""
    return _modelled(architecture, backend, batch, threads, training, reason)


def _measured(architecture: Architecture, backend: Backend, batch: int, meter: Meter, training: bool) -> LayerEnergy:
    joules: dict[LayerPass, float] = {}
    for job in layer_jobs(architecture, backend, batch):
        name, direction = job.group.removeprefix(f"{architecture.name} ").rsplit(" ", 1)
        if direction == "backward" and not training:
            continue
        repeat(job.run, 2)
        runs = ceil(STRETCH / max(1e-7, seconds_of(job.run)))
        meter.start()
        elapsed = seconds_of(partial(repeat, job.run, runs))
        energy = meter.stop(runs * batch, elapsed)
        if energy.joules is None:
            return LayerEnergy({}, "unavailable", energy.source)
        joules[name, direction] = energy.joules / runs
    source = f"{meter.source}; each layer repeated for {STRETCH:g} s, with what the machine uses when idle"
    return LayerEnergy(joules, "measured", source)


def _modelled(
    architecture: Architecture, backend: Backend, batch: int, threads: int, training: bool, reason: str
) -> LayerEnergy:
    try:
        calibration = find(backend.name, threads)
        if calibration is None or calibration.idle_watts is None or calibration.busy_watts is None:
            missing = f"{backend.name} at {in_words(threads)} has no calibration with watts"
            cure = "`cnn calibrate` with --idle-watts and --busy-watts makes one"
            return LayerEnergy({}, "unavailable", f"{reason}{missing} ({cure})")
        prediction = predict_calibrated(count(architecture, batch, training=training), calibration)
    except CnnError as error:
        return LayerEnergy({}, "unavailable", f"{reason}{error}")
    joules: dict[LayerPass, float] = {}
    for each in prediction.stages:
        if each.joules is not None:
            place = layer_pass_of(each.stage)
            joules[place] = joules.get(place, 0.0) + each.joules.value
    return LayerEnergy(joules, "modelled", f"the calibration of {calibration.date}")
