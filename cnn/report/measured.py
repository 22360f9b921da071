"""Measured rows: a network's step on ready backends of this machine, and its energy if there is a meter."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil

import numpy as np

from cnn.backend import Backend
from cnn.energy.interval import LEAST, MOST, Interval
from cnn.energy.meters import open_meter
from cnn.measure.benchmark import Job, busy, inference_job, samples, step_job
from cnn.measure.other_work import OtherWork
from cnn.meter import Energy, Meter
from cnn.model.architecture import Architecture
from cnn.report.row import Row
from cnn.system.machine import this_machine
from cnn.system.threads import limit_threads
from cnn.system.timing import repeat, seconds_of
from cnn.words import counted

STRETCH = 3.0
"""Seconds that a job is repeated for while a meter counts: some meters are read every other second."""


def measured_rows(
    architecture: Architecture,
    backends: Sequence[Backend],
    batch: int,
    *,
    training: bool,
    threads: int,
    rounds: int,
    watts: float | None = None,
) -> list[Row]:
    """One row per backend: the median of `rounds` runs of a batch, and the middle 90 % of them.

    The energy comes from the meters of the parts of the computer that the backend uses, or from `watts`.
    """
    job_of = step_job if training else inference_job
    rows = []
    with limit_threads(threads):
        jobs = [job_of(architecture, backend, batch) for backend in backends]
        with OtherWork() as others:
            measured = samples(jobs, rounds)
        rates = {job.backend: [1 / seconds for seconds in times] for job, times in zip(jobs, measured, strict=True)}
        disturbed = busy(rates, others.share)
        for backend, job, times in zip(backends, jobs, measured, strict=True):
            low, middle, high = map(float, np.quantile(times, (LEAST, 0.5, MOST)))
            with open_meter(backend.powered, watts=watts) as meter:
                energy, drawn = _energy(meter, job, middle)
            rows.append(
                Row(
                    device=this_machine().cpu or "this machine",
                    software=f"{backend.name} ({backend.library.name} {backend.library.version})",
                    net=architecture.name,
                    batch=batch,
                    mode="train" if training else "infer",
                    provenance="measured",
                    source=f"this machine: median and middle 90 % of {counted(rounds, 'run')}; energy: {energy.source}",
                    threads=threads,
                    seconds_per_image=Interval(middle, low, high).times(1 / batch),
                    watts=None if drawn is None else Interval(drawn),
                    joules_per_image=None if energy.joules is None else Interval(energy.joules / batch),
                    energy=energy.kind,
                    busy=disturbed,
                    note=backend.library.remark,
                )
            )
    return rows


def _energy(meter: Meter, job: Job, seconds: float) -> tuple[Energy, float | None]:
    """The energy of one run, which takes `seconds`, and the watts drawn in it."""
    if meter.kind != "measured":
        # A model uses only these two numbers.
        energy = meter.stop(job.images, seconds)
        return energy, None if energy.joules is None else energy.joules / seconds
    runs = ceil(STRETCH / seconds)
    meter.start()
    elapsed = seconds_of(partial(repeat, job.run, runs))
    energy = meter.stop(runs * job.images, elapsed)
    if energy.joules is None:
        return energy, None
    return replace(energy, joules=energy.joules / runs), energy.joules / elapsed
