"""Measured rows: a network's step on ready backends of this machine, in turns."""

from collections.abc import Sequence

import numpy as np

from cnn.backend import Backend
from cnn.benchmark import inference_job, samples, step_job
from cnn.machine import this_machine
from cnn.recipe import Architecture
from cnn.report.row import Interval, Row
from cnn.threads import limit

INTERVAL = (0.05, 0.95)
"""Quantiles of the runs between which a measured time is said to lie."""


def measured_rows(
    net: Architecture, backends: Sequence[Backend], batch: int, *, training: bool, threads: int, rounds: int
) -> list[Row]:
    """A row a backend: the median of `rounds` runs of a batch, and the middle 90 % of them."""
    job_of = step_job if training else inference_job
    with limit(threads):
        series = samples([job_of(net, backend, batch) for backend in backends], rounds)
    return [
        Row(
            device=this_machine().cpu or "this machine",
            software=f"cnn {backend.name} ({backend.library.name} {backend.library.version})",
            net=net.name,
            batch=batch,
            mode="train" if training else "infer",
            provenance="measured",
            source=f"measured here: median and middle 90 % of {rounds} runs, backends in turns",
            threads=threads,
            seconds_per_image=_interval(times).times(1 / batch),
            note=backend.library.remark,
        )
        for backend, times in zip(backends, series, strict=True)
    ]


def _interval(times: list[float]) -> Interval:
    low, high = np.quantile(times, INTERVAL)
    return Interval(float(np.median(times)), float(low), float(high))
