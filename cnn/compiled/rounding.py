"""Rounds float32 to bfloat16 and lays the results out for products: images with padding, and pairs of a sum's terms.

bfloat16 is the upper half of a float32, rounded to nearest, ties to even. It is kept as an unsigned integer of 16 bits.
A pair is one of 32 bits: two neighbouring terms of a sum, the first in the lower half.

Arrays that are bfloat16 already, of `precision.SHORT`, are laid out as they are.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from cnn.arrays import Array, Buffers
from cnn.compiled import parts as _parts
from cnn.compiled.called import INT
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import FLOATS, INNER, INTEGER, PARALLEL, parts_for, start_of
from cnn.compiled.vectors import WIDTH, spread
from cnn.precision import SHORT, shortened, widened

SHORTS, PAIRS = types.Array(types.uint16, 1, "C"), types.Array(types.uint32, 1, "C")
SHORT_ROWS, PAIR_ROWS = types.Array(types.uint16, 2, "C"), types.Array(types.uint32, 2, "C")
"""Numbers, pairs, and rows of either, as argument types of kernels."""

NUMBERS = object()
"""Stands for FLOATS or SHORTS among the argument types of `rare_kernels`."""

_WORD, _HALF = ir.IntType(32), ir.IntType(16)
_SIGNLESS, _INFINITY = 0x7FFFFFFF, 0x7F800000
_BELOW_HALF = 0x7FFF
_QUIET = 0x40


def rare_kernels(options: dict[str, Any], *kinds: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As `rare_kernel`, a kernel for each choice of types for those arguments that are NUMBERS."""
    places = [place for place, kind in enumerate(kinds) if kind is NUMBERS]

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        kernels = {}
        for chosen in product((FLOATS, SHORTS), repeat=len(places)):
            own = dict(zip(places, chosen, strict=True))
            made = rare_kernel(options, *(own.get(place, kind) for place, kind in enumerate(kinds)))(function)
            kernels[tuple(kind is SHORTS for kind in chosen)] = made

        def run(*arguments: Any) -> Any:
            return kernels[tuple(arguments[place].dtype == SHORT for place in places)](*arguments)

        return run

    return make


def _number(kind: Any) -> Any:
    """The type as which kernels read a number to be rounded."""
    return kind if kind == types.uint16 else types.float32


@intrinsic
def nearest(typing_context: Any, x: Any):
    """x in bfloat16; NaN stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.trunc(_rounded(builder, arguments[0]), _HALF)

    return types.uint16(_number(x)), generate


@intrinsic
def pair(typing_context: Any, first: Any, second: Any):
    """Two numbers in bfloat16 as a pair."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low, high = (_rounded(builder, each) for each in arguments)
        return builder.or_(low, builder.shl(high, _WORD(16)))

    return types.uint32(_number(first), _number(second)), generate


@intrinsic
def _turn_pairs_of_rows(
    typing_context: Any, x: Any, source: Any, source_row: Any, rows: Any, columns: Any, target: Any, target_row: Any
):
    """At most BLOCK pairs of rows of at most BLOCK numbers as rows of BLOCK pairs; what is beyond `rows` is zero.

    The numbers are of the type of the array x. All else are addresses, strides in bytes and counts.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_row, rows, columns, target, target_row = arguments
        kind = _HALF if signature.args[0].dtype == types.uint16 else ir.FloatType()
        lines = _masked_rows(builder, kind, source, source_row, rows, columns, target, 2 * BLOCK)
        lines = [_rounded(builder, line) for line in lines]
        highs = (builder.shl(line, ir.Constant(_BLOCK_ROW, [16] * BLOCK)) for line in lines[1::2])
        pairs = [builder.or_(low, high) for low, high in zip(lines[::2], highs, strict=True)]
        _store_turned(builder, pairs, target, target_row, columns)
        return context.get_dummy_value()

    return types.void(x, *[types.uintp] * 6), generate


@intrinsic
def _turn_whole_pairs_of_rows(typing_context: Any, x: Any, source: Any, source_row: Any, target: Any, target_row: Any):
    """As `_turn_pairs_of_rows`, of BLOCK whole pairs of rows: BLOCK columns of float32, or twice as many of bfloat16.

    Two rows of bfloat16 are interleaved quarter by quarter, first the first halves of all quarters, then the second
    ones, as one instruction of the processor does.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_row, target, target_row = arguments
        if signature.args[0].dtype != types.uint16:
            real = ir.FloatType()
            lines = [_rounded(builder, _load(builder, real, source, source_row, i, BLOCK)) for i in range(2 * BLOCK)]
            highs = (builder.shl(line, ir.Constant(_BLOCK_ROW, [16] * BLOCK)) for line in lines[1::2])
            pairs = [builder.or_(low, high) for low, high in zip(lines[::2], highs, strict=True)]
            _store_turned(builder, pairs, target, target_row)
            return context.get_dummy_value()
        for half in (0, 4):
            columns = [8 * (k // 4) + half + k % 4 for k in range(BLOCK)]
            order = ir.Constant(_BLOCK_ROW_OF_TWO, [each for k in columns for each in (k, 2 * BLOCK + k)])
            pairs = []
            for i in range(0, 2 * BLOCK, 2):
                both = (_load(builder, _HALF, source, source_row, i + k, 2 * BLOCK) for k in range(2))
                pairs.append(builder.bitcast(builder.shuffle_vector(*both, order), _BLOCK_ROW))
            _store_turned(builder, pairs, target, target_row, places=columns)
        return context.get_dummy_value()

    return types.void(x, *[types.uintp] * 4), generate


@intrinsic
def turn(typing_context: Any, source: Any, source_row: Any, rows: Any, columns: Any, target: Any, target_row: Any):
    """At most BLOCK rows of at most BLOCK float32, transposed. All are addresses, strides in bytes and counts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, rows, columns, target, target_row = arguments
        lines = _masked_rows(builder, ir.FloatType(), source, source_row, rows, columns, target, BLOCK)
        words = [builder.bitcast(each, _BLOCK_ROW) for each in lines]
        _store_turned(builder, words, target, target_row, columns, first_words(builder, rows))
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 6), generate


@intrinsic
def _turn_rows_of_pairs(typing_context: Any, x: Any, source: Any, source_row: Any, target: Any, target_row: Any):
    """BLOCK rows of BLOCK pairs of neighbours as the same, transposed.

    The numbers are of the type of the array x. All else are addresses and strides in bytes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_row, target, target_row = arguments
        kind = _HALF if signature.args[0].dtype == types.uint16 else ir.FloatType()
        rows = [_rounded(builder, _load(builder, kind, source, source_row, i, 2 * BLOCK)) for i in range(BLOCK)]
        halves = [builder.trunc(row, ir.VectorType(_HALF, 2 * BLOCK)) for row in rows]
        _store_turned(builder, [builder.bitcast(each, _BLOCK_ROW) for each in halves], target, target_row)
        return context.get_dummy_value()

    return types.void(x, *[types.uintp] * 4), generate


@intrinsic
def copy(typing_context: Any, source: Any, target: Any):
    """Copies AT_ONCE numbers that are bfloat16 from one address to another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (builder.inttoptr(each, _ROW_AT_ONCE.as_pointer()) for each in arguments)
        builder.store(builder.load(source, align=2), target, align=2)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@intrinsic
def copy_with_zeros(typing_context: Any, source: Any, target: Any, count: Any, total: Any):
    """Copies `count` numbers that are bfloat16, and writes zeros behind them, at most AT_ONCE numbers in `total`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (builder.inttoptr(each, _ROW_AT_ONCE.as_pointer()) for each in arguments[:2])
        numbers = ir.VectorType(_HALF, AT_ONCE)
        counts = (spread(builder, builder.trunc(each, _HALF), numbers) for each in arguments[2:])
        order = ir.Constant(numbers, list(range(AT_ONCE)))
        there, wanted = (builder.icmp_unsigned("<", order, each) for each in counts)
        zeros, name = ir.Constant(_ROW_AT_ONCE, [0] * AT_ONCE), f"v{AT_ONCE}i16.p0"
        kind = ir.FunctionType(_ROW_AT_ONCE, [source.type, _WORD, there.type, _ROW_AT_ONCE])
        read = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.{name}")
        kind = ir.FunctionType(ir.VoidType(), [_ROW_AT_ONCE, source.type, _WORD, there.type])
        write = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.{name}")
        builder.call(write, [builder.call(read, [source, _WORD(2), there, zeros]), target, _WORD(2), wanted])
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 4), generate


AT_ONCE = 32
"""Numbers that are bfloat16 in a cache line."""
_ROW_AT_ONCE = ir.VectorType(_HALF, AT_ONCE)

BLOCK = 16
"""Pairs that are transposed at once, across and down: as many as a cache line holds."""
_BLOCK_ROW, _BLOCK_ROW_OF_TWO = (ir.VectorType(_WORD, count) for count in (BLOCK, 2 * BLOCK))


def _load(builder: Any, kind: Any, address: Any, stride: Any, row: int, count: int) -> Any:
    at = builder.add(address, builder.mul(stride, stride.type(row)))
    return builder.load(builder.inttoptr(at, ir.VectorType(kind, count).as_pointer()), align=_size(kind))


def _size(kind: Any) -> int:
    """Bytes of a number."""
    return 2 if kind == _HALF else 4


def _masked_rows(
    builder: Any, kind: Any, address: Any, stride: Any, rows: Any, columns: Any, elsewhere: Any, count: int
) -> list[Any]:
    """Builds `count` rows of BLOCK numbers of a type, zero beyond `rows` and `columns`, where nothing is read.

    Processors take long not to read what lies in no page of memory: rows that are not there stand at `elsewhere`.
    """
    row_kind, name = ir.VectorType(kind, BLOCK), "i16" if kind == _HALF else "f32"
    mask, zeros = first_words(builder, columns), ir.Constant(row_kind, [0] * BLOCK)
    signature = ir.FunctionType(row_kind, [row_kind.as_pointer(), _WORD, mask.type, row_kind])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.load.v{BLOCK}{name}.p0")
    found = []
    for i in range(count):
        there = builder.icmp_unsigned("<", rows.type(i), rows)
        own = builder.select(there, mask, ir.Constant(mask.type, [0] * BLOCK))
        row = builder.select(there, builder.add(address, builder.mul(stride, stride.type(i))), elsewhere)
        at = builder.inttoptr(row, row_kind.as_pointer())
        found.append(builder.call(function, [at, _WORD(_size(kind)), own, zeros]))
    return found


def first_words(builder: Any, count: Any) -> Any:
    """Builds the mask of the first `count` of BLOCK words."""
    numbers = ir.VectorType(count.type, BLOCK)
    return builder.icmp_unsigned("<", ir.Constant(numbers, list(range(BLOCK))), spread(builder, count, numbers))


def _store_turned(
    builder: Any,
    rows: list[Any],
    address: Any,
    stride: Any,
    count: Any = None,
    mask: Any = None,
    places: Sequence[int] = range(BLOCK),
) -> None:
    """Stores BLOCK rows, transposed: each step exchanges one bit of the numbers of rows and columns.

    Of the results only `count` are stored, and of each what the mask allows. `places` are the numbers of their rows.
    """
    for bit in (1, 2, 4, 8):
        low = [k if not k & bit else BLOCK + k - bit for k in range(BLOCK)]
        high = [k + bit if not k & bit else BLOCK + k for k in range(BLOCK)]
        for i in range(BLOCK):
            if not i & bit:
                both = rows[i], rows[i + bit]
                rows[i], rows[i + bit] = (
                    builder.shuffle_vector(*both, ir.Constant(_BLOCK_ROW, order)) for order in (low, high)
                )
    everything = ir.Constant(ir.VectorType(ir.IntType(1), BLOCK), [1] * BLOCK)
    kind = ir.FunctionType(ir.VoidType(), [_BLOCK_ROW, _BLOCK_ROW.as_pointer(), _WORD, everything.type])
    store = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{BLOCK}i32.p0")
    for i, row in enumerate(rows):
        target = builder.add(address, builder.mul(stride, stride.type(places[i])))
        at = builder.inttoptr(target, _BLOCK_ROW.as_pointer())
        wanted = ir.IntType(1)(1) if count is None else builder.icmp_unsigned("<", count.type(i), count)
        with builder.if_then(wanted):
            builder.call(store, [row, at, _WORD(4), everything if mask is None else mask])


def _rounded(builder: Any, x: Any) -> Any:
    """Builds the upper half of a float32, rounded, in the lower half of a word whose upper half is zero.

    Of a vector it does so for each element. What is bfloat16 already is only widened to words.
    """
    count = getattr(x.type, "count", 0)
    kind = ir.VectorType(_WORD, count) if count else _WORD
    if (x.type.element if count else x.type) == _HALF:
        return builder.zext(x, kind)

    def word(value: int) -> Any:
        return ir.Constant(kind, [value] * count if count else value)

    bits = builder.bitcast(x, kind)
    upper = builder.lshr(bits, word(16))
    half = builder.add(word(_BELOW_HALF), builder.and_(upper, word(1)))
    carried = builder.lshr(builder.add(bits, half), word(16))
    quiet = builder.or_(upper, word(_QUIET))
    unordered = builder.icmp_unsigned(">", builder.and_(bits, word(_SIGNLESS)), word(_INFINITY))
    return builder.select(unordered, quiet, carried)


def write_nearest(builder: Any, value: Any, address: Any, vector: int, mask: Any) -> None:
    """As `called.write`, of numbers rounded to bfloat16."""
    kind = ir.VectorType(_HALF, WIDTH)
    signature = ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), _WORD, mask.type])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.store.v{WIDTH}i16.p0")
    at = builder.inttoptr(builder.add(address, INT(2 * WIDTH * vector)), kind.as_pointer())
    builder.call(function, [builder.trunc(_rounded(builder, value), kind), at, _WORD(2), mask])


@rare_kernel(PARALLEL, FLOATS, FLOATS, INTEGER)
def round_bfloat16(x, out, parts):
    """out = x rounded to bfloat16; out may be x."""
    bits = out.view(np.uint32)
    for part in prange(parts):
        for i in range(start_of(part, parts, x.size), start_of(part + 1, parts, x.size)):
            bits[i] = np.uint32(nearest(x[i])) << np.uint32(16)


@rare_kernel(PARALLEL, FLOATS, SHORTS, INTEGER)
def to_bfloat16(x, out, parts):
    """out = x rounded to bfloat16."""
    for part in prange(parts):
        for i in range(start_of(part, parts, x.size), start_of(part + 1, parts, x.size)):
            out[i] = nearest(x[i])


@rare_kernel(PARALLEL, SHORTS, FLOATS, INTEGER)
def to_float32(x, out, parts):
    """out = x, which is bfloat16."""
    bits = out.view(np.uint32)
    for part in prange(parts):
        for i in range(start_of(part, parts, x.size), start_of(part + 1, parts, x.size)):
            bits[i] = np.uint32(x[i]) << np.uint32(16)


def flat(*arrays: Array) -> list[Array] | None:
    """As `parts.flat`, of arrays each of which is float32 or SHORT."""
    return _parts.flat(*arrays, kinds="fH")


def widen(x: Array, out: Array) -> None:
    """out (float32) = x (SHORT)."""
    if x.flags.carray and out.flags.carray:
        to_float32(x.reshape(-1), out.reshape(-1), parts_for(x.size))
    else:
        np.copyto(out, widened(x))


def in_float32(x: Array, name: str, scratch: Buffers) -> Array:
    """x itself, or the buffer `name` with what x has in SHORT."""
    if x.dtype != SHORT:
        return x
    wide = scratch.get(name, x.shape, np.float32)
    widen(x, wide)
    return wide


def float32_for(out: Array, scratch: Buffers, *, kept: bool = False) -> Array:
    """out itself, or where it is SHORT a buffer for its results, which `store` then puts into it.

    If `kept`, the buffer has what out had.
    """
    if out.dtype != SHORT:
        return out
    wide = scratch.get("wide out", out.shape, np.float32)
    if kept:
        widen(out, wide)
    return wide


def store(results: Array, out: Array) -> None:
    """out = the results in what `float32_for` returned, rounded once if out is SHORT."""
    if out is results:
        return
    if out.flags.carray:
        to_bfloat16(results.reshape(-1), out.reshape(-1), parts_for(out.size))
    else:
        np.copyto(out, shortened(results))


@njit(**INNER)
def columns_of(g):
    """Columns of a padded image."""
    return (g.out_columns - 1) * g.right + g.kernel_columns


@njit(**INNER)
def rows_of(g):
    """Rows of a padded image."""
    return (g.out_rows - 1) * g.down + g.kernel_rows


@njit(**INNER)
def pad(x, g, image, plane):
    """Rounds the part of an image of x that windows read into the plane, which is zero everywhere else."""
    H, W, C, top, left = g.height, g.width, g.channels, g.top, g.left
    rows, columns = rows_of(g), columns_of(g)
    first, last = max(0, -left), min(W, columns - left)
    for h in range(max(0, -top), min(H, rows - top)):
        source = np.uintp(((image * H + h) * W + first) * C)
        to = np.uintp(((h + top) * columns + first + left) * C)
        for j in range(np.uintp(max(0, last - first) * C)):
            plane[to + j] = nearest(x[source + j])


@njit(**INNER)
def pad_pairs(x, g, image, plane, line):
    """As `pad`, but each number as a pair with the one that the next output to the right meets in its place.

    `line` has room for a padded row and as many zeros as the stride to the right has numbers.
    """
    H, W, C, top, left, step = g.height, g.width, g.channels, g.top, g.left, np.uintp(g.right * g.channels)
    rows, columns = rows_of(g), columns_of(g)
    first, last = max(0, -left), min(W, columns - left)
    line[:] = 0
    for h in range(max(0, -top), min(H, rows - top)):
        source, to = np.uintp(((image * H + h) * W + first) * C), np.uintp((first + left) * C)
        for j in range(np.uintp(max(0, last - first) * C)):
            line[to + j] = nearest(x[source + j])
        start = np.uintp((h + top) * columns * C)
        for j in range(np.uintp(columns * C)):
            plane[start + j] = pair(line[j], line[j + step])


@njit(**INNER)
def panel(x, rows, run, width, first, across, pairs, out):
    """out (rows, pairs, across) from columns `first` on of x (rows, run, width), flat: pairs along its second axis.

    What is not in x is zero. `pairs` is at least half of `run`.
    """
    count, whole = np.uintp(max(0, min(across, width - first))), run // 2
    for r in range(rows):
        for i in range(pairs):
            to = np.uintp((r * pairs + i) * across)
            at = np.uintp((r * run + 2 * i) * width + first)
            below = at + np.uintp(width)
            if i < whole:
                for k in range(count):
                    out[to + k] = pair(x[at + k], x[below + k])
            elif 2 * i < run:
                for k in range(count):
                    out[to + k] = pair(x[at + k], np.uint16(0))
            rest = count if 2 * i < run else np.uintp(0)
            for k in range(rest, np.uintp(across)):
                out[to + k] = np.uint32(0)


@rare_kernels(PARALLEL, NUMBERS, *[INTEGER] * 4, PAIR_ROWS, INTEGER)
def panels(x, rows, run, width, across, out, parts):
    """Every panel of `across` columns of x (rows, run, width), flat: a row of out each, see `panel`."""
    count = out.shape[0]
    pairs = out.shape[1] // (rows * across)
    total = count * rows
    for part in prange(parts):
        for unit in range(start_of(part, parts, total), start_of(part + 1, parts, total)):
            number, r = np.intp(unit) // rows, np.intp(unit) % rows
            size = pairs * across
            panel(x[r * run * width :], 1, run, width, number * across, across, pairs, out[number, r * size :])


@rare_kernels(PARALLEL, NUMBERS, INTEGER, INTEGER, SHORTS, INTEGER)
def rows(x, count, width, out, parts):
    """out, `count` rows of at least `width` numbers, = x (count, width), both flat; what is not in x is zero."""
    step = np.uintp(len(out) // count)
    for part in prange(parts):
        for row in range(start_of(part, parts, count), start_of(part + 1, parts, count)):
            source, to = row * np.uintp(width), row * step
            for j in range(np.uintp(width)):
                out[to + j] = nearest(x[source + j])
            for j in range(np.uintp(width), step):
                out[to + j] = np.uint16(0)


@njit(**INNER)
def turned(x, terms, width, first, last, pairs, out, step):
    """Columns `first` to `last` of x (terms, width), flat, as rows of out, `step` pairs apart: `pairs` pairs of each.

    What is not in x is zero. So are the pairs behind these up to a multiple of BLOCK, for which there must be room.
    """
    source, target, across = np.uintp(x.ctypes.data), np.uintp(out.ctypes.data), np.uintp(width)
    size = np.uintp(x.itemsize)
    many = np.uintp(2 * BLOCK if x.itemsize == 2 else BLOCK)
    for i in range(np.uintp(0), np.uintp(pairs), np.uintp(BLOCK)):
        rows = np.uintp(max(0, terms - 2 * np.intp(i)))
        inside = (np.uintp(last) - np.uintp(first)) // many * many if rows >= 2 * BLOCK else np.uintp(0)
        edge = np.uintp(first) + inside
        for j in range(np.uintp(first), edge, many):
            _turn_whole_pairs_of_rows(
                *(x, source + (2 * i * across + j) * size, across * size),
                *(target + (j * np.uintp(step) + i) * 4, np.uintp(step) * 4),
            )
        for j in range(edge, np.uintp(last), np.uintp(BLOCK)):
            _turn_pairs_of_rows(
                *(x, source + (2 * i * across + j) * size, across * size, rows, np.uintp(last) - j),
                *(target + (j * np.uintp(step) + i) * 4, np.uintp(step) * 4),
            )


@rare_kernels(PARALLEL, NUMBERS, INTEGER, INTEGER, PAIR_ROWS, INTEGER)
def turned_rows(x, terms, width, out, parts):
    """out = x (terms, width), flat and transposed, in pairs of its rows; what is not in x is zero.

    out has `width` rows of at least half of `terms` pairs, a multiple of BLOCK.
    """
    for part in prange(parts):
        first, last = start_of(part, parts, width), start_of(part + 1, parts, width)
        turned(x, terms, width, first, last, out.shape[1], out.reshape(-1), out.shape[1])


@njit(**INNER)
def _turned_panel(x, width, run, first, across, pairs, out):
    """As `panel` of the transpose of x, which is (width, run), flat: out (pairs, across) from its rows `first` on."""
    count, whole, row = np.uintp(max(0, min(across, width - first))), np.uintp(run // 2), np.uintp(run)
    size = np.uintp(x.itemsize)
    source, target = np.uintp(x.ctypes.data) + np.uintp(first) * row * size, np.uintp(out.ctypes.data)
    down, along = count - count % np.uintp(BLOCK), whole - whole % np.uintp(BLOCK)
    for k in range(np.uintp(0), down, np.uintp(BLOCK)):
        for i in range(np.uintp(0), along, np.uintp(BLOCK)):
            _turn_rows_of_pairs(
                *(x, source + (k * row + 2 * i) * size, row * size),
                *(target + (i * np.uintp(across) + k) * 4, np.uintp(across) * 4),
            )
    for k in range(np.uintp(across)):
        at = (np.uintp(first) + k) * row
        for i in range(along if k < down else np.uintp(0), np.uintp(pairs)):
            value = np.uint32(0)
            if k < count and i < whole:
                value = pair(x[at + 2 * i], x[at + 2 * i + 1])
            elif k < count and 2 * i < row:
                value = pair(x[at + 2 * i], np.uint16(0))
            out[i * np.uintp(across) + k] = value


@rare_kernels(PARALLEL, NUMBERS, INTEGER, INTEGER, INTEGER, PAIR_ROWS, INTEGER)
def turned_panels(x, width, run, across, out, parts):
    """Every panel of `across` rows of x (width, run), flat, as `panels` of its transpose would be, see `panel`."""
    count = out.shape[0]
    for part in prange(parts):
        for number in range(count * part // parts, count * (part + 1) // parts):
            _turned_panel(x, width, run, number * across, across, out.shape[1] // across, out[number])


def right_panels(b: Array, k: int, n: int, terms: int, across: int, scratch: Buffers, *, transposed: bool) -> Array:
    """The panels of `across` columns of op(b) (K, N), rounded, with `terms` terms: zeros beyond K."""

    def lay_out(found: Array) -> None:
        parts = min(parts_for(b.size), len(found))
        if transposed:
            turned_panels(b.reshape(-1), n, k, across, found, parts)
        else:
            panels(b.reshape(-1), 1, k, n, across, found, parts)

    name = f"right panels of {across}{', turned' if transposed else ''}"
    return scratch.made_of(b, name, (-(-n // across), terms // 2 * across), np.uint32, lay_out)
