"""Every backend keeps the contract, and each planted fault is rejected with its own message."""

from typing import Any

import numpy as np
import pytest
from helpers.broken_backends import FAULTS, planted
from helpers.ready_backends import ALL, ready

from cnn import registry
from cnn.arrays import Buffers
from cnn.backend import Backend
from cnn.convolution import Convolution, Window
from cnn.instruments import private
from cnn.model.zoo import architecture
from cnn.ops.input import Input
from cnn.ops.memory import Memory
from cnn.testing import (
    CASES,
    ContractViolation,
    Product,
    Recorder,
    check_backend,
    check_threads,
    concurrency,
    conv_cases,
    gemm_case,
)
from cnn.testing.contract import check_input, check_memory


@pytest.mark.parametrize("name", ALL)
def test_backend_keeps_the_contract(name):
    backend = ready(name)
    report = check_backend(backend)
    assert report.runs == len(CASES) + sum(not case.only_float32 for case in CASES) * (len(backend.dtypes) - 1)
    assert set(report.worst) == {case.operation for case in CASES}
    assert max(report.worst.values()) <= 1
    assert name in str(report)


@pytest.mark.parametrize("name", ["numpy", "mkl-offload", "mkl-phi"])
@pytest.mark.parametrize(("broken", "message"), FAULTS, ids=[broken.__name__ for broken, _ in FAULTS])
def test_planted_fault_is_rejected(broken, message, name, monkeypatch):
    ready(name)
    # On a busy machine threads may not meet within the time that is enough on an idle one.
    monkeypatch.setattr(concurrency, "PATIENCE", 10.0)
    with pytest.raises(ContractViolation, match=message):
        check_backend(planted(broken, name))


@pytest.mark.parametrize("broken", [broken for broken, message in FAULTS if "threads" in message])
def test_shared_state_is_found_time_and_again(broken):
    for seed in range(5):
        with pytest.raises(ContractViolation, match="threads at once"):
            check_threads(planted(broken, "numpy"), CASES, seed)


def operations(kind: type[Any]) -> set[str]:
    """The public methods of a class."""
    return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}


def test_every_operation_has_a_case_or_a_check_of_its_own():
    assert {case.operation for case in CASES} == operations(Backend) - operations(Memory) - operations(Input) - {
        "in_precision"
    }


@pytest.mark.parametrize(("check", "base"), [(check_memory, Memory), (check_input, Input)])
def test_what_has_no_case_is_called_by_its_check(check, base):
    called = set()

    def note(name):
        def run(operation, *arguments, **options):
            called.add(name)
            return operation(*arguments, **options)

        return run

    check(private(registry.create("numpy"), **{name: note(name) for name in operations(base)}))
    assert called == operations(base)


def test_cases_have_names_of_their_own():
    names = [(case.operation, case.name) for case in CASES]
    assert len(names) == len(set(names))


def test_bound_of_a_product_is_the_stated_one():
    case = gemm_case(3, 4, 5, transpose_a=True, transpose_b=False, accumulate=True)
    inputs = case.make(np.random.default_rng(0), np.float32)
    a, b, out = (inputs[name].astype(np.float64) for name in ("a", "b", "out"))
    expected = case.expected(inputs)
    np.testing.assert_allclose(expected["out"], out + a.T @ b, rtol=1e-14)
    eps = 2.0**-23
    stated = (5 + 2) * eps * (np.abs(a.T) @ np.abs(b)) + eps * np.abs(out)
    np.testing.assert_allclose(case.allowed(inputs, expected, np.float32)["out"], stated, rtol=1e-14)


def test_conv_cases_count_flops_and_can_be_timed():
    convolution = Convolution(Window((6, 5), (3, 3), padding=(1, 1, 1, 1)), 3, 4)
    forward, weight, data = conv_cases("a layer", convolution, n=2)
    assert [case.operation for case in (forward, weight, data)] == [
        "conv2d",
        "conv2d_weight_gradient",
        "conv2d_data_gradient",
    ]
    assert {case.flops for case in (forward, weight, data)} == {2 * 2 * 6 * 5 * 9 * 3 * 4}
    bound = forward.bind(registry.create("numpy"), forward.make(np.random.default_rng(0), np.float32))
    bound.run()
    first = bound.results()["out"]
    bound.run()
    np.testing.assert_array_equal(bound.results()["out"], first)
    assert bound.scratch.nbytes() > 0


def test_recorder_sees_the_products_of_lenet():
    batch, single = 4, np.dtype(np.float32)
    recorder = Recorder(registry.create("numpy"))
    model = architecture("lenet").build(backend=recorder.backend)

    def product(m: int, n: int, k: int, *, a: bool = False, b: bool = False) -> Product:
        return Product(m, n, k, a, b, False, single)

    forward = [
        product(batch * 24 * 24, 20, 25),
        product(batch * 8 * 8, 50, 500),
        product(batch, 500, 800),
        product(batch, 10, 500),
    ]
    # The gradient of each weight, then of the input; no gradient of the images.
    backward = [
        product(500, 10, batch, a=True),
        product(batch, 500, 10, b=True),
        product(800, 500, batch, a=True),
        product(batch, 800, 500, b=True),
        product(500, 50, batch * 8 * 8, a=True),
        product(batch * 8 * 8, 500, 50, b=True),
        product(25, 20, batch * 24 * 24, a=True),
    ]
    images = np.zeros((batch, 28, 28, 1), np.uint8)
    model.forward(model.load_images(images))
    assert recorder.products == forward
    assert recorder.flops == 2 * batch * model.macs()
    recorder.products.clear()
    model.train_step(images, np.zeros(batch, np.int64))
    assert recorder.products == forward + backward


def test_recorder_leaves_the_backend_alone_and_may_be_nested():
    backend = registry.create("numpy")
    a, out = np.ones((2, 3), np.float32), np.empty((2, 2), np.float32)
    outer = Recorder(backend)
    inner = Recorder(outer.backend)
    inner.backend.gemm(a, a, out=out, transpose_b=True)
    assert outer.products == inner.products == [Product(2, 2, 3, False, True, False, np.dtype(np.float32))]
    np.testing.assert_array_equal(out, np.full((2, 2), 3.0))
    outer.backend.gemm(a, a, out=out, transpose_b=True)
    backend.gemm(a, a, out=out, transpose_b=True)
    assert (len(outer.products), len(inner.products)) == (2, 1)


def test_accumulated_product_is_recorded_in_its_type():
    recorder = Recorder(registry.create("numpy"))
    a, out = np.ones((2, 3)), np.zeros((3, 3))
    recorder.backend.gemm(a, a, out=out, transpose_a=True, accumulate=True)
    assert recorder.products == [Product(3, 3, 2, True, False, True, np.dtype(np.float64))]


@pytest.mark.parametrize(("side", "sizes"), [(1, (32, 6, 3)), (4, (2, 6, 48))])
def test_an_image_that_is_its_own_column_matrix_is_not_copied(side, sizes):
    recorder = Recorder(registry.create("numpy"))
    scratch = Buffers(recorder.backend)
    convolution = Convolution(Window((4, 4), (side, side)), 3, 6)
    shapes = (2, 4, 4, 3), (side, side, 3, 6), (2, *convolution.output_shape)
    x, w, out = (np.ones(shape, np.float32) for shape in shapes)
    recorder.backend.conv2d(x, w, None, convolution, None, out, scratch)
    assert [(each.m, each.n, each.k) for each in recorder.products] == [sizes]
    assert scratch.nbytes() == 0
