"""What the tests of bfloat16's kernels share, in pairs and in tiles."""

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numba import types

from cnn import registry
from cnn.arrays import Buffers
from cnn.compiled import rounding, tileproduct, tiles
from cnn.compiled.called import INT, REAL
from cnn.convolution import Convolution, Window
from cnn.precision import BFLOAT16, round_bfloat16
from cnn.testing import CASES, ContractViolation, check_case

HARD = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40]
"""Ties, what is not a tie, infinity, what rounds to it, and a number below the smallest normal one."""


def rounded(x):
    out = np.empty_like(x)
    round_bfloat16(np.ascontiguousarray(x), out)
    return out


def widened(shorts):
    """bfloat16 as float32."""
    return (shorts.astype(np.uint32) << 16).view(np.float32)


CONVOLUTIONS = [
    Convolution(Window((5, 5), (5, 5)), 3, 16),
    Convolution(Window((1, 1), (3, 3), padding=(1, 1, 1, 1)), 37, 20),
    Convolution(Window((9, 40), (3, 2), padding=(2, 0, 1, 0)), 1, 50),
    Convolution(Window((8, 7), (3, 5), padding=(0, 2, 4, 3)), 17, 5),
    Convolution(Window((9, 30), (3, 4), stride=(2, 3), padding=(1, 1, 2, 0)), 20, 33),
    Convolution(Window((6, 6), (2, 2), stride=(3, 3)), 2, 64),
    Convolution(Window((6, 5), (1, 1)), 19, 40),
    Convolution(Window((4, 4), (3, 3), padding=(5, 4, 3, 6)), 3, 3),
]


IN_BFLOAT16 = [
    case
    for case in CASES
    if case.name.endswith("in bfloat16") and (case.operation.startswith("conv2d") or case.operation == "product")
]
"""The contract's convolutions and products of rounded operands."""
STORED_PRODUCTS = [case for case in IN_BFLOAT16 if case.name.endswith("stored in bfloat16")]
"""Those whose arrays are bfloat16 in memory."""


def check_convolution(direct, convolution):
    """A direct algorithm gives what rounded operands give: five images, on two threads, in buffers full of NaN."""
    rng, reference = np.random.default_rng(0), registry.create("reference").in_precision(BFLOAT16)
    window, filters = convolution.window, convolution.filters
    x = rng.standard_normal((5, *convolution.input_shape), np.float32)
    w = rng.standard_normal(convolution.weights_shape, np.float32)
    bias, dy = rng.standard_normal(filters, np.float32), rng.standard_normal((5, *convolution.output_shape), np.float32)
    scratch = Buffers(reference)
    y, dw, expected, gradient = np.empty_like(dy), np.empty_like(w), np.empty_like(dy), np.empty_like(w)
    for _ in range(2):
        direct.forward(x, w, bias, convolution, y, scratch, relu=True)
        direct.weight_gradient(x, dy, convolution, dw, scratch)
        for each in scratch.arrays():
            each.view(np.uint8).fill(0xFF)
    reference.conv2d(x, w, bias, convolution, "relu", expected, scratch)
    reference.conv2d_weight_gradient(x, dy, convolution, gradient, scratch)
    terms = window.taps * convolution.channels
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6 * terms)
    np.testing.assert_allclose(dw, gradient, rtol=1e-5, atol=2e-6 * 5 * dy[0].size / filters)


def check_nan(direct):
    """NaN stays in the windows that hold it. Rows of windows have an odd number of terms, and outputs are odd."""
    convolution = Convolution(Window((3, 7), (1, 3)), 3, 4)
    x, w = np.ones((1, 3, 7, 3), np.float32), np.ones((1, 3, 3, 4), np.float32)
    x[0, 1, 4, 0] = np.nan
    y, dw, scratch = np.empty((1, 3, 5, 4), np.float32), np.empty_like(w), Buffers(registry.create("numpy"))
    direct.forward(x, w, None, convolution, y, scratch, relu=False)
    assert np.isnan(y).any(axis=3).tolist() == [[[False] * 5, [False, False, True, True, True], [False] * 5]]
    direct.weight_gradient(x[:, :, ::-1].copy(), y * 0, convolution, dw, scratch)
    assert np.isnan(dw).any()


def check_stale_padding(backend, monkeypatch):
    """The contract finds a layout that leaves in its padding what was there before."""
    lay_out = rounding.panels

    def stale(x, rows, run, width, across, out, parts):
        before = out.copy()
        lay_out(x, rows, run, width, across, out, parts)
        shape = len(out), rows, -1, across, 2
        now, then = (each.view(np.uint16).reshape(shape) for each in (out, before))
        for number in range(2):
            beyond = 2 * np.arange(now.shape[2]) + number >= run
            now[:, :, beyond, :, number] = then[:, :, beyond, :, number]

    case = next(case for case in CASES if case.operation == "conv2d" and case.name == "3x3 same bias in bfloat16")
    check_case(backend, case, np.float32)
    monkeypatch.setattr(rounding, "panels", stale)
    with pytest.raises(ContractViolation, match=r"is nan, expected|elements are wrong"):
        check_case(backend, case, np.float32)


def compiled_with_amx(triple, features, cpu=""):
    """The microkernel of tiles with AMX's instructions, as LLVM makes it for a processor: (its module, the machine)."""
    module = ir.Module("tiles")
    module.triple = triple
    kinds = [REAL if kind == types.float32 else INT for kind in tileproduct.ARGUMENTS]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "product")
    builder = ir.IRBuilder(function.append_basic_block())
    tileproduct.generate(tiles.Amx(), builder, [*function.args])
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return parsed, machine
