"""The products of every network's training step as bare GEMMs: the BLAS alone, without im2col."""

import numpy as np
import pytest
from conftest import Timer

from cnn import registry
from cnn.backend import Backend
from cnn.model.zoo import SMALL, architecture
from cnn.product import Product
from cnn.testing import Recorder, gemm_case

BATCH = 64


def products() -> dict[Product, str]:
    """Every distinct product of a step, with the first network that has it."""
    found: dict[Product, str] = {}
    for name in SMALL:
        recorder = Recorder(registry.create("numpy"))
        model = architecture(name).build(backend=recorder.backend)
        model.train_step(np.zeros((BATCH, *model.input_shape), np.uint8), np.zeros(BATCH, np.int64))
        for product in recorder.products:
            found.setdefault(product, name)
    return found


@pytest.mark.parametrize(
    ("product", "network"),
    [
        pytest.param(product, network, id=f"{network}-{product.m}x{product.n}x{product.k}")
        for product, network in products().items()
    ],
)
def bench_gemm(product: Product, network: str, backend: Backend, timed: Timer) -> None:
    case = gemm_case(
        *(product.m, product.n, product.k),
        transpose_a=product.transpose_a,
        transpose_b=product.transpose_b,
        accumulate=product.accumulate,
    )
    bound = case.bind(backend, case.make(np.random.default_rng(0), np.float32))
    timed(f"gemm {network} {case.name}", bound.run, case.flops)
