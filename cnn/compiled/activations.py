"""Compiled activations that are layers of their own, and their gradients from the input."""

from typing import Any

import numpy as np
from numba import njit, prange, types

from cnn.compiled.elementwise import BLOCK, ONE, ZERO, F, U, exp_negative
from cnn.compiled.kernels import rare_kernel
from cnn.compiled.parts import FLAG, FLOATS, INNER, INTEGER, PARALLEL, start_of

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
def _forward(kind: int, x: Any, slope: Any, out: Any, start: int, end: int) -> None:
    if kind == LEAKY_RELU:
        for i in range(start, end):
            out[i] = x[i] if x[i] > ZERO else slope * x[i]
    elif kind == RELU6:
        for i in range(start, end):
            out[i] = ZERO if x[i] <= ZERO else (SIX if x[i] >= SIX else x[i])
    elif kind == GELU:
        for i in range(start, end):
            out[i] = x[i] * _normal(x[i])[0]
    elif kind == SILU:
        for i in range(start, end):
            out[i] = x[i] * _sigmoid(x[i])
    else:
        for i in range(start, end):
            gate = x[i] + THREE
            out[i] = x[i] * ((ZERO if gate <= ZERO else (SIX if gate >= SIX else gate)) * SIXTH)


@njit(**INNER)
def _backward(kind: int, x: Any, dy: Any, slope: Any, out: Any, start: int, end: int) -> None:
    if kind == LEAKY_RELU:
        for i in range(start, end):
            out[i] = dy[i] * (ONE if x[i] > ZERO else slope)
    elif kind == RELU6:
        for i in range(start, end):
            out[i] = dy[i] * (ZERO if x[i] <= ZERO or x[i] >= SIX else ONE)
    elif kind == GELU:
        for i in range(start, end):
            below, density = _normal(x[i])
            out[i] = dy[i] * (below + x[i] * density * ROOT_TWO_PI)
    elif kind == SILU:
        for i in range(start, end):
            s = _sigmoid(x[i])
            out[i] = dy[i] * (s * (ONE + x[i] * _sigmoid(-x[i])))
    else:
        for i in range(start, end):
            inner = x[i] * THIRD + HALF
            out[i] = dy[i] * (ZERO if x[i] <= -THREE else (ONE if x[i] >= THREE else inner))


@njit(**INNER)
def _part(kind: int, x: Any, dy: Any, slope: Any, out: Any, back: bool, first: int, last: int) -> None:
    for start in range(first, last, U(BLOCK)):
        end = min(start + U(BLOCK), last)
        if back:
            _backward(kind, x, dy, slope, out, start, end)
        else:
            _forward(kind, x, slope, out, start, end)


@rare_kernel(PARALLEL, INTEGER, FLOATS, FLOATS, types.float32, FLOATS, FLAG, INTEGER)
def apply(kind: int, x: Any, dy: Any, slope: Any, out: Any, back: bool, parts: int) -> None:
    """out = activation(x), or with `back` dy * activation'(x)."""
    if parts == 1:
        _part(kind, x, dy, slope, out, back, U(0), U(out.size))
    else:
        for part in prange(parts):
            first, last = start_of(part, parts, out.size), start_of(part + 1, parts, out.size)
            _part(kind, x, dy, slope, out, back, first, last)
