"""The microkernel of bfloat16: a product of a few rows and vectors whose pairs of terms are multiplied at once.

Built as that of float32 (`microkernel.py`), with the instruction VDPBF16PS of AVX512_BF16, which adds two products of
bfloat16 to a sum of float32. Where the processor lacks it, the same is built of multiply-adds: no faster than float32,
but the same sums.
"""

from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils

from cnn.compiled.called import INT, address_of, first_lanes, read, sums_from, write_sums
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.microkernel import ARGUMENTS, of_each_size
from cnn.compiled.vectors import LANES, WIDTH, fused, spread

NATIVE = bool(llvm.get_host_cpu_features().get("avx512bf16"))
"""Whether this processor has the instruction."""

_WORD = ir.IntType(32)
_WORDS = ir.VectorType(_WORD, WIDTH)


class _BrainFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


_NUMBERS = ir.VectorType(_BrainFloat(), 2 * WIDTH)


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
    terms: Any,
    b: Any,
    b_row: Any,
    start: Any,
    start_row: Any,
    floor: Any,
    out: Any,
    out_row: Any,
) -> None:
    """The code for one size."""
    masks = [None] * (vectors - 1) + [first_lanes(builder, tail)]
    sums = sums_from(builder, rows, masks, start, start_row)
    left, right, row_start = (cgutils.alloca_once(builder, INT) for _ in range(3))

    def add_pairs(width: int) -> None:
        """Adds the products of one pair, or of its first number, of `width` bits together."""
        here, there = builder.load(left), builder.load(right)
        factors = [builder.bitcast(read(builder, there, v), _WORDS) for v in range(vectors)]
        kind = ir.IntType(width)
        for m in range(rows):
            at = builder.inttoptr(builder.add(here, builder.mul(a_row, INT(m))), kind.as_pointer())
            number = builder.load(at, align=2)
            both = spread(builder, number if width == 32 else builder.zext(number, _WORD), _WORDS)
            for v in range(vectors):
                builder.store(_added(builder, builder.load(sums[m][v]), both, factors[v]), sums[m][v])
        builder.store(builder.add(here, a_inner), left)
        builder.store(builder.add(there, b_row), right)

    builder.store(a, row_start)
    builder.store(b, right)
    pairs, single = builder.lshr(terms, INT(1)), builder.trunc(terms, ir.IntType(1))
    with cgutils.for_range(builder, outer):
        builder.store(builder.load(row_start), left)
        with cgutils.for_range(builder, pairs):
            add_pairs(32)
        with builder.if_then(single):
            add_pairs(16)
        builder.store(builder.add(builder.load(row_start), a_outer), row_start)
    write_sums(builder, sums, masks, floor, out, out_row)


def _added(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Builds total + the two products of each pair of a and b."""
    if NATIVE:
        kind = ir.FunctionType(LANES, [LANES, _NUMBERS, _NUMBERS])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        return builder.call(function, [total, builder.bitcast(a, _NUMBERS), builder.bitcast(b, _NUMBERS)])
    for part in (_first, _second):
        total = fused(builder, part(builder, a), part(builder, b), total)
    return total


def _first(builder: Any, pairs: Any) -> Any:
    """Builds the first numbers of pairs as float32."""
    return builder.bitcast(builder.shl(pairs, ir.Constant(_WORDS, [16] * WIDTH)), LANES)


def _second(builder: Any, pairs: Any) -> Any:
    return builder.bitcast(builder.and_(pairs, ir.Constant(_WORDS, [0xFFFF0000] * WIDTH)), LANES)


_inlined = of_each_size(_generate)


@rare_kernel({"nogil": True, "error_model": "numpy"}, *ARGUMENTS)
def dotproduct(
    rows, vectors, tail, a, a_row, a_outer, a_inner, outer, terms, b, b_row, start, start_row, floor, out, out_row
):
    """out[m] = max(floor, start[m] + sum over i, j of a[m, i, j] * b[i, j]) for `rows` rows m; j counts `terms`.

    a and b are bfloat16. Two terms of a lie side by side, and the next two `a_inner` bytes further; of a last single
    term nothing beside it is read. b has a row of pairs for each two terms. `rows` is 1 to ROWS. A row of b, start and
    out has `vectors` vectors, 1 to VECTORS; in start and out the last one has `tail` elements, 1 to WIDTH. Otherwise as
    `microkernel`.
    """
    _inlined(
        *(rows, vectors, tail, a, a_row, a_outer, a_inner, outer, terms, b, b_row),
        *(start, start_row, floor, out, out_row),
    )


@cache
def address() -> Any:
    """The address of `dotproduct` as a C function of its arguments."""
    return address_of(dotproduct)
