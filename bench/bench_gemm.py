"""The products of every network's layers, as bare GEMMs: the BLAS alone, without im2col."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cnn.backend import Backend
from cnn.testing import Recorder
from cnn.zoo import ZOO

BATCH = 64


def products() -> dict[str, tuple[int, int, int, bool, bool]]:
    """Every distinct (M, N, K, transpose a, transpose b) of a training step, named by the first network that has it."""
    found: dict[tuple[int, int, int, bool, bool], str] = {}
    for name, build in ZOO.items():
        model = build(10).build(backend="numpy")
        with Recorder(model.backend) as recorder:
            model.train_step(np.zeros((BATCH, *model.input_shape), np.uint8), np.zeros(BATCH, np.int64))
        for call in recorder.calls:
            found.setdefault((call.m, call.n, call.k, call.transpose_a, call.transpose_b), name)
    return {f"{name} {m}x{n}x{k}{' At' * ta}{' Bt' * tb}": (m, n, k, ta, tb) for (m, n, k, ta, tb), name in found.items()}
