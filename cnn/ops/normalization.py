"""Batch normalisation and local response normalisation."""

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.convolution import Window
from cnn.ops.pooling import Pooling


class Normalization(Pooling):
    """Normalisation over the batch, and over neighbouring channels."""

    def batch_statistics(self, x: Array, mean: Array, variance: Array) -> None:
        """mean (C,) and biased variance (C,) of x (..., C) over all other axes."""
        rows = x.reshape(-1, x.shape[-1])
        np.mean(rows, axis=0, out=mean)
        np.var(rows, axis=0, mean=mean[None], out=variance)

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
        """out = (x - mean) / sqrt(variance + epsilon) * gamma + beta, per channel (Ioffe & Szegedy 2015, alg. 1).

        With `relu`, negative elements become 0.
        """
        np.subtract(x, mean, out=out)
        out *= gamma / np.sqrt(variance + epsilon)
        out += beta
        if relu:
            np.maximum(out, 0, out=out)

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
        """dgamma (C,) = the sum over all rows of dz times the normalised x; dbeta (C,) = the sum of dz.

        dz is dy, or with `relu` its elements where `batch_norm` without relu is above 0.
        """
        channels = x.shape[-1]
        rows, gradients = x.reshape(-1, channels), dy.reshape(-1, channels)
        normal = scratch.get("normal", rows.shape, x.dtype)
        np.subtract(rows, mean, out=normal)
        normal *= 1 / np.sqrt(variance + epsilon)
        if relu:
            gradients = gradients * (normal * gamma + beta > 0)
        np.sum(gradients, axis=0, out=dbeta)
        np.einsum("mc,mc->c", gradients, normal, out=dgamma)

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
        """out = the gradient of x, given the mean, variance, dgamma and dbeta over `rows` rows.

        x may hold all of these rows or some of them. dgamma and dbeta are the sums of `batch_norm_sums`, and dz, for
        which the formula holds, is the one described there.
        """
        # dx = gamma / sigma * (dz - mean(dz) - normal * mean(dz * normal))
        inverse = 1 / np.sqrt(variance + epsilon)
        np.subtract(x, mean, out=out)
        dz = dy * (out * (inverse * gamma) + beta > 0) if relu else dy
        out *= inverse * dgamma / -rows
        out += dz
        out -= dbeta / rows
        out *= gamma * inverse

    def lrn_scale(
        self, x: Array, out: Array, scratch: Buffers, *, size: int, window: Window | None, alpha: float, k: float
    ) -> None:
        """out = k + alpha * the mean of x**2 over a neighbourhood, zeros beyond its edges included.

        The neighbourhood is `size` channels of x (N, H, W, C), from c - size // 2 up for channel c, or, if a window
        is given, the pixels under it.
        """
        squares = scratch.get("squares", x.shape, x.dtype)
        np.multiply(x, x, out=squares)
        if window is None:
            _channel_means(squares, size, out)
        else:
            self.avg_pool2d(squares, window, out)
        out *= alpha
        out += k

    def lrn(self, x: Array, scale: Array, out: Array, *, beta: float) -> None:
        """out = x * scale ** -beta (Krizhevsky et al. 2012, section 3.3)."""
        np.power(scale, -beta, out=out)
        out *= x

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
        """out = the gradient of x, from the scale of `lrn_scale` and the y of `lrn`."""
        ratio = scratch.get("squares", x.shape, x.dtype)
        np.multiply(dy, y, out=ratio)
        ratio /= scale
        spread = scratch.get("spread", x.shape, x.dtype)
        if window is None:
            # Channel d reads c exactly if c is in the neighbourhood of d, so the transpose mirrors an even one.
            _channel_means(ratio, size, spread, mirrored=True)
        else:
            self.avg_pool2d_gradient(ratio, window, spread, scratch)
        spread *= x
        spread *= -2 * alpha * beta
        np.power(scale, -beta, out=out)
        out *= dy
        out += spread


def _channel_means(x: Array, size: int, out: Array, mirrored: bool = False) -> None:
    """out[..., c] = sum of x[..., c - size // 2 : c - size // 2 + size] / size, cut at the ends."""
    channels = x.shape[-1]
    before = size - 1 - size // 2 if mirrored else size // 2
    out.fill(0)
    for offset in range(-before, size - before):
        first, end = max(0, -offset), min(channels, channels - offset)
        if first < end:
            out[..., first:end] += x[..., first + offset : end + offset]
    out *= 1 / size
