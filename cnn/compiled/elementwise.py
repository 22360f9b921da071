"""Compiled bias, activations and their gradients, in blocks that stay in the first-level cache."""

from typing import Any

import numpy as np
from numba import njit, prange, types

from cnn.compiled.parts import FLAG, FLOATS, INNER, INTEGER, PARALLEL, start_of
from cnn.compiled.widening import STORED, memory_for, place_in, twin_kernels, wide, write

LINEAR, RELU, TANH, SIGMOID = range(4)
KINDS = {None: LINEAR, "relu": RELU, "tanh": TANH, "sigmoid": SIGMOID}
"""The numbers by which kernels know the activations."""

BLOCK = 2048
"""The approximate elements of a block, which has whole rows, so that rows of few channels make long loops too."""

F, U = np.float32, np.uintp
ZERO, ONE = F(0), F(1)

# exp(x) = 2**n * exp(r), |r| <= ln 2 / 2. Adding 1.5 * 2**23 rounds x / ln 2 to the whole number n and leaves n in the
# lowest bits; ln 2 is subtracted in two parts; the first has so few bits that n times it is exact.
LOG2_E, ROUNDING = F(1.44269504088896341), F(12582912)
LN2_HIGH, LN2_LOW = F(0.693359375), F(-2.12194440e-4)
LOWEST = F(-87.3)
# Turns those bits into an exponent: subtracts the bits of the added number and adds the bias of 127.
EXPONENT, SHIFT = np.int32(127 - 0x4B400000), np.int32(23)
# Cephes' minimax polynomial for exp in single precision (Moshier, expf.c).
E0, E1, E2 = F(1.9875691500e-4), F(1.3981999507e-3), F(8.3334519073e-3)
E3, E4, E5 = F(4.1665795894e-2), F(1.6666665459e-1), F(5.0000001201e-1)
# Eigen's minimax quotient for tanh, which is 1 in single precision beyond FLAT.
FLAT = F(7.90531110763549805)
P0, P1, P2, P3 = F(4.89352455891786e-3), F(6.37261928875436e-4), F(1.48572235717979e-5), F(5.12229709037114e-8)
P4, P5, P6 = F(-8.60467152213735e-11), F(2.00018790482477e-13), F(-2.76076847742355e-16)
Q0, Q1, Q2, Q3 = F(4.89352518554385e-3), F(2.26843463243900e-3), F(1.18534705686654e-4), F(1.19825839466702e-6)


@njit(**INNER, fastmath={"contract"})
def exp_negative(x: Any) -> Any:
    """exp(x) for x <= 0 within 2 units in the last place, 0 below -87.3 (where exp is subnormal), NaN for NaN.

    It has no branch or call, so that a loop over it is vectorised, unlike one over math.exp.
    """
    bounded = LOWEST if x < LOWEST else x
    rounded = bounded * LOG2_E + ROUNDING
    n = rounded - ROUNDING
    r = bounded - n * LN2_HIGH - n * LN2_LOW
    series = ((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5
    # The bits of the float, because converting NaN to an integer is undefined.
    bits = np.float32(rounded).view(np.int32)
    power = np.int32((bits + EXPONENT) << SHIFT).view(np.float32)
    return ZERO if x < LOWEST else (series * r * r + r + ONE) * power


@njit(**INNER, fastmath={"contract"})
def _tanh(x: Any) -> Any:
    """A quotient of two polynomials within 4 units in the last place; NaN for NaN."""
    bounded = -FLAT if x < -FLAT else (FLAT if x > FLAT else x)
    z = bounded * bounded
    above = (((((P6 * z + P5) * z + P4) * z + P3) * z + P2) * z + P1) * z + P0
    below = ((Q3 * z + Q2) * z + Q1) * z + Q0
    return bounded * above / below


@njit(**INNER, fastmath={"contract"})
def _sigmoid(x: Any) -> Any:
    e = exp_negative(-abs(x))
    return (e if x < ZERO else ONE) / (ONE + e)


@njit(**INNER)
def block_size(row: int, elements: int) -> Any:
    """About `elements` elements, in whole rows of `row`."""
    return U(row) * max(U(1), U(elements) // U(row))


@njit(**INNER)
def repeated(numbers: Any, size: int) -> Any:
    """`numbers` repeated up to `size` elements, which is a multiple of their count."""
    table = np.empty(size, np.float32)
    count = U(numbers.size)
    for start in range(U(0), U(size), max(count, U(1))):
        for i in range(count):
            table[start + i] = numbers[i]
    return table


@njit(**INNER)
def _activate(kind: int, out: Any, start: int, end: int) -> None:
    """In place, because a loop whose input and output might overlap is not vectorised."""
    if kind == RELU:
        for i in range(start, end):
            out[i] = ZERO if out[i] <= ZERO else out[i]
    elif kind == TANH:
        for i in range(start, end):
            out[i] = _tanh(out[i])
    elif kind == SIGMOID:
        for i in range(start, end):
            out[i] = _sigmoid(out[i])


@njit(**INNER)
def _forward_part(x: Any, bias: Any, out: Any, apart: bool, kind: int, step: Any, first: Any, last: Any) -> None:
    """Elements first to last in blocks of `step`; `bias` is empty or repeated to the size of a block."""
    sums = memory_for(out, step)
    for start in range(first, last, step):
        end = min(start + step, last)
        to = place_in(out, start)
        if apart:
            for i in range(end - start):
                sums[to + i] = wide(x[start + i])
        if bias.size:
            for i in range(end - start):
                sums[to + i] += bias[i]
        _activate(kind, sums, to, to + (end - start))
        write(sums, out, start, end)


@twin_kernels(PARALLEL, STORED, FLOATS, STORED, FLAG, INTEGER, INTEGER)
def forward(x: Any, bias: Any, out: Any, apart: bool, kind: int, parts: int) -> None:
    """out = activation(x + bias), bias (K,) in every row, empty for none; `apart` for SHORTS, and if out is not x."""
    row = max(U(bias.size), U(1))
    step = block_size(row, BLOCK)
    added = repeated(bias, step if bias.size else U(0))
    rows = U(out.size) // row
    if parts == 1:
        _forward_part(x, added, out, apart, kind, step, U(0), U(out.size))
    else:
        for part in prange(parts):
            first, last = row * start_of(part, parts, rows), row * start_of(part + 1, parts, rows)
            _forward_part(x, added, out, apart, kind, step, first, last)


@njit(**INNER)
def _add_part(x: Any, y: Any, out: Any, apart: bool, kind: int, step: Any, first: Any, last: Any) -> None:
    sums = memory_for(out, step)
    for start in range(first, last, step):
        end = min(start + step, last)
        to = place_in(out, start)
        if apart:
            for i in range(end - start):
                sums[to + i] = wide(x[start + i]) + wide(y[start + i])
        else:
            for i in range(end - start):
                sums[to + i] += wide(y[start + i])
        _activate(kind, sums, to, to + (end - start))
        write(sums, out, start, end)


@twin_kernels(PARALLEL, STORED, STORED, STORED, FLAG, INTEGER, INTEGER)
def add(x: Any, y: Any, out: Any, apart: bool, kind: int, parts: int) -> None:
    """out = activation(x + y); `apart` for SHORTS, and if out is neither x nor y; else out must be x."""
    if parts == 1:
        _add_part(x, y, out, apart, kind, U(BLOCK), U(0), U(out.size))
    else:
        for part in prange(parts):
            first, last = start_of(part, parts, out.size), start_of(part + 1, parts, out.size)
            _add_part(x, y, out, apart, kind, U(BLOCK), first, last)


@njit(**INNER)
def _gradient_part(kind: int, y: Any, dy: Any, out: Any, sums: Any, step: Any, first: Any, last: Any) -> None:
    """Elements first to last of the gradient; unless sums is empty, all blocks are added up in it."""
    gradients = memory_for(out, step)
    for start in range(first, last, step):
        end = min(start + step, last)
        to = place_in(out, start)
        if kind == RELU:
            for i in range(end - start):
                gradients[to + i] = wide(dy[start + i]) * (ONE if wide(y[start + i]) > ZERO else ZERO)
        elif kind == TANH:
            for i in range(end - start):
                v = wide(y[start + i])
                gradients[to + i] = wide(dy[start + i]) * (ONE - v * v)
        elif kind == SIGMOID:
            for i in range(end - start):
                v = wide(y[start + i])
                gradients[to + i] = wide(dy[start + i]) * (v * (ONE - v))
        if kind != LINEAR:
            if sums.size:
                for i in range(end - start):
                    sums[i] += gradients[to + i]
            write(gradients, out, start, end)
        elif sums.size:
            for i in range(end - start):
                sums[i] += wide(dy[start + i])


@njit(**INNER)
def _scale_part(x: Any, factors: Any, factor: Any, out: Any, first: Any, last: Any) -> None:
    step = U(BLOCK)
    products = memory_for(out, step)
    for start in range(first, last, step):
        end = min(start + step, last)
        to = place_in(out, start)
        if factors.size:
            for i in range(end - start):
                products[to + i] = wide(x[start + i]) * factors[start + i]
        else:
            for i in range(end - start):
                products[to + i] = wide(x[start + i]) * factor
        write(products, out, start, end)


@twin_kernels(PARALLEL, STORED, FLOATS, types.float32, STORED, INTEGER)
def scale(x: Any, factors: Any, factor: Any, out: Any, parts: int) -> None:
    """out = x * factors, or x * factor if factors is empty."""
    if parts == 1:
        _scale_part(x, factors, factor, out, U(0), U(out.size))
    else:
        for part in prange(parts):
            _scale_part(x, factors, factor, out, start_of(part, parts, out.size), start_of(part + 1, parts, out.size))


@twin_kernels(PARALLEL, INTEGER, *[STORED] * 3, FLOATS, INTEGER)
def backward(kind: int, y: Any, dy: Any, out: Any, bias: Any, parts: int) -> None:
    """out = dy * activation'(x), from the output y, and bias (K,) = its sum over the rows, unless empty.

    LINEAR leaves out unchanged and sums dy.
    """
    k = U(bias.size)
    row = max(k, U(1))
    rows = U(out.size) // row
    step = block_size(row, BLOCK)
    # Every part adds to its own stretch, cache lines apart from the next.
    stretch = step + U(32) if k else U(0)
    sums = np.zeros(stretch * U(parts), np.float32)
    if parts == 1:
        _gradient_part(kind, y, dy, out, sums[: int(stretch)], step, U(0), U(out.size))
    else:
        for part in prange(parts):
            own = sums[part * int(stretch) : (part + 1) * int(stretch)]
            first, last = row * start_of(part, parts, rows), row * start_of(part + 1, parts, rows)
            _gradient_part(kind, y, dy, out, own, step, first, last)
    if k:
        for i in range(k):
            bias[i] = ZERO
        for part in range(U(parts)):
            for start in range(part * stretch, part * stretch + step, k):
                for i in range(k):
                    bias[i] += sums[start + i]
