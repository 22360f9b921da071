"""A product of a few rows and vectors that stays in registers, from which direct convolution is built.

GotoBLAS's inner kernel (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3),
2008), except that the left factor is read in place: its rows, and two nested loops along them, have their own
strides. So the windows of an image need no columns.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

from cnn.compiled.called import INT, REAL, address_of, calling, first_lanes, read, sums_from, unpacked, write_sums
from cnn.compiled.kernels import kernel
from cnn.compiled.parts import INTEGER
from cnn.compiled.vectors import LANES, fused, spread

VECTORS = 2
"""At most two vectors across, so that each number of the left factor is read once and multiplied twice."""

ROWS = 12 if llvm.get_host_cpu_features().get("avx512f") else 6
"""At most this many rows: with VECTORS sums each they take 24 of AVX-512's 32 registers, or 12 of AVX's 16."""

ARGUMENTS = (
    *(INTEGER,) * 3,  # rows, vectors, tail
    *(INTEGER,) * 4,  # a, its strides: from row to row, outer loop, inner loop
    *(INTEGER,) * 2,  # iterations of each loop
    *(INTEGER,) * 2,  # b, its stride
    *(INTEGER,) * 2,  # start, its stride
    types.float32,  # floor
    *(INTEGER,) * 2,  # out, its stride
)
"""The types of a microkernel's arguments."""


def of_each_size(code: Callable[..., None]) -> Any:
    """A microkernel's code, a piece for each size: `code` builds that for so many rows and vectors across."""

    @intrinsic
    def inlined(typing_context: Any, *arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            rows, vectors, *others = unpacked(builder, values[0], ARGUMENTS)
            done = builder.append_basic_block("done")
            choice = builder.add(builder.mul(vectors, INT(ROWS + 1)), rows)
            switch = builder.switch(choice, done)
            for across in range(1, VECTORS + 1):
                for down in range(1, ROWS + 1):
                    block = builder.append_basic_block(f"tile{down}x{across}")
                    switch.add_case(INT(across * (ROWS + 1) + down), block)
                    builder.position_at_end(block)
                    code(builder, down, across, *others)
                    builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(types.StarArgTuple(ARGUMENTS)), generate

    return inlined


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
    # Only the last vector may be shorter.
    masks = [None] * (vectors - 1) + [first_lanes(builder, tail)]
    sums = sums_from(builder, rows, masks, start, start_row)
    left, right, row_start = (cgutils.alloca_once(builder, INT) for _ in range(3))
    builder.store(a, row_start)
    builder.store(b, right)
    with cgutils.for_range(builder, outer):
        builder.store(builder.load(row_start), left)
        with cgutils.for_range(builder, inner):
            here, there = builder.load(left), builder.load(right)
            factors = [read(builder, there, v, masks[v]) for v in range(vectors)]
            for m in range(rows):
                at = builder.add(here, builder.mul(a_row, INT(m)))
                number = spread(builder, builder.load(builder.inttoptr(at, REAL.as_pointer())), LANES)
                for v in range(vectors):
                    total = builder.load(sums[m][v])
                    builder.store(fused(builder, number, factors[v], total), sums[m][v])
            builder.store(builder.add(here, a_inner), left)
            builder.store(builder.add(there, b_row), right)
        builder.store(builder.add(builder.load(row_start), a_outer), row_start)
    write_sums(builder, sums, masks, floor, out, out_row)


_inlined = of_each_size(_generate)


@kernel({"nogil": True, "error_model": "numpy"}, *ARGUMENTS)
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
    return address_of(microkernel)


tile = calling(ARGUMENTS)
"""Calls the microkernel at an address."""
