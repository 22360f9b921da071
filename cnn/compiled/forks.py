"""Keeps kernels working in a forked process: GNU OpenMP cannot start threads there, so one thread runs all parts."""

import os
from collections.abc import Sequence
from functools import cache

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir

_LOOP = "numba_parallel_for"
"""What Numba's parallel loops call, with eight arguments: first a function for the parts, then the four arguments with
which this function runs all of them."""

_forked = np.zeros(1, np.uint8)
_kept: list[object] = []


def _in_child() -> None:
    _forked[0] = 1


@cache
def survive_forks() -> None:
    """Has the parallel loops of all kernels that are loaded from now on run in turn once the process is forked.

    The results are the same bytes. Without this, Numba ends such a process at its first parallel loop.
    """
    numba.get_num_threads()  # Numba now has its threads and the function that starts them
    word = ir.IntType(64)
    module = ir.Module("forks")
    module.triple = llvm.get_process_triple()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [word] * 8), "loop")
    builder = ir.IRBuilder(function.append_basic_block())

    def call(address: ir.Value, arguments: Sequence[ir.Value]) -> None:
        kind = ir.FunctionType(ir.VoidType(), [word] * len(arguments))
        builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)
        builder.ret_void()

    flag = builder.load(word(_forked.ctypes.data).inttoptr(ir.IntType(8).as_pointer()))
    with builder.if_then(builder.icmp_unsigned("!=", flag, flag.type(0)), likely=False):
        call(function.args[0], function.args[1:5])
    call(word(llvm.address_of_symbol(_LOOP)), function.args)
    engine = llvm.create_lljit_compiler(llvm.Target.from_default_triple().create_target_machine(jit=True))
    library = llvm.JITLibraryBuilder().add_ir(module).export_symbol("loop").link(engine, "forks")
    _kept.append((engine, library))  # code lives as long as they do
    llvm.add_symbol(_LOOP, library["loop"])
    os.register_at_fork(after_in_child=_in_child)
