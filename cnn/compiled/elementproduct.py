"""Sums of products of vectors, element by element, that stay in registers: from them depthwise convolutions are built.

One channel of a depthwise convolution has nothing to do with another, so a vector holds neighbouring channels, and
both factors are vectors. Its numbers are read where they lie, in the image and in the kernels: the two nested loops
over the terms have their own strides in both. Only the strides differ between a convolution and its gradients.
"""

from functools import cache
from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

from cnn.compiled.called import INT, address_of, calling, first_lanes, read, sums_from, unpacked, write_sums
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import INTEGER
from cnn.compiled.vectors import WIDTH, fused

ROWS = 6
"""At most this many rows: with two sums each they take 12 of AVX's 16 registers. More would save hardly any loads."""

_ARGUMENTS = (
    *(INTEGER,) * 2,  # rows, channels
    *(INTEGER,) * 4,  # a, its strides: from row to row, outer loop, inner loop
    *(INTEGER,) * 2,  # iterations of each loop
    *(INTEGER,) * 3,  # b, its strides: outer loop, inner loop
    *(INTEGER,) * 2,  # start, its stride
    types.float32,  # floor
    *(INTEGER,) * 2,  # out, its stride
)


@intrinsic
def _inlined(typing_context: Any, *arguments: Any) -> Any:
    """The code of `elementproduct`, one piece for each number of rows."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rows, channels, a, *strides, start, start_row, floor, out, out_row = unpacked(builder, values[0], _ARGUMENTS)
        a_row, a_outer, a_inner, outer, inner, b, b_outer, b_inner = strides
        done = builder.append_basic_block("done")
        whole = builder.and_(channels, INT(-2 * WIDTH))
        switch = builder.switch(rows, done)
        for down in range(1, ROWS + 1):
            block = builder.append_basic_block(f"rows{down}")
            switch.add_case(INT(down), block)
            builder.position_at_end(block)

            def sums(first: Any, vectors: int, count: Any, down: int = down) -> None:
                at = builder.mul(first, INT(4))
                a_at, b_at, start_at, out_at = (builder.add(each, at) for each in (a, b, start, out))
                _generate(
                    *(builder, down, vectors, count),
                    *(a_at, a_row, a_outer, a_inner, outer, inner, b_at, b_outer, b_inner),
                    *(start_at, start_row, floor, out_at, out_row),
                )

            with cgutils.for_range_slice(builder, INT(0), whole, INT(2 * WIDTH), inc=True) as (first, _):
                sums(first, 2, None)
            with cgutils.for_range_slice(builder, whole, channels, INT(WIDTH), inc=True) as (first, _):
                sums(first, 1, builder.sub(channels, first))
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(types.StarArgTuple(_ARGUMENTS)), generate


@rare_kernel({"nogil": True, "error_model": "numpy"}, *_ARGUMENTS)
def elementproduct(
    rows,
    channels,
    a,
    a_row,
    a_outer,
    a_inner,
    outer,
    inner,
    b,
    b_outer,
    b_inner,
    start,
    start_row,
    floor,
    out,
    out_row,
):
    """out[m] = max(floor, start[m] + sum over i, j of a[m, i, j] * b[i, j]) for `rows` rows m of `channels` elements.

    `rows` is 1 to ROWS. a, b, start and out are addresses. Strides are in bytes; a stride of zero repeats a row. As
    its code is long, it is compiled once and called by address.
    """
    _inlined(
        *(rows, channels, a, a_row, a_outer, a_inner, outer, inner, b, b_outer, b_inner),
        *(start, start_row, floor, out, out_row),
    )


@cache
def address() -> Any:
    """The address of `elementproduct` as a C function of its arguments."""
    return address_of(elementproduct)


add_products = calling(_ARGUMENTS)
"""Calls `elementproduct` at an address."""


def _generate(
    builder: Any,
    rows: int,
    vectors: int,
    count: Any,
    a: Any,
    a_row: Any,
    a_outer: Any,
    a_inner: Any,
    outer: Any,
    inner: Any,
    b: Any,
    b_outer: Any,
    b_inner: Any,
    start: Any,
    start_row: Any,
    floor: Any,
    out: Any,
    out_row: Any,
) -> None:
    """The code for `rows` rows of `vectors` whole vectors, or of the first `count` elements of one."""
    mask = None if count is None else first_lanes(builder, count)
    masks = [mask] * vectors
    sums = sums_from(builder, rows, masks, start, start_row)
    left, right, a_start, b_start = (cgutils.alloca_once(builder, INT) for _ in range(4))
    builder.store(a, a_start)
    builder.store(b, b_start)
    with cgutils.for_range(builder, outer):
        builder.store(builder.load(a_start), left)
        builder.store(builder.load(b_start), right)
        with cgutils.for_range(builder, inner):
            here, there = builder.load(left), builder.load(right)
            factors = [read(builder, there, v, mask) for v in range(vectors)]
            for m in range(rows):
                at = builder.add(here, builder.mul(a_row, INT(m)))
                for v in range(vectors):
                    total = builder.load(sums[m][v])
                    builder.store(fused(builder, read(builder, at, v, mask), factors[v], total), sums[m][v])
            builder.store(builder.add(here, a_inner), left)
            builder.store(builder.add(there, b_inner), right)
        builder.store(builder.add(builder.load(a_start), a_outer), a_start)
        builder.store(builder.add(builder.load(b_start), b_outer), b_start)
    write_sums(builder, sums, masks, floor, out, out_row)
