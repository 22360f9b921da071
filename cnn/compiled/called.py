"""What microkernels are built of: code that is compiled once and called by its address, and vectors under a mask."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

from cnn.compiled.kernels import Kernel
from cnn.compiled.vectors import LANES, WIDTH, floored, spread

INT, REAL = ir.IntType(64), ir.FloatType()
_MASK = ir.VectorType(ir.IntType(1), WIDTH)
_NUMBERS = ir.VectorType(INT, WIDTH)


def address_of(kernel: Kernel) -> Any:
    """The address of a kernel as a C function of its arguments, which are numbers."""
    kernel.compile()
    return np.uintp(kernel.function_at(kernel.description.llvm_cfunc_wrapper_name))


def calling(kinds: Sequence[Any]) -> Any:
    """What calls the kernel at an address, its first argument, with further arguments of `kinds`."""
    words = [REAL if kind == types.float32 else INT for kind in kinds]

    @intrinsic
    def call(typing_context: Any, address: Any, *arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            function = builder.inttoptr(values[0], ir.FunctionType(ir.VoidType(), words).as_pointer())
            builder.call(function, unpacked(builder, values[1], kinds))
            return context.get_dummy_value()

        return types.void(types.uintp, types.StarArgTuple(tuple(kinds))), generate

    return call


def unpacked(builder: Any, arguments: Any, kinds: Sequence[Any]) -> list[Any]:
    """The elements of a tuple of `kinds`."""
    return [builder.extract_value(arguments, k) for k in range(len(kinds))]


def first_lanes(builder: Any, count: Any) -> Any:
    """Builds the mask of the first `count` elements of a vector."""
    return builder.icmp_unsigned("<", ir.Constant(_NUMBERS, list(range(WIDTH))), spread(builder, count, _NUMBERS))


def read(builder: Any, address: Any, vector: int, mask: Any = None) -> Any:
    """Builds the vector number `vector` from `address` on, or what a mask allows of it, the rest being zero."""
    at = _at(builder, address, vector)
    return builder.load(_pointer(builder, at), align=4) if mask is None else _masked_load(builder, at, mask)


def write(builder: Any, value: Any, address: Any, vector: int, mask: Any = None) -> None:
    """Builds the store of a vector, or of what a mask allows of it, as number `vector` from `address` on."""
    at = _at(builder, address, vector)
    if mask is None:
        builder.store(value, _pointer(builder, at), align=4)
    else:
        _masked_store(builder, value, at, mask)


def sums_from(builder: Any, rows: int, masks: Sequence[Any], start: Any, start_row: Any) -> list[list[Any]]:
    """Builds sums, `rows` rows of a vector for each mask, that begin with what lies at `start`."""
    sums = [[cgutils.alloca_once(builder, LANES) for _ in masks] for _ in range(rows)]
    for m, row in enumerate(sums):
        source = builder.add(start, builder.mul(start_row, INT(m)))
        for v, mask in enumerate(masks):
            builder.store(read(builder, source, v, mask), row[v])
    return sums


def write_sums(
    builder: Any, sums: Sequence[Sequence[Any]], masks: Sequence[Any], floor: Any, out: Any, out_row: Any
) -> None:
    """Builds the stores of sums, none below `floor`, from `out` on."""
    least = spread(builder, floor, LANES)
    for m, row in enumerate(sums):
        target = builder.add(out, builder.mul(out_row, INT(m)))
        for v, mask in enumerate(masks):
            write(builder, floored(builder, builder.load(row[v]), least), target, v, mask)


def _at(builder: Any, address: Any, vector: int) -> Any:
    return builder.add(address, INT(4 * WIDTH * vector))


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, LANES.as_pointer())


def _masked_load(builder: Any, address: Any, mask: Any) -> Any:
    """Builds the vector from `address` on, of which only what the mask allows is read; the rest is zero."""
    kind = ir.FunctionType(LANES, [LANES.as_pointer(), ir.IntType(32), _MASK, LANES])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{WIDTH}f32.p0")
    zeros = ir.Constant(LANES, [0.0] * WIDTH)
    return builder.call(function, [builder.inttoptr(address, LANES.as_pointer()), ir.IntType(32)(4), mask, zeros])


def _masked_store(builder: Any, value: Any, address: Any, mask: Any) -> None:
    """Builds the store of what the mask allows of a vector."""
    kind = ir.FunctionType(ir.VoidType(), [LANES, LANES.as_pointer(), ir.IntType(32), _MASK])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{WIDTH}f32.p0")
    builder.call(function, [value, builder.inttoptr(address, LANES.as_pointer()), ir.IntType(32)(4), mask])
