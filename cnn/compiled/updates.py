"""Compiled updates of the optimizers, each one pass over the weights and their state."""

from math import sqrt
from typing import Any

import numpy as np
from numba import njit, prange, types

from cnn.compiled.kernels import kernel
from cnn.compiled.parts import FLOATS, INNER, INTEGER, PARALLEL, start_of

U = np.uintp
SGD, NESTEROV, RMSPROP, ADAM = range(4)


@njit(**INNER)
def _part(rule: int, w: Any, g: Any, a: Any, b: Any, numbers: Any, first: int, last: int) -> None:
    """Weights first to last. `numbers` are lr, decay and up to six of the rule's own, which each branch names."""
    lr, decay = np.float32(numbers[0]), np.float32(numbers[1])
    if rule in (SGD, NESTEROV):
        momentum = np.float32(numbers[2])
        if rule == SGD:
            for i in range(first, last):
                a[i] = momentum * a[i] + lr * (g[i] + decay * w[i])
                w[i] -= a[i]
        else:
            for i in range(first, last):
                step = lr * (g[i] + decay * w[i])
                a[i] = momentum * a[i] + step
                w[i] -= step + momentum * a[i]
    elif rule == RMSPROP:
        rho, rest, epsilon = np.float32(numbers[2]), np.float32(numbers[3]), np.float32(numbers[4])
        for i in range(first, last):
            slope = g[i] + decay * w[i]
            a[i] = rho * a[i] + rest * (slope * slope)
            w[i] -= lr * (slope / (sqrt(a[i]) + epsilon))
    else:
        beta1, rest1 = np.float32(numbers[2]), np.float32(numbers[3])
        beta2, rest2 = np.float32(numbers[4]), np.float32(numbers[5])
        epsilon, correction = np.float32(numbers[6]), np.float32(numbers[7])
        for i in range(first, last):
            slope = g[i] + decay * w[i]
            b[i] = beta2 * b[i] + rest2 * (slope * slope)
            a[i] = beta1 * a[i] + rest1 * slope
            w[i] -= lr * (a[i] / (sqrt(b[i] * correction) + epsilon))


@kernel(PARALLEL, INTEGER, *[FLOATS] * 4, types.UniTuple(types.float64, 8), INTEGER)
def update(rule: int, w: Any, g: Any, a: Any, b: Any, numbers: Any, parts: int) -> None:
    """Changes w and the state a (and b, for ADAM) in place, by the gradient g."""
    if parts == 1:
        _part(rule, w, g, a, b, numbers, U(0), U(w.size))
    else:
        for part in prange(parts):
            _part(rule, w, g, a, b, numbers, start_of(part, parts, w.size), start_of(part + 1, parts, w.size))
