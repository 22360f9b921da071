"""Convolutions in groups on compiled kernels: divided among threads, and the same bytes each time."""

import numpy as np
import pytest

from cnn import registry
from cnn.arrays import Buffers
from cnn.compiled import amx, parts
from cnn.compiled.kernels import KERNELS, RARE
from cnn.compiled.sliding import meetings, plan
from cnn.compiled.tileproduct import amx_product
from cnn.convolution import Convolution, Window
from cnn.testing import CASES, check_case
from cnn.testing.products import GROUPED, WINDOWS


def grouped(case):
    return case.operation.startswith("conv2d") and case.name.removesuffix(" bias") in GROUPED


@pytest.mark.parametrize("case", [*filter(grouped, CASES)], ids=lambda case: f"{case.operation} {case.name}")
def test_contract_in_parts(case, monkeypatch):
    """Every convolution is divided, however small."""
    monkeypatch.setattr(parts, "PART_FLOPS", 1)
    monkeypatch.setattr(parts, "SERIAL", 0)
    check_case(registry.create("openblas"), case, np.float32)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_a_plan_has_each_product_of_a_kernel_element_and_a_pixel_once(window, gradient):
    steps, rows, tiles = plan(window, gradient)
    found = []
    for target, (tap, count, source) in enumerate(rows.tolist()):
        down = [(tap + k * steps.taps_down, source + k * steps.down) for k in range(count)]
        for first, outputs, s, terms, at in tiles.tolist():
            for each in range(outputs):
                right = [(s + k * steps.taps_right, at + each * steps.beside + k * steps.right) for k in range(terms)]
                found += [(target, first + each * steps.along, r, c, h, w) for r, h in down for c, w in right]
    assert sorted(found) == sorted(products(window, gradient))


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_the_gradient_of_each_weight_meets_each_output_that_uses_it_once(window):
    rows, tiles = meetings(window)
    (down, right), (below, beside), (top, _, _, _) = window.stride, window.dilation, window.padding
    found = []
    for r, (first, end) in enumerate(rows.tolist()):
        for p in range(first, end):
            for s, taps, q, count, at in tiles.tolist():
                found += [
                    (p, q + j, r, s + k, p * down + r * below - top, at + j * right + k * beside)
                    for j in range(count)
                    for k in range(taps)
                ]
    assert sorted(found) == sorted(products(window, False))


def products(window, gradient):
    """(output row, output column, kernel row, kernel column, input row, input column) of every product, by loops."""
    for r, s, p, q, h, w in window.each_tap():
        for a, b in zip(range(window.out[0])[p], range(window.size[0])[h], strict=True):
            for c, d in zip(range(window.out[1])[q], range(window.size[1])[w], strict=True):
                yield (b, d, r, s, a, c) if gradient else (a, c, r, s, b, d)


@pytest.mark.parametrize(("channels", "filters", "groups"), [(70, 70, 70), (24, 48, 24), (24, 48, 3)])
def test_a_repeated_call_gives_the_same_bytes(channels, filters, groups):
    backend, rng = registry.create("openblas"), np.random.default_rng(0)
    convolution = Convolution(Window((30, 31), (3, 3), (2, 2), (1, 1, 1, 1)), channels, filters, groups)
    x = rng.standard_normal((3, *convolution.input_shape), np.float32)
    dy = rng.standard_normal((3, *convolution.output_shape), np.float32)
    w = rng.standard_normal(convolution.weights_shape, np.float32)
    results = []
    for _ in range(3):
        y, dx, dw, scratch = np.empty_like(dy), np.empty_like(x), np.empty_like(w), Buffers(backend)
        backend.conv2d(x, w, None, convolution, "relu", y, scratch)
        backend.conv2d_data_gradient(dy, w, convolution, dx, scratch)
        backend.conv2d_weight_gradient(x, dy, convolution, dw, scratch)
        results.append((y.tobytes(), dx.tobytes(), dw.tobytes()))
    assert results[0] == results[1] == results[2]


def test_rare_kernels_have_only_the_listed_types():
    """Of a function that is a kernel for several types, the last kernel stands for all."""
    assert not {*RARE} & {*KERNELS}
    for kernel in {each.compiled.py_func: each for each in RARE}.values():
        if kernel is amx_product and not amx.present():
            continue  # LLVM has no other instructions for it, and ends the process
        kernel.compile()
        assert kernel.compiled.signatures == [kernel.kinds]
