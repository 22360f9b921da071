"""SIMD vectors of float32 as values of compiled code: load, store, add, subtract, multiply-add, maximum.

The compiler does not vectorise a loop over dozens of streams whose distances are known only at run time, because it
would have to test every pair of them for overlap; code written with vectors needs no such test.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, register_model

WIDTH = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
"""Elements of a vector: one register of AVX-512 or AVX, two of 128 bits elsewhere."""

_REAL = ir.FloatType()
LANES = ir.VectorType(_REAL, WIDTH)


class VectorType(types.Type):
    """The type of a vector of WIDTH float32 elements."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


vector = VectorType()


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """A vector is kept as one LLVM value."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, LANES)


@intrinsic
def entry(typing_context: Any, address: Any):
    """The 64-bit integer at `address`, such as another address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))

    return types.int64(types.intp), generate


@intrinsic
def load(typing_context: Any, address: Any):
    """The WIDTH elements from `address` on, which needs only the alignment of one element."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], LANES.as_pointer()), align=4)

    return vector(types.intp), generate


@intrinsic
def store(typing_context: Any, address: Any, value: Any):
    """Writes the WIDTH elements of `value` from `address` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], LANES.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, vector), generate


@intrinsic
def add(typing_context: Any, a: Any, b: Any):
    """a + b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments)

    return vector(vector, vector), generate


@intrinsic
def subtract(typing_context: Any, a: Any, b: Any):
    """a - b."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fsub(*arguments)

    return vector(vector, vector), generate


@intrinsic
def scale(typing_context: Any, a: Any, factor: Any):
    """a * factor for a number `factor`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(arguments[0], spread(builder, arguments[1], LANES))

    return vector(vector, types.float32), generate


@intrinsic
def multiply_add(typing_context: Any, a: Any, factor: Any, b: Any):
    """a * factor + b for a number `factor`, in one rounding where the machine has such an instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, factor, b = arguments
        return fused(builder, a, spread(builder, factor, LANES), b)

    return vector(vector, types.float32, vector), generate


@intrinsic
def at_least(typing_context: Any, a: Any, floor: Any):
    """max(element, floor) for each element of a and the number `floor`; NaN stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return floored(builder, arguments[0], spread(builder, arguments[1], LANES))

    return vector(vector, types.float32), generate


def spread(builder: Any, number: Any, kind: Any) -> Any:
    """Builds a vector of `kind` whose every element is `number`."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Builds a * b + c, in one rounding where the machine has such an instruction."""
    kind = ir.FunctionType(LANES, [LANES] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{WIDTH}f32")
    return builder.call(function, [a, b, c])


def floored(builder: Any, a: Any, floor: Any) -> Any:
    """Builds the elementwise maximum of a and `floor`; NaN in a stays NaN."""
    return builder.select(builder.fcmp_ordered("<", a, floor), floor, a)
