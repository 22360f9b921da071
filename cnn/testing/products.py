"""Cases whose cost is a matrix product: gemm, convolution and its two gradients.

A product of depth K may err by (K + 2) epsilon (|A| @ |B|), element by element, and a sum that is added to one already
there by an epsilon of that one more. Each of the K products and additions, in any order, errs by half an epsilon of
what it is given, K / 2 epsilon of the sum of magnitudes to first order (Higham 2002, section 3.1); the rest is room for
terms of higher order. A convolution is such a product of depth R*S*C, its weight gradient one of depth N*P*Q, and its
data gradient sums R*S*K terms; the bias is one term more.
"""

from itertools import product

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.lowering import Window
from cnn.testing.case import Arrays, Call, Case, normal, run_reference

SIZES = (
    (1, 1, 1),
    (1, 7, 3),
    (5, 1, 4),
    (7, 13, 1),
    (1, 1, 33),
    (16, 16, 16),
    (17, 19, 23),
    (65, 3, 129),
    (3, 257, 2),
    (2, 5, 600),
)
"""(M, N, K): ones, odd numbers, one power of two, and matrices far longer than wide."""


def gemm_case(m: int, n: int, k: int, transpose_a: bool, transpose_b: bool, accumulate: bool, gap: int = 0) -> Case:
    """out (M, N) = or += op(a) @ op(b), with `gap` elements between the rows of every matrix that stay as they are."""
    rows_a, columns_a = (k, m) if transpose_a else (m, k)
    rows_b, columns_b = (n, k) if transpose_b else (k, n)
    a, b, out = (rows_a, columns_a + gap), (rows_b, columns_b + gap), (m, n + gap)

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.gemm(
            arrays["a"][:, :columns_a],
            arrays["b"][:, :columns_b],
            out=arrays["out"][:, :n],
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            accumulate=accumulate,
        )

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        # On zeros, the sum of magnitudes alone; the gap between the rows stays zero, where no error is allowed.
        magnitudes = {name: np.abs(inputs[name]) for name in ("a", "b")}
        sums = np.zeros(out)
        run_reference(case, magnitudes | {"out": sums}, lambda backend, arrays, scratch: _add(call, backend, arrays))
        arrays = run_reference(case, magnitudes | {"out": sums})["out"]
        arrays[:, n:] = 0
        allowed = (k + 2) * arrays
        if accumulate:
            allowed[:, :n] += np.abs(inputs["out"][:, :n])
        return {"out": allowed}

    name = f"{m}x{n}x{k} {'t' if transpose_a else 'n'}{'t' if transpose_b else 'n'}"
    case = Case(
        name + (" accumulate" if accumulate else "") + (f" gap {gap}" if gap else ""),
        "gemm",
        normal(a=a, b=b, out=out) if accumulate else normal(a=a, b=b),
        call,
        bound,
        outputs={} if accumulate else {"out": out},
        updated=("out",) if accumulate else (),
        flops=2 * m * n * k,
    )
    return case
