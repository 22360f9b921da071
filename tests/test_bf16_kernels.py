"""Kernels of bfloat16: layouts, the microkernel in every size, and convolutions and products against the reference.

Where the processor has no AVX512_BF16, the microkernel is built of multiply-adds, and all is tested the same way.
"""

import numpy as np
import pytest
from helpers.bf16 import CONVOLUTIONS, HARD, check_convolution, check_nan, check_stale_padding, rounded, widened
from numba import njit

from cnn import registry
from cnn.arrays import Buffers
from cnn.compiled import bfloat16, rounding
from cnn.compiled.direct_bf16 import ACROSS
from cnn.compiled.dotproduct import address
from cnn.compiled.kernels import RARE
from cnn.compiled.microkernel import ROWS, VECTORS, tile
from cnn.compiled.vectors import WIDTH
from cnn.convolution import Convolution, Window
from cnn.precision import BFLOAT16

PAIRS = bfloat16.Direct(bfloat16.forward, bfloat16.weight_gradient)


def test_rows_are_rounded_to_nearest_even():
    x = np.array([*HARD, *np.random.default_rng(0).standard_normal(10)], np.float32)
    out = np.full(3 * 8, 7, np.uint16)
    rounding.rows(x, 3, 7, out, 1)
    np.testing.assert_array_equal(widened(out).reshape(3, 8)[:, :7], rounded(x).reshape(3, 7))
    assert (out[7::8] == 0).all()


@pytest.mark.parametrize(("rows", "run", "width"), [(1, 1, 1), (3, 5, ACROSS + 3), (2, 6, ACROSS)])
def test_panels_hold_pairs_of_terms_and_zeros_around_them(rows, run, width):
    x = np.random.default_rng(0).standard_normal((rows, run, width)).astype(np.float32)
    count, pairs = -(-width // ACROSS), -(-run // 2)
    out = np.full((count, rows * pairs * ACROSS), 7, np.uint32)
    rounding.panels(x.reshape(-1), rows, run, width, ACROSS, out, 2)
    expected = np.zeros((rows, 2 * pairs, count * ACROSS), np.float32)
    expected[:, :run, :width] = rounded(x)
    found = widened(out.view(np.uint16)).reshape(count, rows, pairs, ACROSS, 2)
    np.testing.assert_array_equal(
        found.transpose(1, 2, 4, 0, 3).reshape(rows, 2 * pairs, count * ACROSS), expected, strict=True
    )
    if rows == 1:
        turned = np.full_like(out, 7)
        rounding.turned_panels(np.ascontiguousarray(x[0].T).reshape(-1), width, run, ACROSS, turned, 2)
        np.testing.assert_array_equal(turned, out)


@njit
def run_tile(microkernel, rows, vectors, tail, a, a_strides, counts, b, start, floor, out):
    tile(
        microkernel,
        *(rows, vectors, tail, a.ctypes.data, a_strides[0], a_strides[1], a_strides[2], counts[0], counts[1]),
        *(b.ctypes.data, b.strides[0], start.ctypes.data, 0, np.float32(floor), out.ctypes.data, out.strides[0]),
    )


@pytest.mark.parametrize("terms", [1, 6, 7])
@pytest.mark.parametrize(("vectors", "tail"), [(1, 1), (VECTORS, WIDTH // 2 + 1), (VECTORS, WIDTH)])
def test_microkernel(vectors, tail, terms):
    """In every number of rows; what lies beside a last single term, or behind the results, has no effect."""
    rng = np.random.default_rng(terms)
    columns, pairs = (vectors - 1) * WIDTH + tail, -(-terms // 2)
    for rows in range(1, ROWS + 1):
        numbers = rng.standard_normal((rows, 3, terms)).astype(np.float32)
        a = np.full((rows, 3, 2 * pairs + 1), 0x7FC0, np.uint16)  # NaN
        a[:, :, :terms] = rounded(numbers).view(np.uint32) >> 16
        right = rng.standard_normal((3, terms, columns)).astype(np.float32)
        b = np.zeros((1, 3 * pairs * ACROSS), np.uint32)
        rounding.panels(right.reshape(-1), 3, terms, columns, ACROSS, b, 1)
        start = rng.standard_normal(columns, np.float32)
        out = np.full((rows, VECTORS * WIDTH + 1), 7, np.float32)
        strides = np.array([*a.strides[:2], 4])
        run_tile(
            *(address(), rows, vectors, tail, a, strides, np.array([3, terms])),
            *(b.reshape(3 * pairs, ACROSS), start, -0.5, out),
        )
        sums = np.einsum("mit,itn->mn", rounded(numbers).astype(np.float64), rounded(right).astype(np.float64))
        np.testing.assert_allclose(out[:, :columns], np.maximum(sums + start, -0.5), rtol=1e-5, atol=1e-5)
        assert (out[:, columns:] == 7).all()


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_convolutions_are_those_of_rounded_operands(convolution):
    check_convolution(PAIRS, convolution)


def test_nan_stays_in_the_windows_that_hold_it():
    check_nan(PAIRS)


def test_stale_padding_is_found(monkeypatch):
    """Of a row of windows with an odd number of terms: what lies beside the last one."""
    backend = type(registry.create("openblas"))()
    monkeypatch.setattr(bfloat16, "in_pairs", lambda: True)
    monkeypatch.setattr(bfloat16, "engine", lambda: None)
    monkeypatch.setenv("CNN_ALGORITHM", "direct")
    check_stale_padding(backend, monkeypatch)


def test_float32_networks_compile_no_kernel_of_bfloat16():
    rare = {(kernel.compiled.py_func.__module__.split(".")[-1], kernel.compiled.py_func.__name__) for kernel in RARE}
    names = {"dotproduct": ("dotproduct",), "rounding": ("panels", "rows"), "product_bf16": ("_multiply",)}
    names["direct_bf16"] = ("forward", "weight_gradient")
    assert {(module, name) for module, found in names.items() for name in found} <= rare


@pytest.mark.parametrize("native", [True, False])
def test_a_backend_multiplies_in_pairs_where_the_processor_does(monkeypatch, native):
    """With the same results, whichever algorithm is the fastest."""
    monkeypatch.setattr(bfloat16, "in_pairs", lambda: native)
    monkeypatch.setattr(bfloat16, "engine", lambda: None)
    monkeypatch.setenv("CNN_ALGORITHM", "direct")
    backend = type(registry.create("openblas"))().in_precision(BFLOAT16)
    assert backend.bfloat16_by == (
        "bfloat16 by AVX512_BF16" if native else "bfloat16: rounded, multiplied in float32, no faster here"
    )
    calls = []
    monkeypatch.setattr(
        bfloat16, "forward", lambda *given, run=bfloat16.forward, **how: (calls.append(given[3]), run(*given, **how))
    )
    rng, reference = np.random.default_rng(0), registry.create("reference").in_precision(BFLOAT16)
    for convolution in (Convolution(Window((6, 6), (3, 3)), 5, 7), Convolution(Window((6, 6), (6, 6)), 5, 7)):
        x = rng.standard_normal((2, *convolution.input_shape), np.float32)
        w = rng.standard_normal(convolution.weights_shape, np.float32)
        dy = rng.standard_normal((2, *convolution.output_shape), np.float32)
        results = []
        for each in (backend, reference):
            y, dw, dx, scratch = np.empty_like(dy), np.empty_like(w), np.empty_like(x), Buffers(each)
            each.conv2d(x, w, None, convolution, None, y, scratch)
            each.conv2d_weight_gradient(x, dy, convolution, dw, scratch)
            each.conv2d_data_gradient(dy, w, convolution, dx, scratch)
            results.append((y, dw, dx))
        for found, expected in zip(*results, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert len(calls) == (2 if native else 0)
