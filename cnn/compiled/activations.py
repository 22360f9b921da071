"""Compiled activations that are layers of their own, and their gradients from the input."""

from typing import Any

import numpy as np
from numba import njit, prange, types

from cnn.compiled.elementwise import BLOCK, ONE, ZERO, F, U, exp_negative
from cnn.compiled.parts import FLAG, INNER, INTEGER, PARALLEL, start_of
from cnn.compiled.widening import STORED, memory_for, place_in, read, twin_kernels, write

LEAKY_RELU, RELU6, GELU, SILU, HARD_SWISH = range(5)
KINDS = {"leaky_relu": LEAKY_RELU, "relu6": RELU6, "gelu": GELU, "silu": SILU, "hard_swish": HARD_SWISH}
"""The numbers by which the kernel knows the activations."""

HALF, THREE, SIX, SIXTH, THIRD = F(0.5), F(3), F(6), F(1 / 6), F(1 / 3)
ROOT_HALF, ROOT_TWO_PI = F(1 / np.sqrt(2)), F(1 / np.sqrt(2 * np.pi))
# erf(z) = 1 - (A1 t + ... + A5 t^5) exp(-z^2), t = 1 / (1 + P z), within 1.5e-7 (Abramowitz & Stegun, 7.1.26).
P = F(0.3275911)
A1, A2, A3, A4, A5 = F(0.254829592), F(-0.284496736), F(1.421413741), F(-1.453152027), F(1.061405429)


@njit(**INNER, fastmath={"contract"})
def _normal(x: Any) -> Any:
    """The standard normal distribution function of x, and exp(-x^2 / 2)."""
    z = abs(x) * ROOT_HALF
    density = exp_negative(-z * z)
    t = ONE / (ONE + P * z)
    tail = HALF * ((((A5 * t + A4) * t + A3) * t + A2) * t + A1) * t * density
    return (ONE - tail if x > ZERO else tail), density


@njit(**INNER, fastmath={"contract"})
def _sigmoid(x: Any) -> Any:
    e = exp_negative(-abs(x))
    return (e if x < ZERO else ONE) / (ONE + e)


@njit(**INNER)
def _forward(kind: int, x: Any, at: Any, slope: Any, out: Any, to: Any, count: Any) -> None:
    if kind == LEAKY_RELU:
        for i in range(count):
            out[to + i] = x[at + i] if x[at + i] > ZERO else slope * x[at + i]
    elif kind == RELU6:
        for i in range(count):
            out[to + i] = ZERO if x[at + i] <= ZERO else (SIX if x[at + i] >= SIX else x[at + i])
    elif kind == GELU:
        for i in range(count):
            out[to + i] = x[at + i] * _normal(x[at + i])[0]
    elif kind == SILU:
        for i in range(count):
            out[to + i] = x[at + i] * _sigmoid(x[at + i])
    else:
        for i in range(count):
            gate = x[at + i] + THREE
            out[to + i] = x[at + i] * ((ZERO if gate <= ZERO else (SIX if gate >= SIX else gate)) * SIXTH)


@njit(**INNER)
def _backward(kind: int, x: Any, at: Any, dy: Any, there: Any, slope: Any, out: Any, to: Any, count: Any) -> None:
    if kind == LEAKY_RELU:
        for i in range(count):
            out[to + i] = dy[there + i] * (ONE if x[at + i] > ZERO else slope)
    elif kind == RELU6:
        for i in range(count):
            out[to + i] = dy[there + i] * (ZERO if x[at + i] <= ZERO or x[at + i] >= SIX else ONE)
    elif kind == GELU:
        for i in range(count):
            below, density = _normal(x[at + i])
            out[to + i] = dy[there + i] * (below + x[at + i] * density * ROOT_TWO_PI)
    elif kind == SILU:
        for i in range(count):
            s = _sigmoid(x[at + i])
            out[to + i] = dy[there + i] * (s * (ONE + x[at + i] * _sigmoid(-x[at + i])))
    else:
        for i in range(count):
            inner = x[at + i] * THIRD + HALF
            out[to + i] = dy[there + i] * (ZERO if x[at + i] <= -THREE else (ONE if x[at + i] >= THREE else inner))


@njit(**INNER)
def _part(kind: int, x: Any, dy: Any, slope: Any, out: Any, back: bool, first: Any, last: Any) -> None:
    step = U(BLOCK)
    source, gradients, results = memory_for(x, step), memory_for(dy, step), memory_for(out, step)
    for start in range(first, last, step):
        end = min(start + step, last)
        at, to = read(x, start, end, source), place_in(out, start)
        if back:
            there = read(dy, start, end, gradients)
            _backward(kind, source, at, gradients, there, slope, results, to, end - start)
        else:
            _forward(kind, source, at, slope, results, to, end - start)
        write(results, out, start, end)


@twin_kernels(PARALLEL, INTEGER, STORED, STORED, types.float32, STORED, FLAG, INTEGER, rare=True)
def apply(kind: int, x: Any, dy: Any, slope: Any, out: Any, back: bool, parts: int) -> None:
    """out = activation(x), or with `back` dy * activation'(x)."""
    if parts == 1:
        _part(kind, x, dy, slope, out, back, U(0), U(out.size))
    else:
        for part in prange(parts):
            first, last = start_of(part, parts, out.size), start_of(part + 1, parts, out.size)
            _part(kind, x, dy, slope, out, back, first, last)
