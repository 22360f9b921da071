"""Maximum and average pooling and their gradients."""

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.convolution import Window


def mean_weights(window: Window) -> Array:
    """1 / (pixels under each window), (P, Q, 1) float64.

    Padding counts as pixels; the part of a ceil window beyond the padding does not. This is Caffe's rule.
    """
    counts = []
    for axis, (before, after) in enumerate((window.padding[:2], window.padding[2:])):
        start = np.arange(window.out[axis]) * window.stride[axis] - before
        room = window.size[axis] + after - start
        counts.append(np.minimum(window.kernel[axis], -(-room // window.dilation[axis])))
    return 1.0 / np.multiply.outer(*counts)[:, :, None]


def pixels_inside(window: Window) -> Array:
    """The pixels of the image, without padding, under each window: (P, Q, 1) float64."""
    counts = np.zeros((*window.out, 1))
    for _, _, p, q, _, _ in window.each_tap():
        counts[p, q] += 1
    return counts


class Pooling:
    """Pooling over windows of x (N, H, W, C) to (N, P, Q, C)."""

    def max_pool2d(self, x: Array, window: Window, out: Array, winners: Array | None, scratch: Buffers) -> None:
        """out = the largest element under each window: padding is never the largest, NaN always is.

        winners (N, P, Q, C), if given, receives the kernel element r * S + s of the first largest element.
        """
        out.fill(-np.inf)
        if winners is not None:
            winners.fill(0)
            larger = scratch.get("larger", out.shape, np.bool_)
        for r, s, p, q, h, w in window.each_tap():
            pixels, best = x[:, h, w], out[:, p, q]
            if winners is not None:
                mask = np.greater(pixels, best, out=larger[:, p, q])
                np.copyto(winners[:, p, q], r * window.kernel[1] + s, where=mask, casting="unsafe")
            np.maximum(pixels, best, out=best)

    def max_pool2d_gradient(self, dy: Array, winners: Array, window: Window, out: Array, scratch: Buffers) -> None:
        """out (N, H, W, C) = dy (N, P, Q, C) added to the pixel that won each window, zero elsewhere."""
        out.fill(0)
        routed = scratch.get("routed", dy.shape, dy.dtype)
        for r, s, p, q, h, w in window.each_tap():
            won = winners[:, p, q] == r * window.kernel[1] + s
            out[:, h, w] += np.multiply(dy[:, p, q], won, out=routed[:, p, q])

    def avg_pool2d(self, x: Array, window: Window, out: Array) -> None:
        """out = the mean under each window, weighted by `mean_weights`."""
        out.fill(0)
        for _, _, p, q, h, w in window.each_tap():
            out[:, p, q] += x[:, h, w]
        out *= mean_weights(window).astype(out.dtype)

    def avg_pool2d_gradient(self, dy: Array, window: Window, out: Array, scratch: Buffers) -> None:
        """out (N, H, W, C) = dy (N, P, Q, C) divided evenly among the pixels of each window."""
        shares = scratch.get("shares", dy.shape, dy.dtype)
        np.multiply(dy, mean_weights(window).astype(dy.dtype), out=shares)
        out.fill(0)
        for _, _, p, q, h, w in window.each_tap():
            out[:, h, w] += shares[:, p, q]
