"""Tiles: registers of 16 rows of 64 bytes that are multiplied with each other, by AMX or by plain code that does so.

Either set of instructions is written into a function by the same calls, so that whatever is built of tiles can be
tested on every processor. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter
"Programming with Intel Advanced Matrix Extensions", and volume 2, LDTILECFG, TDPBF16PS, TILELOADD, TILERELEASE,
TILESTORED and TILEZERO.

The plain code is exact, also where it is at odds with ordinary arithmetic: numbers below the smallest normal one are
read and written as zero, and a product of tiles first adds up the products of the first numbers of all pairs, in
order and each in one rounding, then those of the second numbers, then the two sums, and only then what was there. What
hardware refuses, above all tiles without a configuration, gives NaN. The order is that of the manual; that hardware
gives the same bits has not been verified.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from cnn.compiled.called import INT
from cnn.compiled.vectors import spread

ROWS, ROW_BYTES, COUNT = 16, 64, 8
"""Rows of a tile, their bytes, and how many tiles there are."""
ROW_WORDS = ROW_BYTES // 4

_BYTE, _HALF, _WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_NOTHING = ir.VoidType()
_WORDS, _REALS = ir.VectorType(_WORD, ROW_WORDS), ir.VectorType(ir.FloatType(), ROW_WORDS)
_MASK, _NUMBERS = ir.VectorType(ir.IntType(1), ROW_WORDS), ir.VectorType(INT, ROW_WORDS)

_NAN = 0x7FC00000

_PALETTE, _WIDTHS, _HEIGHTS, _SIZE = 0, 16, 48, 64
"""Where the bytes of a configuration say its kind, the bytes of a row of each tile, and its rows; and its own size."""


def _configuration() -> bytes:
    """The operand of LDTILECFG that makes every tile as large as it can be."""
    numbers = bytearray(_SIZE)
    numbers[_PALETTE] = 1
    for tile in range(COUNT):
        numbers[_WIDTHS + 2 * tile] = ROW_BYTES
        numbers[_HEIGHTS + tile] = ROWS
    return bytes(numbers)


CONFIGURATION = _configuration()


class Amx:
    """The instructions of AMX-TILE and AMX-BF16. They need no space."""

    def configure(self, builder: Any, space: Any) -> None:
        """Before any other use of tiles by a thread."""
        _emit(builder, "ldtilecfg", _pointer(builder, _constant(builder), _BYTE))

    def release(self, builder: Any, space: Any) -> None:
        """After the last use by a thread; then its tiles take no time when the system switches threads."""
        _emit(builder, "tilerelease")

    def zero(self, builder: Any, space: Any, tile: int) -> None:
        """Clears a tile."""
        _emit(builder, "tilezero", _BYTE(tile))

    def load(self, builder: Any, space: Any, tile: int, address: Any, stride: Any) -> None:
        """Reads a tile whose rows lie `stride` bytes apart."""
        _emit(builder, "tileloadd64", _BYTE(tile), _pointer(builder, address, _BYTE), stride)

    def store(self, builder: Any, space: Any, tile: int, address: Any, stride: Any) -> None:
        """Writes a tile."""
        _emit(builder, "tilestored64", _BYTE(tile), _pointer(builder, address, _BYTE), stride)

    def multiply(self, builder: Any, space: Any, sums: int, left: int, right: int) -> None:
        """Adds left @ right, pairs of bfloat16 along the rows of left and down the columns of right, to float32."""
        _emit(builder, "tdpbf16ps", *(_BYTE(tile) for tile in (sums, left, right)))


class Emulated:
    """The same by plain code, with the registers in `space`, EMULATED_SPACE bytes."""

    def configure(self, builder: Any, space: Any) -> None:
        _run(builder, _configure, space, _constant(builder))

    def release(self, builder: Any, space: Any) -> None:
        _run(builder, _release, space)

    def zero(self, builder: Any, space: Any, tile: int) -> None:
        _run(builder, _zero, space, INT(tile))

    def load(self, builder: Any, space: Any, tile: int, address: Any, stride: Any) -> None:
        _run(builder, _load, space, INT(tile), address, stride)

    def store(self, builder: Any, space: Any, tile: int, address: Any, stride: Any) -> None:
        _run(builder, _store, space, INT(tile), address, stride)

    def multiply(self, builder: Any, space: Any, sums: int, left: int, right: int) -> None:
        _run(builder, _multiply, space, INT(sums), INT(left), INT(right))


_STATE = COUNT * ROWS * ROW_BYTES
"""The configuration lies behind the registers."""
EMULATED_SPACE = _STATE + _SIZE


def _emit(builder: Any, name: str, *arguments: Any) -> None:
    kind = ir.FunctionType(_NOTHING, [each.type for each in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def _run(builder: Any, code: Callable[..., None], *arguments: Any) -> None:
    """Calls a function of 64-bit integers, which is added to the module once."""
    kind = ir.FunctionType(_NOTHING, [INT] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, kind, f"emulated{code.__name__}")
    if function.is_declaration:
        function.linkage = "internal"
        inside = ir.IRBuilder(function.append_basic_block())
        code(inside, *function.args)
        inside.ret_void()
    builder.call(function, arguments)


def _constant(builder: Any) -> Any:
    """The address of the configuration."""
    numbers = cgutils.create_constant_array(_BYTE, bytearray(CONFIGURATION))
    return builder.ptrtoint(cgutils.global_constant(builder.module, "tile_configuration", numbers), INT)


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _state(builder: Any, space: Any, offset: int, tile: Any = None, size: int = 0) -> Any:
    """The address of a part of the configuration, or of what it says of a tile in `size` bytes."""
    at = builder.add(space, INT(_STATE + offset))
    return at if tile is None else builder.add(at, builder.mul(tile, INT(size)))


def _read(builder: Any, address: Any, kind: Any) -> Any:
    return builder.zext(builder.load(_pointer(builder, address, kind), align=1), INT)


def _is_configured(builder: Any, space: Any) -> Any:
    return builder.icmp_unsigned("==", _read(builder, _state(builder, space, _PALETTE), _BYTE), INT(1))


def _rows(builder: Any, space: Any, tile: Any) -> Any:
    return _read(builder, _state(builder, space, _HEIGHTS, tile, 1), _BYTE)


def _columns(builder: Any, space: Any, tile: Any) -> Any:
    """The words of a row of a tile."""
    return builder.lshr(_read(builder, _state(builder, space, _WIDTHS, tile, 2), _HALF), INT(2))


def _row(builder: Any, space: Any, tile: Any, row: Any) -> Any:
    """A row of a register."""
    number = builder.add(builder.mul(tile, INT(ROWS)), row)
    at = builder.add(space, builder.mul(number, INT(ROW_BYTES)))
    return _pointer(builder, at, _WORDS)


def _first(builder: Any, count: Any) -> Any:
    """The mask of the first words of a row."""
    return builder.icmp_unsigned("<", ir.Constant(_NUMBERS, list(range(ROW_WORDS))), spread(builder, count, _NUMBERS))


def _zeros() -> Any:
    return ir.Constant(_WORDS, [0] * ROW_WORDS)


def _fill(builder: Any, space: Any, tile: Any, word: int) -> None:
    with cgutils.for_range(builder, INT(ROWS)) as loop:
        row = _row(builder, space, tile, loop.index)
        builder.store(ir.Constant(_WORDS, [word] * ROW_WORDS), row, align=1)


def _configure(builder: Any, space: Any, configuration: Any) -> None:
    for tile in range(COUNT):
        _fill(builder, space, INT(tile), 0)
    source, target = (_pointer(builder, at, _WORDS) for at in (configuration, _state(builder, space, 0)))
    builder.store(builder.load(source, align=1), target, align=1)


def _release(builder: Any, space: Any) -> None:
    builder.store(_zeros(), _pointer(builder, _state(builder, space, 0), _WORDS), align=1)


def _zero(builder: Any, space: Any, tile: Any) -> None:
    _fill(builder, space, tile, 0)


def _load(builder: Any, space: Any, tile: Any, address: Any, stride: Any) -> None:
    _fill(builder, space, tile, 0)
    mask = _first(builder, _columns(builder, space, tile))
    kind = ir.FunctionType(_WORDS, [_WORDS.as_pointer(), _WORD, _MASK, _WORDS])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{ROW_WORDS}i32.p0")
    with cgutils.for_range(builder, _rows(builder, space, tile)) as loop:
        source = _pointer(builder, builder.add(address, builder.mul(stride, loop.index)), _WORDS)
        value = builder.call(function, [source, _WORD(1), mask, _zeros()])
        builder.store(value, _row(builder, space, tile, loop.index), align=1)


def _store(builder: Any, space: Any, tile: Any, address: Any, stride: Any) -> None:
    configured = _is_configured(builder, space)
    rows = builder.select(configured, _rows(builder, space, tile), INT(ROWS))
    mask = _first(builder, builder.select(configured, _columns(builder, space, tile), INT(ROW_WORDS)))
    kind = ir.FunctionType(_NOTHING, [_WORDS, _WORDS.as_pointer(), _WORD, _MASK])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{ROW_WORDS}i32.p0")
    with cgutils.for_range(builder, rows) as loop:
        value = builder.load(_row(builder, space, tile, loop.index), align=1)
        value = builder.select(configured, value, ir.Constant(_WORDS, [_NAN] * ROW_WORDS))
        target = _pointer(builder, builder.add(address, builder.mul(stride, loop.index)), _WORDS)
        builder.call(function, [value, target, _WORD(1), mask])


def _multiply(builder: Any, space: Any, sums: Any, left: Any, right: Any) -> None:
    rows, columns = _rows(builder, space, sums), _columns(builder, space, sums)
    pairs = _columns(builder, space, left)
    fits = _is_configured(builder, space)
    for one, other in (
        (_rows(builder, space, left), rows),
        (_columns(builder, space, right), columns),
        (_rows(builder, space, right), pairs),
    ):
        fits = builder.and_(fits, builder.icmp_unsigned("==", one, other))
    with builder.if_else(fits) as (allowed, refused):
        with refused:
            _fill(builder, space, sums, _NAN)
        with allowed:
            _multiply_rows(builder, space, sums, left, right, rows, columns, pairs)


def _multiply_rows(
    builder: Any, space: Any, sums: Any, left: Any, right: Any, rows: Any, columns: Any, pairs: Any
) -> None:
    halves = [cgutils.alloca_once(builder, _REALS) for _ in range(2)]
    mask = _first(builder, columns)
    with cgutils.for_range(builder, rows) as down:
        for half in halves:
            builder.store(ir.Constant(_REALS, [0.0] * ROW_WORDS), half)
        with cgutils.for_range(builder, pairs) as along:
            words = builder.bitcast(_row(builder, space, left, down.index), _WORD.as_pointer())
            word = builder.load(builder.gep(words, [along.index], source_etype=_WORD), align=1)
            factors = spread(builder, word, _WORDS), builder.load(_row(builder, space, right, along.index), align=1)
            for number, half in enumerate(halves):
                a, b = (_flushed(builder, _half(builder, each, number)) for each in factors)
                builder.store(_flushed(builder, _fused(builder, a, b, builder.load(half))), half)
        target = _row(builder, space, sums, down.index)
        before = _flushed(builder, builder.bitcast(builder.load(target, align=1), _REALS))
        both = _flushed(builder, builder.fadd(*(builder.load(half) for half in halves)))
        after = builder.bitcast(_flushed(builder, builder.fadd(before, both)), _WORDS)
        builder.store(builder.select(mask, after, _zeros()), target, align=1)


def _half(builder: Any, pairs: Any, number: int) -> Any:
    """The first or the second numbers of pairs as float32."""
    bits = ir.Constant(_WORDS, [0xFFFF0000 if number else 16] * ROW_WORDS)
    return builder.bitcast(builder.and_(pairs, bits) if number else builder.shl(pairs, bits), _REALS)


def _flushed(builder: Any, x: Any) -> Any:
    """x with zeros of the same sign for numbers below the smallest normal one."""
    bits = builder.bitcast(x, _WORDS)
    sign, exponent = (ir.Constant(_WORDS, [each] * ROW_WORDS) for each in (0x80000000, 0x7F800000))
    small = builder.icmp_unsigned("==", builder.and_(bits, exponent), _zeros())
    return builder.bitcast(builder.select(small, builder.and_(bits, sign), bits), _REALS)


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c in one rounding."""
    kind = ir.FunctionType(_REALS, [_REALS] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{ROW_WORDS}f32")
    return builder.call(function, [a, b, c])
