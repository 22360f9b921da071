"""The operations of cnn.ops by compiled kernels, for the arrays that the kernels support."""

from functools import cache
from math import fsum
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers
from cnn.compiled import (
    activations,
    channel_copy,
    elementwise,
    geometry,
    input,
    losses,
    lrn,
    norm,
    normalization,
    pooling,
    rounding,
    updates,
)
from cnn.compiled.elementwise import KINDS, LINEAR
from cnn.compiled.input import Constants
from cnn.compiled.parts import flat, parts_for
from cnn.compiled.widening import alike, in_float32
from cnn.convolution import Window
from cnn.ops.elementwise import ACTIVATIONS, SLOPE, Elementwise
from cnn.ops.input import Changes, Input
from cnn.ops.losses import Losses, checked_count
from cnn.ops.memory import Memory
from cnn.ops.normalization import Normalization
from cnn.ops.updates import Updates
from cnn.precision import SHORT

NOTHING = np.empty(0, np.float32)
NO_SHORTS = np.empty(0, SHORT)
NO_TAPS = np.empty(0, np.uint8)
"""Stand for arrays that are absent."""


EXPONENT = np.uint16(0x7F80)
"""The bits of a bfloat16 that are all set only in infinity and NaN."""


class CompiledOps(Memory, Input, Elementwise, Normalization, Losses, Updates):
    """Operations that are faster for contiguous float32 or SHORT arrays; all else goes to the next base class.

    That class computes on float32 copies of SHORT arrays.
    """

    def all_finite(self, x: Array) -> bool:
        return not ((x & EXPONENT) == EXPONENT).any() if x.dtype == SHORT else super().all_finite(x)

    def load_batch(
        self,
        images: npt.NDArray[np.uint8],
        order: npt.NDArray[np.int64],
        changes: Changes,
        out: Array,
        *,
        scale: float,
        mean: Array | None,
        std: Array | None,
    ) -> None:
        if flat(out) is None:
            super().load_batch(images, order, changes, out, scale=scale, mean=mean, std=std)
        else:
            shape = out.shape[1:]
            plain = mean is None and std is None
            constants = _scale_only(shape, scale) if plain else Constants.of(shape, scale=scale, mean=mean, std=std)
            if changes.retouch is not None:
                images, order = changes.retouch.apply(images[order]), np.arange(len(order))
            input.batch_into(
                out,
                images,
                order,
                constants,
                mirrored=changes.mirrored,
                corners=changes.corners,
                pad=changes.pad,
                reflect=changes.reflect,
                holes=changes.holes,
                hole=changes.hole,
            )

    def scale(self, x: Array, factors: Array | float, out: Array) -> None:
        arrays = alike(x, out)
        given = flat(factors) if isinstance(factors, np.ndarray) else [NOTHING]
        if arrays is None or given is None or x.shape != out.shape or np.shape(factors) not in ((), x.shape):
            in_float32(super().scale, x, factors, out)
        else:
            factor = 1.0 if isinstance(factors, np.ndarray) else float(factors)
            elementwise.scale(arrays[0], *given, factor, arrays[1], parts_for(x.size))

    def round_bfloat16(self, x: Array, out: Array) -> None:
        arrays = flat(x, out)
        if arrays is None or x.shape != out.shape:
            super().round_bfloat16(x, out)
        else:
            rounding.round_bfloat16(*arrays, parts_for(x.size))

    def bias_activation(self, y: Array, bias: Array | None, activation: str | None) -> None:
        arrays, added = alike(y), [NOTHING] if bias is None else flat(bias)
        fits = bias is None or bias.shape == y.shape[-1:]
        if arrays is None or added is None or not fits or activation not in KINDS:
            in_float32(super().bias_activation, y, bias, activation)
        elif bias is not None or activation is not None:
            x = arrays[0]
            elementwise.forward(x, added[0], x, _apart(x, x), KINDS[activation], parts_for(x.size))

    def add(self, x: Array, y: Array, activation: str | None, out: Array) -> None:
        arrays = alike(x, y, out)
        if arrays is None or not x.shape == y.shape == out.shape or activation not in KINDS:
            in_float32(super().add, x, y, activation, out)
        else:
            first, second, result = arrays
            if second.ctypes.data == result.ctypes.data:
                first, second = second, first
            elementwise.add(first, second, result, _apart(first, result), KINDS[activation], parts_for(out.size))

    def copy_channels(self, x: Array, out: Array, *, channels: int, source: int = 0, target: int = 0) -> None:
        arrays = alike(x, out)
        if arrays is None or x.shape[:-1] != out.shape[:-1]:
            in_float32(super().copy_channels, x, out, channels=channels, source=source, target=target)
        else:
            parts = parts_for(x.size // x.shape[-1] * channels)
            channel_copy.copy(*arrays, x.shape[-1], source, out.shape[-1], target, channels, parts)

    def activation(self, name: str, x: Array, out: Array, *, slope: float = SLOPE) -> None:
        arrays = alike(x, out)
        if arrays is None or x.shape != out.shape or name not in ACTIVATIONS:
            in_float32(super().activation, name, x, out, slope=slope)
            return
        given, result = arrays
        parts = parts_for(x.size)
        if name in KINDS:
            elementwise.forward(given, NOTHING, result, _apart(given, result), KINDS[name], parts)
        else:
            activations.apply(activations.KINDS[name], given, _nothing(x), slope, result, False, parts)

    def activation_gradient(self, name: str, source: Array, dy: Array, out: Array, *, slope: float = SLOPE) -> None:
        arrays = alike(source, dy, out)
        if arrays is None or not source.shape == dy.shape == out.shape or name not in ACTIVATIONS:
            in_float32(super().activation_gradient, name, source, dy, out, slope=slope)
        elif name in KINDS:
            elementwise.backward(KINDS[name], *arrays, NOTHING, parts_for(dy.size))
        else:
            given, gradients, result = arrays
            parts = parts_for(dy.size)
            activations.apply(activations.KINDS[name], given, gradients, slope, result, True, parts)

    def bias_gradient(self, dy: Array, out: Array) -> None:
        arrays, sums = alike(dy), flat(out)
        if arrays is None or sums is None or out.shape != dy.shape[-1:] or not dy.size:
            in_float32(super().bias_gradient, dy, out)
        else:
            elementwise.backward(LINEAR, *arrays * 3, *sums, parts_for(dy.size))

    def activation_bias_gradient(self, name: str, y: Array, dy: Array, out: Array, bias: Array) -> None:
        """`activation_gradient`, and `bias_gradient` of its result into bias (K,), in one pass."""
        arrays, sums = alike(y, dy, out), flat(bias)
        fits = y.shape == dy.shape == out.shape and bias.shape == y.shape[-1:] and y.size > 0
        if arrays is None or sums is None or not fits or name not in KINDS:
            in_float32(super().activation_bias_gradient, name, y, dy, out, bias)
        else:
            elementwise.backward(KINDS[name], *arrays, *sums, parts_for(y.size))

    def running_mean(self, running: Array, new: Array, *, momentum: float) -> None:
        arrays = flat(running, new)
        if arrays is None or running.shape != new.shape:
            super().running_mean(running, new, momentum=momentum)
        else:
            normalization.running_mean(*arrays, momentum)

    def batch_statistics(self, x: Array, mean: Array, variance: Array) -> None:
        arrays, results = alike(x), flat(mean, variance)
        if arrays is None or results is None or not x.size:
            in_float32(super().batch_statistics, x, mean, variance)
        else:
            absent = [_nothing(x), *[NOTHING] * 4]
            normalization.moments(*arrays, *absent, 0.0, False, *results, parts_for(x.size))

    def batch_norm(
        self,
        x: Array,
        mean: Array,
        variance: Array,
        gamma: Array,
        beta: Array,
        out: Array,
        *,
        epsilon: float,
        relu: bool = False,
    ) -> None:
        arrays, numbers = alike(x, out), flat(mean, variance, gamma, beta)
        if arrays is None or numbers is None or not x.size:
            in_float32(super().batch_norm, x, mean, variance, gamma, beta, out, epsilon=epsilon, relu=relu)
        else:
            rows, result = arrays
            parts = parts_for(x.size)
            normalization.normalise(rows, _nothing(x), *numbers, epsilon, relu, NOTHING, NOTHING, 1, result, parts)

    def batch_norm_sums(
        self,
        x: Array,
        dy: Array,
        mean: Array,
        variance: Array,
        gamma: Array,
        beta: Array,
        dgamma: Array,
        dbeta: Array,
        scratch: Buffers,
        *,
        epsilon: float,
        relu: bool = False,
    ) -> None:
        numbers = (mean, variance, gamma, beta)
        arrays, others = alike(x, dy), flat(*numbers, dbeta, dgamma)
        if arrays is None or others is None or not x.size:
            sums = (dgamma, dbeta, scratch)
            in_float32(super().batch_norm_sums, x, dy, *numbers, *sums, epsilon=epsilon, relu=relu)
        else:
            normalization.moments(*arrays, *others[:4], epsilon, relu, *others[4:], parts_for(x.size))

    def batch_norm_gradient(
        self,
        x: Array,
        dy: Array,
        mean: Array,
        variance: Array,
        gamma: Array,
        beta: Array,
        dgamma: Array,
        dbeta: Array,
        out: Array,
        *,
        epsilon: float,
        rows: int,
        relu: bool = False,
    ) -> None:
        numbers = (mean, variance, gamma, beta, dgamma, dbeta)
        arrays, others = alike(x, dy, out), flat(*numbers)
        if arrays is None or others is None or not x.size:
            in_float32(super().batch_norm_gradient, x, dy, *numbers, out, epsilon=epsilon, rows=rows, relu=relu)
        else:
            given, parts = (*arrays[:2], *others[:4]), parts_for(x.size)
            normalization.normalise(*given, epsilon, relu, *others[4:], rows, arrays[2], parts)

    def lrn_scale(
        self, x: Array, out: Array, scratch: Buffers, *, size: int, window: Window | None, alpha: float, k: float
    ) -> None:
        arrays, lines = flat(x, out), _neighbourhoods(x, size, window, mirrored=False)
        if arrays is None or lines is None or x.shape != out.shape:
            in_float32(super().lrn_scale, x, out, scratch, size=size, window=window, alpha=alpha, k=k)
        else:
            pixels, result = arrays
            factor = alpha / (size if window is None else window.taps)
            unused = (NOTHING, NOTHING, NOTHING)
            lrn.neighbours(False, pixels, *unused, result, *lines, factor, float(k), 0.0, parts_for(x.size))

    def lrn(self, x: Array, scale: Array, out: Array, *, beta: float) -> None:
        arrays = flat(x, scale, out)
        if arrays is None or not x.shape == scale.shape == out.shape:
            in_float32(super().lrn, x, scale, out, beta=beta)
        else:
            lrn.normalise(*arrays[:2], float(beta), arrays[2], parts_for(x.size))

    def lrn_gradient(
        self,
        x: Array,
        y: Array,
        dy: Array,
        scale: Array,
        out: Array,
        scratch: Buffers,
        *,
        size: int,
        window: Window | None,
        alpha: float,
        beta: float,
    ) -> None:
        arrays, lines = flat(x, y, dy, scale, out), _neighbourhoods(x, size, window, mirrored=True)
        if arrays is None or lines is None or not x.shape == y.shape == dy.shape == scale.shape == out.shape:
            in_float32(
                super().lrn_gradient, x, y, dy, scale, out, scratch, size=size, window=window, alpha=alpha, beta=beta
            )
        else:
            factor = -2 * alpha * beta / (size if window is None else window.taps)
            lrn.neighbours(True, *arrays, *lines, factor, 0.0, float(beta), parts_for(x.size))

    def max_pool2d(self, x: Array, window: Window, out: Array, winners: Array | None, scratch: Buffers) -> None:
        taps = scratch.get("winners", out.shape, np.uint8) if winners is None else winners
        if window.taps > 256 or not (_taps(taps, out) and _pool(pooling.MAX, x, window, out, taps)):
            in_float32(super().max_pool2d, x, window, out, winners, scratch)

    def max_pool2d_gradient(self, dy: Array, winners: Array, window: Window, out: Array, scratch: Buffers) -> None:
        if not (_taps(winners, dy) and _pool(pooling.MAX_GRADIENT, out, window, dy, winners)):
            in_float32(super().max_pool2d_gradient, dy, winners, window, out, scratch)

    def avg_pool2d(self, x: Array, window: Window, out: Array) -> None:
        if not _pool(pooling.MEAN, x, window, out, NO_TAPS):
            in_float32(super().avg_pool2d, x, window, out)

    def avg_pool2d_gradient(self, dy: Array, window: Window, out: Array, scratch: Buffers) -> None:
        if not _pool(pooling.MEAN_GRADIENT, out, window, dy, NO_TAPS):
            in_float32(super().avg_pool2d_gradient, dy, window, out, scratch)

    def softmax(self, scores: Array, out: Array) -> None:
        arrays = flat(scores, out)
        if arrays is None or scores.ndim != 2 or scores.shape != out.shape or not scores.size:
            in_float32(super().softmax, scores, out)
        else:
            losses.softmax(*arrays, scores.shape[1])

    def softmax_cross_entropy(
        self, scores: Array, labels: Array, out: Array | None, *, smoothing: float = 0.0
    ) -> tuple[float, int]:
        arrays = _scored(scores, labels, out)
        if arrays is not None:
            width = scores.shape[1]
            return checked_count(losses.cross_entropy(*arrays, float(smoothing), width), width)
        return in_float32(super().softmax_cross_entropy, scores, labels, out, smoothing=smoothing)

    def target_probabilities(self, scores: Array, out: Array, *, low: float, high: float) -> None:
        arrays = flat(scores, out)
        if arrays is None or scores.ndim != 2 or scores.shape != out.shape or not scores.size:
            in_float32(super().target_probabilities, scores, out, low=low, high=high)
        else:
            losses.target_probabilities(*arrays, float(low), float(high), scores.shape[1])

    def squared_error(
        self, scores: Array, labels: Array, out: Array | None, *, low: float, high: float
    ) -> tuple[float, int]:
        arrays = _scored(scores, labels, out)
        if arrays is not None:
            rows, targets, gradients = arrays
            width = scores.shape[1]
            return checked_count(losses.squared_error(rows, targets, float(low), float(high), gradients, width), width)
        return in_float32(super().squared_error, scores, labels, out, low=low, high=high)

    def squared_norm(self, x: Array) -> float:
        arrays = flat(x)
        if arrays is None:
            return super().squared_norm(x)
        sums = np.empty(-(-x.size // norm.BLOCK))
        norm.squares(arrays[0], sums, parts_for(x.size))
        return fsum(sums)

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
        rule = updates.NESTEROV if nesterov else updates.SGD
        inner, outer = (1.0, lr) if outside else (lr, 1.0)
        if not _updated(rule, (w, g, velocity), updates.Numbers(inner, decay, momentum, outer=outer)):
            super().sgd_update(
                *(w, g, velocity, scratch), lr=lr, momentum=momentum, decay=decay, nesterov=nesterov, outside=outside
            )

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
        numbers = updates.Numbers(lr=lr, decay=decay, rho=rho, epsilon=epsilon)
        if not _updated(updates.RMSPROP, (w, g, square), numbers):
            super().rmsprop_update(w, g, square, scratch, lr=lr, rho=rho, epsilon=epsilon, decay=decay)

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
        numbers = updates.Numbers(
            lr=lr / (1 - beta1**time),
            decay=decay,
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            correction=1 / (1 - beta2**time),
        )
        if not _updated(updates.ADAM, (w, g, first, second), numbers):
            super().adam_update(
                *(w, g, first, second, scratch),
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon,
                decay=decay,
                time=time,
            )


@cache
def _scale_only(shape: tuple[int, int, int], scale: float) -> Constants:
    return Constants.of(shape, scale=scale, mean=None, std=None)


def _neighbourhoods(x: Array, size: int, window: Window | None, *, mirrored: bool) -> tuple[int, ...] | None:
    """line, height, reach, size, before and step of `lrn.neighbours`; None for a window that is not centred."""
    if not x.size:
        return None
    if window is None:
        return x.shape[-1], 1, 0, size, size - 1 - size // 2 if mirrored else size // 2, 1
    reach, (height, width, channels) = window.kernel[0] // 2, x.shape[1:]
    if window != Window((height, width), (2 * reach + 1,) * 2, padding=(reach,) * 4):
        return None
    return width * channels, height, reach, 2 * reach + 1, reach, channels


def _nothing(x: Array) -> Array:
    """Stands for an absent array of x's type."""
    return NO_SHORTS if x.dtype == SHORT else NOTHING


def _apart(x: Array, out: Array) -> bool:
    """Whether kernels compute out elsewhere than in x: the blocks of SHORT are buffers."""
    return bool(out.dtype == SHORT or x.ctypes.data != out.ctypes.data)


def _pool(step: int, image: Array, window: Window, pooled: Array, winners: Array) -> bool:
    """Runs a pooling step between images (N, H, W, C) and pooled (N, P, Q, C); False if the kernel cannot."""
    vectors = alike(image, pooled)
    if vectors is None or image.ndim != 4 or image.shape[1:3] != window.size or window.dilated:
        return False
    if pooled.shape != (len(image), *window.out, image.shape[3]):
        return False
    source, result = vectors if step in (pooling.MAX, pooling.MEAN) else vectors[::-1]
    numbers = geometry.of_window(window, image.shape[3])
    pooling.pool(step, source, winners.reshape(-1), result, numbers, len(image), parts_for(image.size))
    return True


def _taps(winners: Array, pooled: Array) -> bool:
    return winners.dtype == np.uint8 and winners.flags.carray and winners.shape == pooled.shape


def _scored(scores: Array, labels: npt.NDArray[Any], out: Array | None) -> list[Array] | None:
    """Scores, labels and out as vectors, or None if a kernel cannot take them."""
    arrays = flat(scores) if out is None else flat(scores, out)
    whole = labels.dtype.char == "l" and labels.flags.carray
    fits = scores.ndim == 2 and scores.size > 0 and labels.shape == scores.shape[:1]
    if arrays is None or not whole or not fits or (out is not None and out.shape != scores.shape):
        return None
    return [arrays[0], labels, NOTHING if out is None else arrays[1]]


def _updated(rule: int, arrays: tuple[Array, ...], numbers: updates.Numbers) -> bool:
    """Updates the weights, arrays[0]; False if the kernel cannot take the arrays."""
    vectors = flat(*arrays)
    if vectors is None or len({x.shape for x in arrays}) > 1:
        return False
    w, g, first, second = vectors if len(vectors) == 4 else (*vectors, NOTHING)
    updates.update(rule, w, g, first, second, updates.Numbers(*map(float, numbers)), parts_for(w.size))
    return True
