"""The weight updates of the optimizers, in place, and the squares of their gradients."""

from math import fsum

import numpy as np

from cnn.arrays import Array, Buffers


class Updates:
    """w and its state arrays are changed in place; g, the gradient, is not. `decay` adds decay * w to g."""

    def squared_norm(self, x: Array) -> float:
        """The sum of the squares of x, in float64 and always in the same order, however many threads there are."""
        flat = x.reshape(-1)
        blocks = (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
        return fsum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)

    def sgd_update(
        self,
        w: Array,
        g: Array,
        velocity: Array,
        scratch: Buffers,
        *,
        lr: float,
        momentum: float,
        decay: float,
        nesterov: bool,
        outside: bool = False,
    ) -> None:
        """v = momentum * v + lr * (g + decay * w); w -= v, or with Nesterov w -= momentum * v + lr * (g + decay * w).

        The learning rate is inside v, as in Caffe: lowering lr leaves the past velocity unchanged. With `outside`, as
        in PyTorch: v = momentum * v + g + decay * w; w -= lr * v, or lr * (momentum * v + g + decay * w).
        """
        step = scratch.get("step", w.shape, w.dtype)
        _decayed(w, g, decay, step)
        if not outside:
            step *= lr
        velocity *= momentum
        velocity += step
        if outside:
            if nesterov:
                step += momentum * velocity
            else:
                step[...] = velocity
            step *= lr
            w -= step
        elif nesterov:
            w -= step
            w -= np.multiply(velocity, momentum, out=step)
        else:
            w -= velocity

    def rmsprop_update(
        self,
        w: Array,
        g: Array,
        square: Array,
        scratch: Buffers,
        *,
        lr: float,
        rho: float,
        epsilon: float,
        decay: float,
    ) -> None:
        """s = rho * s + (1 - rho) * g**2; w -= lr * g / (sqrt(s) + epsilon) (Tieleman & Hinton 2012, lecture 6.5)."""
        step = scratch.get("step", w.shape, w.dtype)
        divisor = scratch.get("divisor", w.shape, w.dtype)
        _decayed(w, g, decay, step)
        square *= rho
        square += np.multiply(np.square(step, out=divisor), 1 - rho, out=divisor)
        np.sqrt(square, out=divisor)
        divisor += epsilon
        step /= divisor
        step *= lr
        w -= step

    def adam_update(
        self,
        w: Array,
        g: Array,
        first: Array,
        second: Array,
        scratch: Buffers,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        decay: float,
        time: int,
    ) -> None:
        """Adam with bias correction at step `time`, counted from 1 (Kingma & Ba 2015, algorithm 1)."""
        step = scratch.get("step", w.shape, w.dtype)
        divisor = scratch.get("divisor", w.shape, w.dtype)
        _decayed(w, g, decay, step)
        second *= beta2
        second += np.multiply(np.square(step, out=divisor), 1 - beta2, out=divisor)
        first *= beta1
        step *= 1 - beta1
        first += step
        np.multiply(second, 1 / (1 - beta2**time), out=divisor)
        np.sqrt(divisor, out=divisor)
        divisor += epsilon
        np.divide(first, divisor, out=step)
        step *= lr / (1 - beta1**time)
        w -= step


BLOCK = 1 << 16
"""Numbers that are squared at a time."""


def _decayed(w: Array, g: Array, decay: float, out: Array) -> None:
    """out = g + decay * w."""
    np.multiply(w, decay, out=out)
    out += g
