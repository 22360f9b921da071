"""Whole training steps: batch in, forward, loss, backward, update; images per second besides the time."""

import pytest
from conftest import Timer
from pytest_benchmark.fixture import BenchmarkFixture

from cnn.backend import Backend
from cnn.measure.benchmark import step_job
from cnn.model.zoo import SMALL, architecture


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("network", SMALL)
def bench_training(network: str, batch: int, backend: Backend, timed: Timer, benchmark: BenchmarkFixture) -> None:
    job = step_job(architecture(network), backend, batch)
    timed(f"{job.group}, batch {batch}", job.run, job.flops)
    if benchmark.stats:
        benchmark.extra_info["images_per_second"] = round(batch / benchmark.stats.stats.median, 1)
