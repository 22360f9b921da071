"""Compiled updates of the optimizers, each one pass over the weights and their state."""

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange, types

from cnn.compiled.kernels import kernel
from cnn.compiled.parts import FLOATS, INNER, INTEGER, PARALLEL, start_of

U = np.uintp
SGD, NESTEROV, RMSPROP, ADAM = range(4)


class Numbers(NamedTuple):
    """The numbers of all rules; each rule reads its own."""

    lr: float
    decay: float
    momentum: float = 0.0
    rho: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    epsilon: float = 0.0
    correction: float = 0.0
    outer: float = 1.0


NUMBERS = types.NamedUniTuple(types.float64, len(Numbers._fields), Numbers)
"""The type of Numbers in the kernel."""


@njit(**INNER)
def _part(rule: int, w: Any, g: Any, a: Any, b: Any, numbers: Any, first: int, last: int) -> None:
    """Updates weights first to last."""
    lr, decay = np.float32(numbers.lr), np.float32(numbers.decay)
    if rule in (SGD, NESTEROV):
        momentum, outer = np.float32(numbers.momentum), np.float32(numbers.outer)
        if rule == SGD:
            for i in range(first, last):
                a[i] = momentum * a[i] + lr * (g[i] + decay * w[i])
                w[i] -= outer * a[i]
        else:
            for i in range(first, last):
                step = lr * (g[i] + decay * w[i])
                a[i] = momentum * a[i] + step
                w[i] -= outer * (step + momentum * a[i])
    elif rule == RMSPROP:
        rho, rest, epsilon = np.float32(numbers.rho), np.float32(1 - numbers.rho), np.float32(numbers.epsilon)
        for i in range(first, last):
            gradient = g[i] + decay * w[i]
            a[i] = rho * a[i] + rest * (gradient * gradient)
            w[i] -= lr * (gradient / (sqrt(a[i]) + epsilon))
    else:
        beta1, rest1 = np.float32(numbers.beta1), np.float32(1 - numbers.beta1)
        beta2, rest2 = np.float32(numbers.beta2), np.float32(1 - numbers.beta2)
        epsilon, correction = np.float32(numbers.epsilon), np.float32(numbers.correction)
        for i in range(first, last):
            gradient = g[i] + decay * w[i]
            b[i] = beta2 * b[i] + rest2 * (gradient * gradient)
            a[i] = beta1 * a[i] + rest1 * gradient
            w[i] -= lr * (a[i] / (sqrt(b[i] * correction) + epsilon))


@kernel(PARALLEL, INTEGER, *[FLOATS] * 4, NUMBERS, INTEGER)
def update(rule: int, w: Any, g: Any, a: Any, b: Any, numbers: Any, parts: int) -> None:
    """Updates w and the state a (and b for ADAM) in place with the gradient g."""
    if parts == 1:
        _part(rule, w, g, a, b, numbers, U(0), U(w.size))
    else:
        for part in prange(parts):
            _part(rule, w, g, a, b, numbers, start_of(part, parts, w.size), start_of(part + 1, parts, w.size))
