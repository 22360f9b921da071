"""Every layer of every network forward and backward, and every case of the backends' contract."""

from functools import lru_cache

import numpy as np
import pytest
from conftest import Timer

from cnn.backend import Backend
from cnn.measure.benchmark import Job, layer_jobs
from cnn.model.zoo import SMALL, architecture
from cnn.testing import CASES, Case

BATCH = 64

LAYERS = [(name, layer) for name in SMALL for layer in range(len(architecture(name).network.layers))]


@lru_cache(maxsize=1)
def jobs_of(network: str, backend: Backend) -> list[Job]:
    """The jobs of one network, cached for its next layer."""
    return list(layer_jobs(architecture(network), backend, BATCH))


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("network", "layer"), LAYERS, ids=[f"{name}-{layer}" for name, layer in LAYERS])
def bench_layer(network: str, layer: int, direction: str, backend: Backend, timed: Timer) -> None:
    job = jobs_of(network, backend)[2 * layer + (direction == "backward")]
    timed(job.group, job.run, job.flops)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def bench_case(case: Case, backend: Backend, timed: Timer) -> None:
    bound = case.bind(backend, case.make(np.random.default_rng(0), np.float32))
    timed(f"case {case.operation} {case.name}", bound.run, case.flops)
