"""MKL's own products of bfloat16: their numbers wherever MKL runs, and on which processors they are used."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.ready_backends import ready

from cnn import plugins
from cnn.arrays import Buffers
from cnn.compiled import bfloat16, tileproduct
from cnn.errors import ShapeError
from cnn.registry import construct
from cnn.system.machine import this_machine
from cnn.testing import CASES, ContractViolation, check_case

PRODUCTS = [case for case in CASES if case.operation == "product" and case.only_float32]
XEON = replace(this_machine(), vendor="GenuineIntel", vector=("AVX-512 (F, BW, BF16)", "AMX (BF16, INT8, TILE)"))


@pytest.fixture
def backend(monkeypatch):
    """MKL as on a processor of Intel that multiplies bfloat16; its arrays may be bfloat16, too."""
    ready("mkl")
    on(monkeypatch, XEON)
    monkeypatch.setattr(bfloat16, "engine", tileproduct.emulated)
    return construct("mkl")


def on(monkeypatch, machine):
    """Makes the backend see another machine."""
    module = __import__(plugins.load(plugins.BACKENDS, "mkl").__module__, fromlist=["this_machine"])
    monkeypatch.setattr(module, "this_machine", lambda: machine)


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.name)
def test_its_products_are_those_of_the_contract(backend, case):
    assert backend._bfloat16
    assert backend.in_precision("bfloat16").stores_bfloat16
    check_case(backend, case, np.float32)


def test_products_on_two_threads_and_of_other_shapes_are_the_same(backend):
    rounding = backend.in_precision("bfloat16")
    rng = np.random.default_rng(0)
    for m, n, k in ((300, 70, 90), (60, 410, 50), (1, 5, 3)):
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
        out, other = (np.full((m, n), np.nan, np.float32) for _ in range(2))
        rounding.product(a, b, out=out, scratch=Buffers(rounding))
        construct("numpy").in_precision("bfloat16").product(a, b, out=other, scratch=Buffers(rounding))
        np.testing.assert_allclose(out, other, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match="does not give"):
        rounding.product(a, b, out=np.empty((2, 2), np.float32), scratch=Buffers(rounding))


def test_truncation_in_place_of_rounding_is_found(backend, monkeypatch):
    from cnn.compiled import library_bf16

    def truncated(x, out, parts):
        out[...] = x.view(np.uint32) >> 16

    monkeypatch.setattr(library_bf16, "to_bfloat16", truncated)
    case = next(case for case in PRODUCTS if case.name.startswith("17x19x23"))
    with pytest.raises(ContractViolation, match="elements are wrong"):
        check_case(backend, case, np.float32)


def test_rounding_keeps_ties_infinity_and_nan(backend):
    from cnn.compiled.library_bf16 import to_bfloat16

    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, np.inf, -np.inf, np.nan, 0.0], np.float32)
    out = np.empty(x.size, np.uint16)
    to_bfloat16(x, out, 1)
    wide = (out.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(wide, [1, 1 + 2**-6, -1, np.inf, np.inf, -np.inf, np.nan, 0])


@pytest.mark.parametrize(
    ("machine", "used"),
    [
        (XEON, True),
        (replace(XEON, vector=("AVX-512 (F, BW, BF16)",)), True),
        (replace(XEON, vector=("AVX-512 (F, BW)",)), False),
        (replace(XEON, vector=None), False),
        (replace(XEON, vendor="AuthenticAMD"), False),
    ],
)
def test_it_is_used_where_it_was_faster(monkeypatch, machine, used):
    ready("mkl")
    on(monkeypatch, machine)
    backend = construct("mkl")
    assert (backend._bfloat16 is not None) is used
    assert ("by MKL" in backend.bfloat16_by) is used
