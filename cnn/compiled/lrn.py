"""Compiled local response normalisation, line by line, with the sums of each line in the first-level cache.

A neighbourhood across channels is a stretch of a line that holds the channels of one pixel. A square of one channel is
the sum of some image rows, of which it then takes every C-th element. Both are sums of elements at equal distances.
"""

from typing import Any

import numpy as np
from numba import njit, prange, types

from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import FLAG, FLOATS, INNER, INTEGER, PARALLEL, start_of

D, U, ZERO = np.float64, np.uintp, np.float32(0)

THREE_QUARTERS = 0.75
"""The exponent of the papers, which two roots compute."""


@njit(**INNER)
def _scale_by_power(x: Any, scale: Any, beta: float, out: Any) -> None:
    """out = x * scale ** -beta."""
    if beta == THREE_QUARTERS:
        for i in range(U(out.size)):
            root = np.sqrt(scale[i])
            out[i] = x[i] / (root * np.sqrt(root))
    else:
        for i in range(U(out.size)):
            out[i] = x[i] * np.float32(D(scale[i]) ** -beta)


@rare_kernel(PARALLEL, *[FLOATS] * 2, types.float64, FLOATS, INTEGER)
def normalise(x: Any, scale: Any, beta: float, out: Any, parts: int) -> None:
    """out = x * scale ** -beta."""
    for part in prange(parts):
        first, last = start_of(part, parts, out.size), start_of(part + 1, parts, out.size)
        _scale_by_power(x[first:last], scale[first:last], beta, out[first:last])


@njit(**INNER)
def _part(
    gradient: bool,
    x: Any,
    y: Any,
    dy: Any,
    scale: Any,
    out: Any,
    line: int,
    height: int,
    reach: int,
    size: int,
    before: int,
    step: int,
    factor: float,
    k: float,
    beta: float,
    first: int,
    last: int,
) -> None:
    """Lines first to last of `neighbours`."""
    terms = np.zeros(line + (size - 1) * step, np.float32)
    middle = terms[before * step : before * step + line]
    sums = np.empty(line, np.float32)
    for row in range(first, last):
        h = row % height
        middle[:] = ZERO
        for each in range(row - min(h, reach), row + min(height - h, reach + 1)):
            at = U(each) * U(line)
            if gradient:
                for i in range(U(line)):
                    middle[i] += dy[at + i] * y[at + i] / scale[at + i]
            else:
                for i in range(U(line)):
                    middle[i] += x[at + i] * x[at + i]
        sums[:] = terms[:line]
        for offset in range(1, size):
            shifted = terms[offset * step : offset * step + line]
            for i in range(U(line)):
                sums[i] += shifted[i]
        at = U(row) * U(line)
        result, weight = out[at : at + U(line)], np.float32(factor)
        if gradient:
            _scale_by_power(dy[at : at + U(line)], scale[at : at + U(line)], beta, result)
            for i in range(U(line)):
                result[i] += weight * (x[at + i] * sums[i])
        else:
            for i in range(U(line)):
                result[i] = weight * sums[i] + np.float32(k)


@rare_kernel(PARALLEL, FLAG, *[FLOATS] * 5, *[INTEGER] * 6, *[types.float64] * 3, INTEGER)
def neighbours(
    gradient: bool,
    x: Any,
    y: Any,
    dy: Any,
    scale: Any,
    out: Any,
    line: int,
    height: int,
    reach: int,
    size: int,
    before: int,
    step: int,
    factor: float,
    k: float,
    beta: float,
    parts: int,
) -> None:
    """out = k + factor * the sums of x ** 2; or dy * scale ** -beta + factor * x * the sums of dy * y / scale.

    An element's sum is over `size` elements of its line, `step` apart and starting `before` of them before it, and
    over the lines up to `reach` before and after its own, as far as they belong to the same image of `height` lines.
    A line has `line` elements, and what lies outside is zero.
    """
    rows = x.size // line
    for part in prange(parts):
        first, last = np.int64(start_of(part, parts, rows)), np.int64(start_of(part + 1, parts, rows))
        _part(
            *(gradient, x, y, dy, scale, out, line, height, reach, size, before, step, factor, k, beta),
            *(first, last),
        )
