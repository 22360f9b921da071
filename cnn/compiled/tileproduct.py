"""The microkernel of tiles: a product of up to 32 rows and 32 columns, in two by two tiles of sums.

Called as the other microkernels are (`microkernel.py`), except that a thread configures its tiles before the first
product and releases them after the last, and that a table says where the pieces of a sum begin in either factor.

Sums have a multiple of TERMS terms: whoever lays out the factors fills both with zeros. The rows that tiles hold beyond
those asked for may be anything that can be read: each row of a left factor has its own sums, and these are not written.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from cnn.compiled import amx
from cnn.compiled.called import INT, address_of, calling, first_lanes, read, unpacked, write
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import INNER, INTEGER
from cnn.compiled.rounding import write_nearest
from cnn.compiled.tiles import EMULATED_SPACE, ROW_BYTES, ROW_WORDS, ROWS, Amx, Emulated
from cnn.compiled.vectors import WIDTH, floored, spread

SIDE = 2 * ROWS
"""At most this many rows and columns: each tile that is read is multiplied twice, as reading takes half as long."""

TERMS = 2 * ROW_WORDS
"""Terms that a tile multiplies at a time."""

SUMS_SPACE = SIDE * SIDE * 4
SPACE = SUMS_SPACE + EMULATED_SPACE
"""Bytes that a thread needs for sums, and for registers where they are emulated."""

CONFIGURE, MULTIPLY, RELEASE = range(3)
"""What a microkernel of tiles may be asked to do."""

ARGUMENTS = (
    *(INTEGER,) * 2,  # what to do, space
    *(INTEGER,) * 2,  # rows, columns
    *(INTEGER,) * 2,  # a, its stride from row to row
    *(INTEGER,) * 2,  # table, its entries
    INTEGER,  # steps
    *(INTEGER,) * 2,  # b, its stride from pair to pair
    *(INTEGER,) * 2,  # start, its stride
    types.float32,  # floor
    *(INTEGER,) * 2,  # out, its stride
    INTEGER,  # whether out is bfloat16
)
"""The types of its arguments."""

run = calling(ARGUMENTS)
"""Calls the microkernel at an address."""


def generate(tiles: Amx | Emulated, builder: Any, values: list[Any]) -> None:
    """Writes the code of a microkernel, with the instructions `tiles`, for the values of its arguments."""
    what, space, rows, columns, *others = values
    done = builder.append_basic_block("done")
    tasks: dict[int, Callable[[], None]] = {
        CONFIGURE: lambda: tiles.configure(builder, _registers(builder, space)),
        MULTIPLY: lambda: _choose(tiles, builder, space, rows, columns, *others),
        RELEASE: lambda: tiles.release(builder, _registers(builder, space)),
    }
    switch = builder.switch(what, done)
    for task, write_code in tasks.items():
        block = builder.append_basic_block(f"task{task}")
        switch.add_case(INT(task), block)
        builder.position_at_end(block)
        write_code()
        builder.branch(done)
    builder.position_at_end(done)


def _registers(builder: Any, space: Any) -> Any:
    return builder.add(space, INT(SUMS_SPACE))


def _choose(
    tiles: Amx | Emulated,
    builder: Any,
    space: Any,
    rows: Any,
    columns: Any,
    a: Any,
    a_row: Any,
    table: Any,
    pieces: Any,
    steps: Any,
    b: Any,
    b_row: Any,
    start: Any,
    start_row: Any,
    floor: Any,
    out: Any,
    out_row: Any,
    narrow: Any,
) -> None:
    """The product in as many tiles as it takes, a piece of code for each number, and then its rows."""
    tall, wide = (builder.icmp_signed(">", each, INT(ROWS)) for each in (rows, columns))
    number = builder.add(builder.shl(builder.zext(tall, INT), INT(1)), builder.zext(wide, INT))
    ready = builder.append_basic_block("ready")
    switch = builder.switch(number, ready)
    for down, across in ((1, 1), (1, 2), (2, 1), (2, 2)):
        block = builder.append_basic_block(f"tiles{down}x{across}")
        switch.add_case(INT(2 * (down - 1) + across - 1), block)
        builder.position_at_end(block)
        _sum_up(tiles, builder, down, across, space, a, a_row, table, pieces, steps, b, b_row)
        builder.branch(ready)
    builder.position_at_end(ready)
    with builder.if_else(builder.icmp_signed("!=", narrow, INT(0))) as (bfloat16, float32):
        for branch, store in ((bfloat16, write_nearest), (float32, write)):
            with branch:
                _write_rows(builder, space, rows, columns, start, start_row, floor, out, out_row, store)


def _sum_up(
    tiles: Amx | Emulated,
    builder: Any,
    down: int,
    across: int,
    space: Any,
    a: Any,
    a_row: Any,
    table: Any,
    pieces: Any,
    steps: Any,
    b: Any,
    b_row: Any,
) -> None:
    """The sums of down x across tiles into the space. Tiles 0 to 3 are sums, 4 and 5 left, 6 and 7 right factors."""
    registers = _registers(builder, space)
    sums = [(i, j, 2 * i + j) for i in range(down) for j in range(across)]
    for _, _, tile in sums:
        tiles.zero(builder, registers, tile)
    left, right = (cgutils.alloca_once(builder, INT) for _ in range(2))
    below, further = builder.mul(a_row, INT(ROWS)), builder.mul(b_row, INT(ROWS))
    with cgutils.for_range(builder, pieces) as piece:
        entry = builder.add(table, builder.mul(piece.index, INT(16)))
        for factor, where, offset in ((a, left, 0), (b, right, 8)):
            number = builder.load(builder.inttoptr(builder.add(entry, INT(offset)), INT.as_pointer()))
            builder.store(builder.add(factor, number), where)
        with cgutils.for_range(builder, steps):
            here, there = builder.load(left), builder.load(right)
            for j in range(across):
                tiles.load(builder, registers, 6 + j, builder.add(there, INT(ROW_BYTES * j)), b_row)
            for i in range(down):
                tiles.load(builder, registers, 4 + i, builder.add(here, below) if i else here, a_row)
                for j in range(across):
                    tiles.multiply(builder, registers, 2 * i + j, 4 + i, 6 + j)
            builder.store(builder.add(here, INT(ROW_BYTES)), left)
            builder.store(builder.add(there, further), right)
    for i, j, tile in sums:
        at = builder.add(space, INT(i * ROWS * SIDE * 4 + j * ROW_BYTES))
        tiles.store(builder, registers, tile, at, INT(SIDE * 4))


def _write_rows(
    builder: Any,
    space: Any,
    rows: Any,
    columns: Any,
    start: Any,
    start_row: Any,
    floor: Any,
    out: Any,
    out_row: Any,
    store: Callable[..., None],
) -> None:
    """out = max(floor, start + the sums in the space), by `write` or what is called like it."""
    least, masks = spread(builder, floor, ir.VectorType(ir.FloatType(), WIDTH)), []
    for vector in range(SIDE // WIDTH):
        rest = builder.sub(columns, INT(vector * WIDTH))
        some = builder.icmp_signed(">", rest, INT(0))
        masks.append(first_lanes(builder, builder.select(some, rest, INT(0))))
    with cgutils.for_range(builder, rows) as loop:
        places = ((space, INT(SIDE * 4)), (start, start_row), (out, out_row))
        source, before, target = (builder.add(at, builder.mul(step, loop.index)) for at, step in places)
        for vector, mask in enumerate(masks):
            total = builder.fadd(read(builder, before, vector, mask), read(builder, source, vector))
            store(builder, floored(builder, total, least), target, vector, mask)


def _with(tiles: Amx | Emulated) -> Any:
    @intrinsic
    def inlined(typing_context: Any, *arguments: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            generate(tiles, builder, unpacked(builder, values[0], ARGUMENTS))
            return context.get_dummy_value()

        return types.void(types.StarArgTuple(ARGUMENTS)), code

    return inlined


_by_amx, _by_emulation = _with(Amx()), _with(Emulated())
_OPTIONS = {"nogil": True, "error_model": "numpy"}


@rare_kernel(_OPTIONS, *ARGUMENTS)
def amx_product(
    what, space, rows, columns, a, a_row, table, pieces, steps, b, b_row, start, start_row, floor, out, out_row, narrow
):
    """out[m] = max(floor, start[m] + sum over pieces of a piece of a[m] @ a piece of b) for `rows` rows m, by AMX.

    All are addresses, and strides bytes. An entry of the table is two offsets, where a piece begins in a and in b. A
    piece has `steps` times TERMS terms. In a they lie side by side; b has a row for each two of them, which holds pairs
    for at least `columns` columns, rounded up to ROWS. Both are bfloat16, and out is if `narrow`, of float32 sums.
    `rows` and `columns` are 1 to SIDE. That is for MULTIPLY; CONFIGURE and RELEASE, before and after, read none of
    these but `space`, SPACE bytes of the thread.
    """
    _by_amx(
        *(what, space, rows, columns, a, a_row, table, pieces, steps, b, b_row),
        *(start, start_row, floor, out, out_row, narrow),
    )


@rare_kernel(_OPTIONS, *ARGUMENTS)
def emulated_product(
    what, space, rows, columns, a, a_row, table, pieces, steps, b, b_row, start, start_row, floor, out, out_row, narrow
):
    """As `amx_product`, on every processor."""
    _by_emulation(
        *(what, space, rows, columns, a, a_row, table, pieces, steps, b, b_row),
        *(start, start_row, floor, out, out_row, narrow),
    )


@cache
def emulated() -> Any:
    """The address of `emulated_product` as a C function of its arguments."""
    return address_of(emulated_product)


@cache
def engine() -> Any:
    """The address of `amx_product`, None where this process may not use AMX."""
    return None if amx.trouble() else address_of(amx_product)


@njit(**INNER)
def configured(microkernel, space):
    """The address of the thread's space, a row of words, once its tiles are configured."""
    address = np.intp(space.ctypes.data)
    run(microkernel, CONFIGURE, address, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, np.float32(0), 0, 0, 0)
    return address


@njit(**INNER)
def released(microkernel, space):
    """After the thread's last product."""
    run(microkernel, RELEASE, space, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, np.float32(0), 0, 0, 0)


@njit(**INNER)
def multiply(
    microkernel,
    space,
    rows,
    columns,
    a,
    a_row,
    table,
    pieces,
    steps,
    b,
    b_row,
    start,
    start_row,
    floor,
    out,
    out_row,
    narrow,
):
    """See `amx_product`."""
    run(
        *(microkernel, MULTIPLY, space, rows, columns, a, a_row, table, pieces, steps, b, b_row),
        *(start, start_row, floor, out, out_row, narrow),
    )
