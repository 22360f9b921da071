"""Convolutions and products on arrays that are bfloat16 in memory, by every algorithm, on emulated tiles."""

from functools import partial
from itertools import product

import numpy as np
import pytest
from helpers.bf16 import STORED_PRODUCTS
from helpers.ready_backends import ready
from llvmlite import ir
from numba import cfunc, types

from cnn.arrays import Buffers
from cnn.compiled import bfloat16, parts, rounding, tileproduct
from cnn.compiled.algorithms import Chooser
from cnn.compiled.parts import limited
from cnn.compiled.vectors import WIDTH
from cnn.convolution import Convolution, Window
from cnn.precision import BFLOAT16, SHORT, shortened, widened
from cnn.testing import ContractViolation, check_case, products
from cnn.testing.stored import stored

ALGORITHMS = ("amx", "direct", "im2col", "winograd2", "winograd4")


@pytest.fixture
def backend(monkeypatch, tmp_path):
    """It stores bfloat16 and divides even the smallest work among threads."""
    found = type(ready("openblas"))()
    found._chooser = Chooser("stored", tmp_path)
    monkeypatch.setattr(bfloat16, "engine", tileproduct.emulated)
    monkeypatch.setattr(bfloat16, "in_pairs", lambda: True)
    monkeypatch.setattr(bfloat16, "FEW", 2)
    monkeypatch.setattr(parts, "PART_FLOPS", 1)
    monkeypatch.setattr(parts, "SERIAL", 1)
    monkeypatch.setenv("CNN_ALGORITHM", "amx")
    return found


def convolution_cases(name, convolution, activation=None, *, apart=True):
    """Forward and both gradients, each with either array in SHORT (if `apart`) and with both."""
    forward = partial(products.conv_forward_case, activation=activation)
    makers = (forward, ("x", "out")), (products.conv_weight_case, ("x", "dy")), (products.conv_data_case, ("dy", "out"))
    for make, (first, second) in makers:
        case = make(name, convolution, 2)
        for names in ((first,), (second,), (first, second))[0 if apart else 2 :]:
            yield stored(case, names)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_contract_holds_in_tiles(backend, threads):
    with limited(threads):
        for case in STORED_PRODUCTS:
            check_case(backend, case, np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_contract_holds_in_pairs(backend, monkeypatch, threads):
    monkeypatch.setattr(bfloat16, "engine", lambda: None)
    monkeypatch.setenv("CNN_ALGORITHM", "direct")
    with limited(threads):
        for case in STORED_PRODUCTS:
            check_case(backend, case, np.float32)


UNUSUAL = {
    **{name: Convolution(window, 3, 5) for name, window in products.WINDOWS.items()},
    **products.GROUPED,
    "whole vectors": Convolution(products.WINDOWS["3x3 same"], 32, 16),
    "5x5, whole vectors": Convolution(products.WINDOWS["5x5 same"], 16, 16),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_takes_every_window(backend, monkeypatch, algorithm):
    """Groups, dilation, depthwise convolutions, and images that are one window included."""
    monkeypatch.setenv("CNN_ALGORITHM", algorithm)
    for name, convolution in UNUSUAL.items():
        for case in convolution_cases(name, convolution, apart=False):
            check_case(backend, case, np.float32)
    used = {each.name for each in backend.in_precision(BFLOAT16).algorithms().values()}
    assert algorithm in used


@pytest.mark.parametrize("name", ["1x1", "3x3 same", "kernel as large as the image", "3x3 same, depthwise"])
def test_results_of_activations_are_rounded_once(backend, name):
    for activation in ("relu", "tanh", "sigmoid"):
        for case in convolution_cases(name, UNUSUAL[name], activation):
            check_case(backend, case, np.float32)


def test_times_of_stored_arrays_are_measured_apart(backend, monkeypatch):
    monkeypatch.setenv("CNN_ALGORITHM", "auto")
    monkeypatch.setattr("cnn.compiled.algorithms.SECONDS", 0)
    for case in convolution_cases("3x3 same", UNUSUAL["whole vectors"]):
        check_case(backend, case, np.float32)
    times = backend._chooser.times()
    directions = {shape.split(", 16 filters")[0] for shape in times if "16 filters" in shape}
    assert {"forward in bfloat16 with x stored in it", "forward in bfloat16 with x and out stored in it"} <= directions
    found = {len(times[shape]) for shape in times if shape.startswith("forward")}
    assert found == {len(ALGORITHMS)}  # each of which was timed


CONVOLUTIONS = [
    Convolution(Window((6, 30), (3, 3), padding=(1, 1, 1, 1)), 32, 40),  # cells of pixels
    Convolution(Window((9, 7), (3, 5), (2, 1), padding=(0, 2, 4, 3)), 5, 33),
]


def rounded_numbers(shape, seed):
    return shortened(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_bits_are_those_of_float32_arrays_rounded_once(backend, convolution):
    """NaN stays NaN."""
    twin, scratch = backend.in_precision(BFLOAT16), Buffers(backend)
    x, dy = (rounded_numbers((3, *shape), 0) for shape in (convolution.input_shape, convolution.output_shape))
    images = x.copy()
    images[1, 0, 3, 0], images[2, 2, 2, 1] = 0x7FC0, 0xFF80  # NaN and -inf
    w = np.random.default_rng(1).standard_normal(convolution.weights_shape).astype(np.float32)
    bias = np.random.default_rng(2).standard_normal(convolution.filters).astype(np.float32)
    for relu in (None, "relu"):
        y, short = np.empty(dy.shape, np.float32), np.empty_like(dy)
        twin.conv2d(widened(images), w, bias, convolution, relu, y, scratch)
        twin.conv2d(images, w, bias, convolution, relu, short, scratch)
        np.testing.assert_array_equal(shortened(y), short)
        assert np.isnan(y).any()
        assert np.isnan(widened(short)[np.isnan(y)]).all()
        assert (shortened(y) != y.view(np.uint32) >> 16).any()
    gradients = [np.empty_like(w), np.empty_like(w)]
    for arrays, out in zip(((widened(x), widened(dy)), (x, dy)), gradients, strict=True):
        twin.conv2d_weight_gradient(*arrays, convolution, out, scratch)
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("sizes", [(300, 40, 1100), (5, 9, 33)])
def test_long_products_are_rounded_once(backend, sizes):
    """Also where they are added up in pieces, and on top of what was there."""
    m, n, k = sizes
    twin, scratch = backend.in_precision(BFLOAT16), Buffers(backend)
    for a_turned, b_turned, accumulate in product((False, True), repeat=3):
        a, b = rounded_numbers((k, m) if a_turned else (m, k), 0), rounded_numbers((n, k) if b_turned else (k, n), 1)
        out = rounded_numbers((m, n), 2)
        wide = widened(out)
        how = {"transpose_a": a_turned, "transpose_b": b_turned, "accumulate": accumulate, "scratch": scratch}
        twin.product(widened(a), widened(b), out=wide, **how)
        twin.product(a, b, out=out, **how)
        np.testing.assert_array_equal(shortened(wide), out)


def test_batches_without_images(backend):
    twin, scratch, convolution = backend.in_precision(BFLOAT16), Buffers(backend), CONVOLUTIONS[0]
    x, dy = (np.empty((0, *each), SHORT) for each in (convolution.input_shape, convolution.output_shape))
    w = np.ones(convolution.weights_shape, np.float32)
    twin.conv2d(x, w, None, convolution, "relu", dy, scratch)
    twin.conv2d_data_gradient(dy, w, convolution, x, scratch)
    twin.conv2d_weight_gradient(x, dy, convolution, w, scratch)
    assert not w.any()
    out = np.full((3, 4), 0x3F80, SHORT)
    twin.product(np.empty((3, 0), SHORT), np.empty((0, 4), SHORT), out=out, scratch=scratch)
    assert not out.any()


def test_a_profile_leaves_out_the_products_only(backend):
    idle = backend.in_precision(BFLOAT16).instruments.without_products()
    convolution = CONVOLUTIONS[0]
    x, dy = (np.zeros((2, *each), SHORT) for each in (convolution.input_shape, convolution.output_shape))
    w, scratch = np.ones(convolution.weights_shape, np.float32), Buffers(idle)
    idle.conv2d(x, w, None, convolution, None, dy, scratch)
    idle.conv2d_weight_gradient(x, dy, convolution, w, scratch)
    idle.conv2d_data_gradient(dy, w, convolution, x, scratch)
    idle.product(x.reshape(2, -1), np.ones((x[0].size, 3), np.float32), out=np.empty((2, 3), SHORT), scratch=scratch)


def test_only_a_backend_that_multiplies_bfloat16_and_rounds_stores_it(backend, monkeypatch):
    assert not backend.stores_bfloat16
    assert backend.in_precision(BFLOAT16).stores_bfloat16
    monkeypatch.setattr(bfloat16, "engine", lambda: None)
    assert backend.in_precision(BFLOAT16).stores_bfloat16
    monkeypatch.setattr(bfloat16, "in_pairs", lambda: False)
    assert not backend.in_precision(BFLOAT16).stores_bfloat16


def test_truncation_in_place_of_rounding_is_found(backend, monkeypatch):
    write_nearest = tileproduct.write_nearest

    def truncated(builder, value, *place):
        words = ir.VectorType(ir.IntType(32), WIDTH)
        upper = builder.and_(builder.bitcast(value, words), ir.Constant(words, [0xFFFF0000] * WIDTH))
        write_nearest(builder, builder.bitcast(upper, value.type), *place)

    case = stored(products.conv_forward_case("3x3 same", UNUSUAL["whole vectors"], 2), ("x", "out"))
    check_case(backend, case, np.float32)
    with monkeypatch.context() as planted:
        planted.setattr(tileproduct, "write_nearest", truncated)
        broken = cfunc(types.void(*tileproduct.ARGUMENTS))(tileproduct.emulated_product.compiled.py_func)
    monkeypatch.setattr(bfloat16, "engine", lambda: np.uintp(broken.address))
    with pytest.raises(ContractViolation, match="elements are wrong"):
        check_case(backend, case, np.float32)


def test_stale_padding_is_found(backend, monkeypatch):
    lay_out = rounding.rows

    def stale(x, count, width, out, parts):
        before = out.copy()
        lay_out(x, count, width, out, parts)
        out.reshape(count, -1)[:, width:] = before.reshape(count, -1)[:, width:]

    case = next(case for case in STORED_PRODUCTS if case.name.startswith("17x19x23 nn with a stored"))
    check_case(backend, case, np.float32)
    monkeypatch.setattr(rounding, "rows", stale)
    with pytest.raises(ContractViolation, match="is nan, expected"):
        check_case(backend, case, np.float32)
