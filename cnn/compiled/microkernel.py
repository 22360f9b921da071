"""A product of a few rows and vectors that stays in registers, from which direct convolution is built.

GotoBLAS's inner kernel (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3),
2008), except that the left factor is read in place: its rows, and two nested loops along them, have their own
strides. So the windows of an image need no columns.
"""

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

from cnn.compiled.kernels import kernel
from cnn.compiled.parts import INTEGER
from cnn.compiled.vectors import LANES, WIDTH, floored, fused, spread

VECTORS = 2
"""At most two vectors across, so that each number of the left factor is read once and multiplied twice."""

ROWS = 12 if llvm.get_host_cpu_features().get("avx512f") else 6
"""At most this many rows: with VECTORS sums each they take 24 of AVX-512's 32 registers, or 12 of AVX's 16."""

_INT, _REAL = ir.IntType(64), ir.FloatType()
_MASK = ir.VectorType(ir.IntType(1), WIDTH)
_NUMBERS = ir.VectorType(_INT, WIDTH)

_ARGUMENTS = (
    *(INTEGER,) * 3,  # rows, vectors, tail
    *(INTEGER,) * 4,  # a, its strides: from row to row, outer loop, inner loop
    *(INTEGER,) * 2,  # iterations of each loop
    *(INTEGER,) * 2,  # b, its stride
    *(INTEGER,) * 2,  # start, its stride
    types.float32,  # floor
    *(INTEGER,) * 2,  # out, its stride
)


@intrinsic
def _inlined(typing_context: Any, *arguments: Any) -> Any:
    """The code of `microkernel`, one piece for each size."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rows, vectors, *others = _unpacked(builder, values[0])
        done = builder.append_basic_block("done")
        choice = builder.add(builder.mul(vectors, _INT(ROWS + 1)), rows)
        switch = builder.switch(choice, done)
        for across in range(1, VECTORS + 1):
            for down in range(1, ROWS + 1):
                block = builder.append_basic_block(f"tile{down}x{across}")
                switch.add_case(_INT(across * (ROWS + 1) + down), block)
                builder.position_at_end(block)
                _generate(builder, down, across, *others)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(types.StarArgTuple(_ARGUMENTS)), generate


@kernel({"nogil": True, "error_model": "numpy"}, *_ARGUMENTS)
def microkernel(
    rows, vectors, tail, a, a_row, a_outer, a_inner, outer, inner, b, b_row, start, start_row, floor, out, out_row
):
    """out[m] = max(floor, start[m] + sum over i, j of a[m, i, j] * b[i * inner + j]) for `rows` rows m.

    `rows` is 1 to ROWS. A row of b, start and out has `vectors` vectors, 1 to VECTORS; the last one has `tail`
    elements, 1 to WIDTH. a, b, start and out are addresses. Strides are in bytes; a stride of zero repeats a row. As
    its code is long, it is compiled once and called by address.
    """
    _inlined(
        *(rows, vectors, tail, a, a_row, a_outer, a_inner, outer, inner, b, b_row),
        *(start, start_row, floor, out, out_row),
    )


@cache
def address() -> Any:
    """The address of `microkernel` as a C function of its arguments."""
    microkernel.compile()
    return np.uintp(microkernel.function_at(microkernel.description.llvm_cfunc_wrapper_name))


@intrinsic
def tile(typing_context: Any, address: Any, *arguments: Any) -> Any:
    """Calls the microkernel at `address`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = [_REAL if kind == types.float32 else _INT for kind in _ARGUMENTS]
        function = builder.inttoptr(values[0], ir.FunctionType(ir.VoidType(), kinds).as_pointer())
        builder.call(function, _unpacked(builder, values[1]))
        return context.get_dummy_value()

    return types.void(types.uintp, types.StarArgTuple(_ARGUMENTS)), generate


def _unpacked(builder: Any, arguments: Any) -> list[Any]:
    return [builder.extract_value(arguments, k) for k in range(len(_ARGUMENTS))]


def _generate(
    builder: Any,
    rows: int,
    vectors: int,
    tail: Any,
    a: Any,
    a_row: Any,
    a_outer: Any,
    a_inner: Any,
    outer: Any,
    inner: Any,
    b: Any,
    b_row: Any,
    start: Any,
    start_row: Any,
    floor: Any,
    out: Any,
    out_row: Any,
) -> None:
    """The code for one size."""
    lanes = ir.Constant(_NUMBERS, list(range(WIDTH)))
    mask = builder.icmp_unsigned("<", lanes, spread(builder, tail, _NUMBERS))
    last = vectors - 1

    def read(address: Any, vector: int) -> Any:
        at = _at(builder, address, vector)
        return masked_load(builder, at, mask) if vector == last else load(builder, at)

    sums = [[cgutils.alloca_once(builder, LANES) for _ in range(vectors)] for _ in range(rows)]
    for m in range(rows):
        source = builder.add(start, builder.mul(start_row, _INT(m)))
        for v in range(vectors):
            builder.store(read(source, v), sums[m][v])
    left, right, row_start = (cgutils.alloca_once(builder, _INT) for _ in range(3))
    builder.store(a, row_start)
    builder.store(b, right)
    with cgutils.for_range(builder, outer):
        builder.store(builder.load(row_start), left)
        with cgutils.for_range(builder, inner):
            here, there = builder.load(left), builder.load(right)
            factors = [read(there, v) for v in range(vectors)]
            for m in range(rows):
                at = builder.add(here, builder.mul(a_row, _INT(m)))
                number = spread(builder, builder.load(builder.inttoptr(at, _REAL.as_pointer())), LANES)
                for v in range(vectors):
                    total = builder.load(sums[m][v])
                    builder.store(fused(builder, number, factors[v], total), sums[m][v])
            builder.store(builder.add(here, a_inner), left)
            builder.store(builder.add(there, b_row), right)
        builder.store(builder.add(builder.load(row_start), a_outer), row_start)
    least = spread(builder, floor, LANES)
    for m in range(rows):
        target = builder.add(out, builder.mul(out_row, _INT(m)))
        for v in range(vectors):
            total = floored(builder, builder.load(sums[m][v]), least)
            at = _at(builder, target, v)
            if v == last:
                masked_store(builder, total, at, mask)
            else:
                builder.store(total, builder.inttoptr(at, LANES.as_pointer()), align=4)


def _at(builder: Any, address: Any, vector: int) -> Any:
    return builder.add(address, _INT(4 * WIDTH * vector))


def load(builder: Any, address: Any) -> Any:
    """Builds the vector from `address` on."""
    return builder.load(builder.inttoptr(address, LANES.as_pointer()), align=4)


def masked_load(builder: Any, address: Any, mask: Any) -> Any:
    """Builds the vector from `address` on, of which only what the mask allows is read; the rest is zero."""
    kind = ir.FunctionType(LANES, [LANES.as_pointer(), ir.IntType(32), _MASK, LANES])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{WIDTH}f32.p0")
    zeros = ir.Constant(LANES, [0.0] * WIDTH)
    return builder.call(function, [builder.inttoptr(address, LANES.as_pointer()), ir.IntType(32)(4), mask, zeros])


def masked_store(builder: Any, value: Any, address: Any, mask: Any) -> None:
    """Builds the store of what the mask allows of a vector."""
    kind = ir.FunctionType(ir.VoidType(), [LANES, LANES.as_pointer(), ir.IntType(32), _MASK])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{WIDTH}f32.p0")
    builder.call(function, [value, builder.inttoptr(address, LANES.as_pointer()), ir.IntType(32)(4), mask])
