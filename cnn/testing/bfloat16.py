"""Cases of products whose operands are rounded to bfloat16.

The reference multiplies the rounded operands, so what may be off is the sum in float32, as in `products`: truncating
instead of rounding, or a sum in bfloat16, is off by a hundred times as much. Magnitudes grow by at most 2**-8 when they
are rounded, two of them by less than a hundredth. Processors take operands below the smallest normal number for zero.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from cnn.arrays import Buffers
from cnn.backend import Backend
from cnn.convolution import Convolution
from cnn.precision import BFLOAT16
from cnn.testing.case import Arrays, Case, Scores, exact
from cnn.testing.products import GROUPED, WINDOWS, conv_cases, gemm_case

SIZES = ((1, 1, 1), (5, 3, 4), (7, 13, 1), (17, 19, 23), (3, 65, 129), (2, 5, 600))
"""(M, N, K) of products."""

SHAPES = {
    "one channel": (1, 8),
    "odd channels": (37, 5),
    "an odd number and a few more": (17, 50),
    "whole vectors": (32, 32),
}
"""Channels and filters."""

TYPICAL = ("1x1", "3x3 same", "5x5 valid", "3x3 stride 2 same, even")
"""The windows that they are combined with."""


def product_case(m: int, n: int, k: int, *, transpose_a: bool, transpose_b: bool, accumulate: bool) -> Case:
    """As `gemm_case`, of `product`."""
    of_gemm = gemm_case(m, n, k, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate)

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.product(
            arrays["a"],
            arrays["b"],
            out=arrays["out"],
            scratch=scratch,
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            accumulate=accumulate,
        )

    return replace(of_gemm, operation="product", call=call)


def in_bfloat16(case: Case) -> Case:
    """The case on the backend that rounds."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> Scores:
        return case.call(backend.in_precision(BFLOAT16), arrays, scratch)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {name: 1.01 * value for name, value in case.bound(inputs, expected).items()}

    return replace(case, name=f"{case.name} in bfloat16", call=call, bound=bound, only_float32=True)


def rounding_case() -> Case:
    """Ties, both signs, infinity, what rounds to it, and numbers of every size: exact."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        x = rng.standard_normal(500) * 2.0 ** rng.integers(-120, 120, 500)
        ties = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2**-8 + 2**-16, 0.0, -0.0, np.inf, -np.inf, 3.4e38, 1 - 2**-9]
        return {"x": np.concatenate([x, ties]).astype(np.float32)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.round_bfloat16(arrays["x"], arrays["out"])

    return Case("to bfloat16", "round_bfloat16", make, call, exact, outputs={"out": (510,)}, only_float32=True)


def bfloat16_cases() -> list[Case]:
    """`product` in both precisions, rounding, and convolutions of every kind of window with rounded operands."""
    flags = (False, True)
    products = [
        product_case(*sizes, transpose_a=a, transpose_b=b, accumulate=accumulate)
        for sizes in SIZES
        for a, b, accumulate in product(flags, flags, flags)
    ]
    convolutions = [(name, Convolution(window, 3, 5)) for name, window in WINDOWS.items()]
    for name, (what, counts) in product(TYPICAL, SHAPES.items()):
        convolutions.append((f"{name}, {what}", Convolution(WINDOWS[name], *counts)))
    convolutions += [(name, GROUPED[name]) for name in ("3x3 same, 2 groups", "3x3 same, depthwise")]
    rounded = [*products, *(case for name, each in convolutions for case in conv_cases(name, each, n=2))]
    return [*products, *map(in_bfloat16, rounded), rounding_case()]
