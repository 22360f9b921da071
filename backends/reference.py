"""The `reference` backend: each operation from its definition, slowly in float64; all others are checked against it."""

from collections.abc import Iterator
from math import erfc, fsum, sqrt
from typing import ClassVar, NamedTuple

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.backend import Backend, Library, gemm_sizes
from cnn.convolution import Convolution, Window
from cnn.ops.elementwise import SLOPE, unknown_activation


class Pixel(NamedTuple):
    """Output pixel (p, q): the image rows and columns its window covers, and the kernel's part that covers them."""

    p: int
    q: int
    h: slice
    w: slice
    r: slice
    s: slice


class ReferenceBackend(Backend):
    """Loops over output pixels and explicit sums: no BLAS, no column matrix, and nothing shared with the defaults."""

    name: ClassVar[str] = "reference"
    library = Library("NumPy loops in float64", np.__version__)

    def gemm(
        self,
        a: Array,
        b: Array,
        *,
        out: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        left, right = "km" if transpose_a else "mk", "nk" if transpose_b else "kn"
        product = np.einsum(f"{left},{right}->mn", wide(a), wide(b))
        out[...] = wide(out) + product if accumulate else product

    def round_bfloat16(self, x: Array, out: Array) -> None:
        out[...] = rounded(wide(x))

    def _operands(self, x: Array, y: Array, scratch: Buffers) -> tuple[Array, Array]:
        # In float64, too: what the reference is given there is float32 made wider.
        return (rounded(wide(x)).astype(x.dtype), rounded(wide(y)).astype(y.dtype)) if self.rounds else (x, y)

    def im2col(self, x: Array, window: Window, out: Array, scratch: Buffers) -> None:
        rows = out.reshape(len(x), *window.out, *window.kernel, x.shape[3])
        rows[...] = 0
        for at in pixels(window):
            rows[:, at.p, at.q, at.r, at.s] = x[:, at.h, at.w]

    def col2im(self, columns: Array, window: Window, out: Array) -> None:
        rows, image = wide(columns).reshape(len(out), *window.out, *window.kernel, out.shape[3]), np.zeros(out.shape)
        for at in pixels(window):
            image[:, at.h, at.w] += rows[:, at.p, at.q, at.r, at.s]
        out[...] = image

    def conv2d(
        self,
        x: Array,
        w: Array,
        bias: Array | None,
        convolution: Convolution,
        activation: str | None,
        out: Array,
        scratch: Buffers,
    ) -> None:
        (x, w), y = map(wide, self._operands(x, w, scratch)), np.zeros(out.shape)
        for at in pixels(convolution.window):
            for c, k in groups(convolution):
                y[:, at.p, at.q, k] = np.einsum("nrsc,rsck->nk", x[:, at.h, at.w, c], w[at.r, at.s, :, k])
        self.bias_activation(y, bias, activation)
        out[...] = y

    def conv2d_weight_gradient(
        self, x: Array, dy: Array, convolution: Convolution, out: Array, scratch: Buffers
    ) -> None:
        (x, dy), dw = map(wide, self._operands(x, dy, scratch)), np.zeros(out.shape)
        for at in pixels(convolution.window):
            for c, k in groups(convolution):
                dw[at.r, at.s, :, k] += np.einsum("nrsc,nk->rsck", x[:, at.h, at.w, c], dy[:, at.p, at.q, k])
        out[...] = dw

    def conv2d_data_gradient(self, dy: Array, w: Array, convolution: Convolution, out: Array, scratch: Buffers) -> None:
        (dy, w), dx = map(wide, self._operands(dy, w, scratch)), np.zeros(out.shape)
        for at in pixels(convolution.window):
            for c, k in groups(convolution):
                dx[:, at.h, at.w, c] += np.einsum("nk,rsck->nrsc", dy[:, at.p, at.q, k], w[at.r, at.s, :, k])
        out[...] = dx

    def max_pool2d(self, x: Array, window: Window, out: Array, winners: Array | None, scratch: Buffers) -> None:
        n, _, _, c = x.shape
        for at in pixels(window):
            patch = x[:, at.h, at.w]
            first = patch.reshape(n, -1, c).argmax(axis=1)
            row, column = np.divmod(first, patch.shape[2])
            out[:, at.p, at.q] = patch.max(axis=(1, 2))
            if winners is not None:
                winners[:, at.p, at.q] = (at.r.start + row) * window.kernel[1] + at.s.start + column

    def max_pool2d_gradient(self, dy: Array, winners: Array, window: Window, out: Array, scratch: Buffers) -> None:
        dx = np.zeros(out.shape)
        for n, p, q, c in np.ndindex(dy.shape):
            r, s = divmod(int(winners[n, p, q, c]), window.kernel[1])
            h = p * window.stride[0] - window.padding[0] + r * window.dilation[0]
            w = q * window.stride[1] - window.padding[2] + s * window.dilation[1]
            dx[n, h, w, c] += float(dy[n, p, q, c])
        out[...] = dx

    def avg_pool2d(self, x: Array, window: Window, out: Array) -> None:
        x = wide(x)
        for at in pixels(window):
            out[:, at.p, at.q] = x[:, at.h, at.w].sum(axis=(1, 2)) / area(window, at)

    def avg_pool2d_gradient(self, dy: Array, window: Window, out: Array, scratch: Buffers) -> None:
        dy, dx = wide(dy), np.zeros(out.shape)
        for at in pixels(window):
            dx[:, at.h, at.w] += dy[:, at.p, at.q][:, None, None] / area(window, at)
        out[...] = dx

    def scale(self, x: Array, factors: Array | float, out: Array) -> None:
        out[...] = wide(x) * factors

    def running_mean(self, running: Array, new: Array, *, momentum: float) -> None:
        running[...] = momentum * wide(running) + (1 - momentum) * wide(new)

    def bias_activation(self, y: Array, bias: Array | None, activation: str | None) -> None:
        z = wide(y) if bias is None else wide(y) + wide(bias)
        y[...] = z if activation is None else activated(activation, z)

    def bias_gradient(self, dy: Array, out: Array) -> None:
        out[...] = wide(dy).sum(axis=tuple(range(dy.ndim - 1)))

    def add(self, x: Array, y: Array, activation: str | None, out: Array) -> None:
        z = wide(x) + wide(y)
        out[...] = z if activation is None else activated(activation, z)

    def copy_channels(self, x: Array, out: Array, *, channels: int, source: int = 0, target: int = 0) -> None:
        for c in range(channels):
            out[..., target + c] = x[..., source + c]

    def activation(self, name: str, x: Array, out: Array, *, slope: float = SLOPE) -> None:
        out[...] = activated(name, wide(x), slope)

    def activation_gradient(self, name: str, source: Array, dy: Array, out: Array, *, slope: float = SLOPE) -> None:
        out[...] = derivative(name, wide(source), slope) * wide(dy)

    def softmax_cross_entropy(
        self, scores: Array, labels: Array, out: Array | None, *, smoothing: float = 0.0
    ) -> tuple[float, int]:
        loss, right = 0.0, 0
        for n, (row, label) in enumerate(zip(wide(scores), labels, strict=True)):
            target = np.full(len(row), smoothing / len(row))
            target[label] += 1 - smoothing
            loss += float(np.log(np.exp(row - row.max()).sum()) + row.max() - (target * row).sum())
            right += int(row.argmax() == label)
            if out is not None:
                out[n] = (softmax(row) - target) / len(labels)
        return loss, right

    def squared_error(
        self, scores: Array, labels: Array, out: Array | None, *, low: float, high: float
    ) -> tuple[float, int]:
        loss, right = 0.0, 0
        for n, (row, label) in enumerate(zip(wide(scores), labels, strict=True)):
            target = np.full(len(row), low)
            target[label] = high
            loss += float(((row - target) ** 2).mean())
            right += int(row.argmax() == label)
            if out is not None:
                out[n] = 2 * (row - target) / scores.size
        return loss, right

    def softmax(self, scores: Array, out: Array) -> None:
        for n, row in enumerate(wide(scores)):
            out[n] = softmax(row)

    def target_probabilities(self, scores: Array, out: Array, *, low: float, high: float) -> None:
        for n, row in enumerate(wide(scores)):
            heights = (row + max(high - row.max(), 0) - low).clip(min=0)
            out[n] = heights / heights.sum()

    def batch_statistics(self, x: Array, mean: Array, variance: Array) -> None:
        rows = wide(x).reshape(-1, x.shape[-1])
        centre = rows.sum(axis=0) / len(rows)
        mean[...] = centre
        variance[...] = ((rows - centre) ** 2).sum(axis=0) / len(rows)

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
        normal = (wide(x) - wide(mean)) / np.sqrt(wide(variance) + epsilon)
        y = wide(gamma) * normal + wide(beta)
        out[...] = activated("relu", y) if relu else y

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
        axes = tuple(range(x.ndim - 1))
        normal = (wide(x) - wide(mean)) / np.sqrt(wide(variance) + epsilon)
        dz = wide(dy) * (gamma * normal + beta > 0) if relu else wide(dy)
        dgamma[...] = (dz * normal).sum(axis=axes)
        dbeta[...] = dz.sum(axis=axes)

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
        # Ioffe & Szegedy 2015, section 3, through the variance, the mean, and x itself. The sums over the batch in the
        # paper's steps are those of dbeta and dgamma times gamma; the rows' distances from their mean sum up to 0.
        deviation, centred = np.sqrt(wide(variance) + epsilon), wide(x) - wide(mean)
        dz = wide(dy) * (gamma * centred / deviation + beta > 0) if relu else wide(dy)
        dvariance = wide(gamma) * wide(dgamma) * -0.5 / deviation**2
        dmean = -wide(gamma) * wide(dbeta) / deviation
        out[...] = dz * wide(gamma) / deviation + dvariance * 2 * centred / rows + dmean / rows

    def lrn_scale(
        self, x: Array, out: Array, scratch: Buffers, *, size: int, window: Window | None, alpha: float, k: float
    ) -> None:
        x, total = wide(x), np.zeros(x.shape)
        if window is None:
            for c, near in neighbours(x.shape[-1], size):
                total[..., c] = (x[..., near] ** 2).sum(axis=-1) / size
        else:
            for at in pixels(window):
                total[:, at.p, at.q] = (x[:, at.h, at.w] ** 2).sum(axis=(1, 2)) / area(window, at)
        out[...] = k + alpha * total

    def lrn(self, x: Array, scale: Array, out: Array, *, beta: float) -> None:
        out[...] = wide(x) / wide(scale) ** beta

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
        # Each output reads its neighbourhood through its scale: its gradient goes back to every element it read.
        x, scale = wide(x), wide(scale)
        dscale = -beta * wide(dy) * wide(y) / scale
        dx = wide(dy) / scale**beta
        if window is None:
            for c, near in neighbours(x.shape[-1], size):
                dx[..., near] += dscale[..., c, None] * 2 * alpha * x[..., near] / size
        else:
            for at in pixels(window):
                local = dscale[:, at.p, at.q][:, None, None]
                dx[:, at.h, at.w] += local * 2 * alpha * x[:, at.h, at.w] / area(window, at)
        out[...] = dx

    def squared_norm(self, x: Array) -> float:
        return fsum(each * each for each in wide(x).reshape(-1).tolist())

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
        inner, outer = (1.0, lr) if outside else (lr, 1.0)
        step = inner * (wide(g) + decay * wide(w))
        v = momentum * wide(velocity) + step
        velocity[...] = v
        w[...] = wide(w) - outer * (momentum * v + step if nesterov else v)

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
        gradient = wide(g) + decay * wide(w)
        s = rho * wide(square) + (1 - rho) * gradient**2
        square[...] = s
        w[...] = wide(w) - lr * gradient / (np.sqrt(s) + epsilon)

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
        gradient = wide(g) + decay * wide(w)
        m = beta1 * wide(first) + (1 - beta1) * gradient
        v = beta2 * wide(second) + (1 - beta2) * gradient**2
        first[...], second[...] = m, v
        w[...] = wide(w) - lr * (m / (1 - beta1**time)) / (np.sqrt(v / (1 - beta2**time)) + epsilon)


def wide(x: Array) -> Array:
    """x in float64."""
    return x.astype(np.float64)


def rounded(x: Array) -> Array:
    """x with 8 significant bits, ties to even; infinite from 2**128 on."""
    fraction, exponent = np.frexp(x)
    y = np.ldexp(np.rint(fraction * 2**8), exponent - 8)
    result: Array = np.where(np.abs(y) >= 2.0**128, np.copysign(np.inf, y), y)
    return result


def pixels(window: Window) -> Iterator[Pixel]:
    """Every output pixel with its window cut to the image."""
    for p, q in np.ndindex(window.out):
        h, r = overlap(window, 0, p * window.stride[0] - window.padding[0])
        w, s = overlap(window, 1, q * window.stride[1] - window.padding[2])
        yield Pixel(p, q, h, w, r, s)


def overlap(window: Window, axis: int, start: int) -> tuple[slice, slice]:
    """The image's rows (axis 0) or columns (1) under a kernel starting at `start`, and the elements over them."""
    step, size = window.dilation[axis], window.size[axis]
    inside = [each for each in range(window.kernel[axis]) if 0 <= start + each * step < size]
    if not inside:
        return slice(0, 0), slice(0, 0)
    return slice(start + inside[0] * step, start + inside[-1] * step + 1, step), slice(inside[0], inside[-1] + 1)


def groups(convolution: Convolution) -> Iterator[tuple[slice, slice]]:
    """The channels and the filters of each group."""
    channels, filters = convolution.channels // convolution.groups, convolution.filters // convolution.groups
    for group in range(convolution.groups):
        yield (
            slice(group * channels, (group + 1) * channels),
            slice(group * filters, (group + 1) * filters),
        )


def area(window: Window, at: Pixel) -> int:
    """Pixels that a mean divides by: padding counts, what lies beyond it does not (Caffe's rule)."""
    top, bottom, left, right = window.padding
    ends = top + window.size[0] + bottom, left + window.size[1] + right
    starts = at.p * window.stride[0], at.q * window.stride[1]
    rows, columns = (
        sum(start + element * step < end for element in range(kernel))
        for start, end, kernel, step in zip(starts, ends, window.kernel, window.dilation, strict=True)
    )
    return rows * columns


def neighbours(channels: int, size: int) -> Iterator[tuple[int, slice]]:
    """Every channel c with the channels c - size // 2 to c - size // 2 + size - 1 that exist."""
    for c in range(channels):
        first = c - size // 2
        yield c, slice(max(0, first), min(channels, first + size))


def activated(name: str, x: Array, slope: float = SLOPE) -> Array:
    """The activation of x. Raises UsageError for an unknown name."""
    y: Array
    if name == "relu":
        y = np.where(x > 0, x, 0.0)
    elif name == "tanh":
        y = np.tanh(x)
    elif name == "sigmoid":
        y = 1 / (1 + np.exp(-x))
    elif name == "leaky_relu":
        y = np.where(x > 0, x, slope * x)
    elif name == "relu6":
        y = np.where(x < 6, np.where(x > 0, x, 0.0), 6.0)
    elif name == "gelu":
        y = x * normal_cdf(x)
    elif name == "silu":
        y = x / (1 + np.exp(-x))
    elif name == "hard_swish":
        y = np.where(x <= -3, 0.0, np.where(x >= 3, x, x * (x + 3) / 6))
    else:
        raise unknown_activation(name)
    return y


def derivative(name: str, s: Array, slope: float) -> Array:
    """The activation's derivative, from its output s if it is a fused one, else from its input."""
    y: Array
    if name == "relu":
        y = np.where(s > 0, 1.0, 0.0)
    elif name == "tanh":
        y = 1 - s**2
    elif name == "sigmoid":
        y = s - s**2
    elif name == "leaky_relu":
        y = np.where(s > 0, 1.0, slope)
    elif name == "relu6":
        y = np.where((s <= 0) | (s >= 6), 0.0, 1.0)
    elif name == "gelu":
        y = normal_cdf(s) + s * np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi)
    elif name == "silu":
        e = np.exp(-s)
        y = (1 + e + s * e) / (1 + e) ** 2
    elif name == "hard_swish":
        y = np.where(s <= -3, 0.0, np.where(s >= 3, 1.0, s / 3 + 0.5))
    else:
        raise unknown_activation(name)
    return y


def normal_cdf(x: Array) -> Array:
    """The standard normal distribution function of each element."""
    values: Array = np.array([erfc(-each / sqrt(2)) / 2 for each in x.flat])
    return values.reshape(x.shape)


def softmax(row: Array) -> Array:
    """exp(row) / its sum; the largest score is subtracted first so that exp stays finite."""
    exponentials = np.exp(row - row.max())
    probabilities: Array = exponentials / exponentials.sum()
    return probabilities
