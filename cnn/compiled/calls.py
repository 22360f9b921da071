"""Calls of a BLAS's sgemm by address from inside compiled kernels."""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core.extending import intrinsic

from cnn.compiled.parts import INNER

ROW_MAJOR, NO, YES = 101, 111, 112
"""CBLAS's constants for the order of a matrix, and for whether it is transposed."""

_SIGNATURE = types.void(
    types.uintp,
    *[types.int64] * 5,
    *(types.uintp, types.int64) * 2,
    types.float32,
    *(types.uintp, types.int64),
)


def _sgemm(
    typing_context: Any,
    address: Any,
    transpose_a: Any,
    transpose_b: Any,
    m: Any,
    n: Any,
    k: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
) -> Any:
    """c = op(a) @ op(b) + beta * c by the cblas_sgemm at `address`; a, b, c are addresses, transposes NO or YES.

    Sizes are passed as 64-bit integers. A library with 32-bit sizes reads their lower halves: on x86-64 and AArch64
    Linux each integer argument has its own 64-bit register or stack slot, and both are little-endian.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, real = ir.IntType(64), ir.FloatType()
        kinds = [integer] * 6 + [real] + [integer] * 4 + [real] + [integer] * 2
        function = builder.inttoptr(arguments[0], ir.FunctionType(ir.VoidType(), kinds).as_pointer())
        sizes, (a, lda, b, ldb, beta, c, ldc) = arguments[1:6], arguments[6:]
        one = ir.Constant(real, 1.0)
        builder.call(function, [ir.Constant(integer, ROW_MAJOR), *sizes, one, a, lda, b, ldb, beta, c, ldc])
        return context.get_dummy_value()

    return _SIGNATURE, generate


sgemm: Any = intrinsic(_sgemm)


@njit(**INNER)
def leading_dimension(x: Any) -> Any:
    """Elements from one row of x to the next, at least the length of a row, as BLAS wants also for a single row.

    Python calls its `py_func`.
    """
    return max(1, x.shape[1], x.strides[0] // x.itemsize if x.shape[0] > 1 else 0)


@cache
def nothing() -> Any:
    """A compiled function with the arguments of sgemm that does nothing, for a profiler; see its `address`."""
    kinds = [types.int64] * 6 + [types.float32] + [types.int64] * 4 + [types.float32] + [types.int64] * 2

    def idle(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        pass

    return cfunc(types.void(*kinds))(idle)
