"""The machine code of AMX runs, also where a processor does not know its instructions.

There each raises SIGILL, and `helpers/amx.c` does what Intel's manual says of its bytes. Where the processor has AMX,
the instructions run themselves, and the results must be the same.
"""

import ctypes
import subprocess
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from helpers import stand_in_card
from helpers.bf16 import CONVOLUTIONS, IN_BFLOAT16, STORED_PRODUCTS, check_convolution, compiled_with_amx
from helpers.ready_backends import ready

from cnn.arrays import Buffers
from cnn.compiled import amx, bfloat16, tileproduct
from cnn.precision import SHORT
from cnn.testing import check_case

SOURCE = Path(__file__).with_name("helpers") / "amx.c"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The library whose handler does the instructions; installed until the tests of this file have ended."""
    compiler = stand_in_card.compiler()
    if compiler is None:
        pytest.skip("doing AMX's instructions needs gcc, and there is none")
    library = tmp_path_factory.mktemp("amx") / "amx.so"
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE, "-lm"], check=True
    )
    found = ctypes.CDLL(str(library))
    found.amx_done.restype = ctypes.c_long
    if amx.trouble() is not None:
        assert found.amx_install() == 0
        yield found
        assert found.amx_remove() == 0
    else:
        yield found


@pytest.fixture(scope="module")
def microkernel(machine):
    """The address of the microkernel as LLVM makes it for this processor with AMX added."""
    features = ",".join([llvm.get_host_cpu_features().flatten(), *(f"+{name}" for name in amx.NEEDED)])
    module, target = compiled_with_amx(llvm.get_process_triple(), features, llvm.get_host_cpu_name())
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    yield np.uintp(engine.get_function_address("product"))
    del engine


@pytest.fixture
def in_machine_code(machine, microkernel, monkeypatch):
    """A backend that takes every product it can to the machine code."""
    monkeypatch.setattr(bfloat16, "engine", lambda: microkernel)
    monkeypatch.setattr(bfloat16, "in_pairs", lambda: False)
    monkeypatch.setenv("CNN_ALGORITHM", "amx")
    before = machine.amx_done()
    yield type(ready("openblas"))()
    assert amx.trouble() is None or machine.amx_done() > before


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_convolutions_are_those_of_rounded_operands(in_machine_code, convolution):
    check_convolution(bfloat16.Direct(bfloat16.forward_in_tiles, bfloat16.weight_gradient_in_tiles), convolution)


def test_the_contract_holds(in_machine_code):
    """Some cases are enough, as layouts are no machine code; tests/test_tiles.py has all on emulated tiles."""
    assert in_machine_code.in_precision("bfloat16").stores_bfloat16
    for case in [case for case in IN_BFLOAT16 if case not in STORED_PRODUCTS][::3] + STORED_PRODUCTS[::5]:
        check_case(in_machine_code, case, np.float32)


def test_it_gives_the_bits_of_the_emulated_tiles(in_machine_code, microkernel, monkeypatch):
    """Several threads, rows and columns that fill no tile, and numbers too small to be normal."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((77, 131), np.float32), rng.standard_normal((131, 45), np.float32)
    a[:, ::3] *= 1e-20
    b[::3] *= 1e-20
    for kind in (np.float32, SHORT):
        results = []
        for engine in (lambda: microkernel, tileproduct.emulated):
            monkeypatch.setattr(bfloat16, "engine", engine)
            out = np.empty((77, 45), kind)
            in_machine_code.in_precision("bfloat16").product(a, b, out=out, scratch=Buffers(in_machine_code))
            results.append(out.tobytes())
        assert results[0] == results[1]
