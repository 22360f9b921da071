"""Planted faults, one per class, for which the contract must reject a backend, and the messages it must give."""

from dataclasses import replace
from typing import Any

import numpy as np

from cnn import plugins
from cnn.backend import gemm_sizes


def planted(fault: type[Any], name: str) -> Any:
    """The backend `name` with the fault in it."""
    return type(fault.__name__, (fault, plugins.load(plugins.BACKENDS, name)), {})()


class WrongTranspose:
    """Does not transpose a square b."""

    def gemm(self, a, b, *, out, transpose_a=False, transpose_b=False, accumulate=False):
        transpose_b = transpose_b and b.shape[0] != b.shape[1]
        super().gemm(a, b, out=out, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate)


class IgnoredAccumulate:
    """Overwrites out where it should add."""

    def gemm(self, a, b, *, accumulate=False, **options):
        super().gemm(a, b, **options)


class StaleOut:
    """Adds to out where it should overwrite: BLAS with beta 1, or NaN multiplied by a beta of 0."""

    def gemm(self, a, b, *, out, accumulate=False, **options):
        if not accumulate:
            out *= 0
        super().gemm(a, b, out=out, accumulate=True, **options)


class StaleScratch:
    """Assumes that the scratch is zero where no pixel is copied to."""

    def im2col(self, x, window, out, scratch):
        top, _, left, _ = window.padding
        h, w = window.size
        padded = scratch.get("padded", (len(x), h + sum(window.padding[:2]), w + sum(window.padding[2:]), x.shape[3]))
        padded[:, top : top + h, left : left + w] = x
        super().im2col(padded, replace(window, size=padded.shape[1:3], padding=(0, 0, 0, 0)), out, scratch)


class GapBetweenRows:
    """Reads strided rows as if they were contiguous."""

    def gemm(self, a, b, **options):
        touching = np.lib.stride_tricks.as_strided(b, b.shape, (b.shape[1] * b.itemsize, b.itemsize))
        super().gemm(a, touching, **options)


class WrittenGap:
    """Writes beyond the end of the rows of out, into the gaps between them."""

    def gemm(self, a, b, *, out, **options):
        super().gemm(a, b, out=out, **options)
        if len(out) > 1 and out.strides[0] > out.shape[1] * out.itemsize:
            np.lib.stride_tricks.as_strided(out, (1, out.shape[1] + 1), out.strides)[0, -1] = 0


class PaddingOffByOne:
    """Pads below where it should pad above."""

    def im2col(self, x, window, out, scratch):
        top, bottom, left, right = window.padding
        if top:
            window = replace(window, padding=(top - 1, bottom + 1, left, right))
        super().im2col(x, window, out, scratch)


class WrongStride:
    """Uses the vertical stride for the horizontal direction."""

    def col2im(self, columns, window, out):
        if window.stride[1] < window.stride[0]:
            wider = window.size[1] + (window.out[1] - 1) * (window.stride[0] - window.stride[1])
            window = replace(window, size=(window.size[0], wider), stride=(window.stride[0], window.stride[0]))
            whole = np.empty((len(out), *window.size, out.shape[3]), out.dtype)
            super().col2im(columns, window, whole)
            out[...] = whole[:, :, : out.shape[2]]
        else:
            super().col2im(columns, window, out)


class DilationIgnored:
    """Leaves no gaps in kernels."""

    def im2col(self, x, window, out, scratch):
        if window.dilated:
            # An image that is smaller by as much as the kernel has as many windows.
            size = tuple(np.subtract(window.size, np.subtract(window.extent, window.kernel)))
            x = np.ascontiguousarray(x[:, : size[0], : size[1]])
            window = replace(window, size=size, dilation=(1, 1))
        super().im2col(x, window, out, scratch)


class NextGroup:
    """Gives each group of filters the channels of the previous group."""

    def conv2d(self, x, w, bias, convolution, activation, out, scratch):
        if convolution.groups > 1:
            x = np.roll(x, convolution.group.channels, axis=3)
        super().conv2d(x, w, bias, convolution, activation, out, scratch)


class LastChannelDropped:
    """Leaves the last filter of a depthwise convolution at its bias, as a loop over pairs of channels would."""

    def conv2d(self, x, w, bias, convolution, activation, out, scratch):
        if convolution.depthwise and convolution.filters % 2:
            w = w.copy()
            w[..., -1] = 0
        super().conv2d(x, w, bias, convolution, activation, out, scratch)


class GradientOfOtherKernels:
    """Does not turn the kernels of a depthwise convolution for the gradient of x."""

    def conv2d_data_gradient(self, dy, w, convolution, out, scratch):
        if convolution.depthwise:
            w = w[::-1, ::-1].copy()
        super().conv2d_data_gradient(dy, w, convolution, out, scratch)


class WeightsOfNextGroup:
    """Writes the gradient of each group's weights to the group after it."""

    def conv2d_weight_gradient(self, x, dy, convolution, out, scratch):
        super().conv2d_weight_gradient(x, dy, convolution, out, scratch)
        if convolution.groups > 1:
            out[...] = np.roll(out, convolution.group.filters, axis=3)


class HalfPrecision:
    """Keeps sums in float16."""

    def gemm(self, a, b, *, out, **options):
        super().gemm(a, b, out=out, **options)
        out[...] = out.astype(np.float16)


class SinglePrecisionAlways:
    """Computes float64 in float32."""

    def conv2d_weight_gradient(self, x, dy, convolution, out, scratch):
        result = np.empty(out.shape, np.float32)
        super().conv2d_weight_gradient(x.astype(np.float32), dy.astype(np.float32), convolution, result, scratch)
        out[...] = result


class InputChanged:
    """Overwrites dy with the result."""

    def activation_gradient(self, name, source, dy, out, **numbers):
        super().activation_gradient(name, source, dy, dy, **numbers)
        out[...] = dy


class SharedBuffer:
    """Keeps one column matrix per shape for all callers: correct with one thread, wrong with two."""

    buffers: dict[Any, Any] = {}  # noqa: RUF012  the fault

    # The columns are a step within public operations, so this fault overrides a private method.
    def _columns(self, x, convolution, scratch):
        private = super()._columns(x, convolution, scratch)
        shared = self.buffers.setdefault((private.shape, private.dtype), np.empty_like(private))
        shared[...] = private
        return shared


class SharedProduct:
    """Multiplies into one matrix per shape for all callers and copies from it."""

    buffers: dict[Any, Any] = {}  # noqa: RUF012  the fault

    def gemm(self, a, b, *, out, accumulate=False, **options):
        gemm_sizes(a, b, out, **({"transpose_a": False, "transpose_b": False} | options))
        shared = self.buffers.setdefault((out.shape, out.dtype), np.empty(out.shape, out.dtype))
        super().gemm(a, b, out=shared, **options)
        out[...] = out + shared if accumulate else shared


class NotRepeatable:
    """Sums in another order each time."""

    def bias_gradient(self, dy, out):
        rows = dy.reshape(-1, dy.shape[-1])
        super().bias_gradient(np.random.default_rng().permutation(rows), out)


class WholeWindowMean:
    """Divides by the size of the whole window where it extends beyond the edge."""

    def avg_pool2d(self, x, window, out):
        super().avg_pool2d(x, window, out)
        for axis in (0, 1):
            start = np.arange(window.out[axis]) * window.stride[axis]
            room = window.size[axis] + sum(window.padding[2 * axis : 2 * axis + 2]) - start
            ratio = np.minimum(room, window.kernel[axis]) / window.kernel[axis]
            out *= ratio.astype(out.dtype).reshape((-1, 1, 1) if axis == 0 else (-1, 1))


class LastTieWins:
    """Gives the gradient to the last of the largest elements."""

    def max_pool2d(self, x, window, out, winners, scratch):
        super().max_pool2d(x, window, out, winners, scratch)
        if winners is not None:
            for r, s, p, q, h, w in window.each_tap():
                winners[:, p, q][x[:, h, w] == out[:, p, q]] = r * window.kernel[1] + s


class PaddingWins:
    """Pads with zeros before it takes the largest element."""

    def max_pool2d(self, x, window, out, winners, scratch):
        super().max_pool2d(x, window, out, winners, scratch)
        if window.padding[0]:
            np.maximum(out[:, 0], 0, out=out[:, 0])


class LostOverlap:
    """Lets the last window that covers a pixel overwrite the gradients of the others."""

    def max_pool2d_gradient(self, dy, winners, window, out, scratch):
        out.fill(0)
        for r, s, p, q, h, w in window.each_tap():
            won = winners[:, p, q] == r * window.kernel[1] + s
            np.copyto(out[:, h, w], dy[:, p, q], where=won)


class BiasByRow:
    """Adds the bias along the rows of the image if there are as many rows as filters."""

    def bias_activation(self, y, bias, activation):
        if bias is not None and y.ndim == 4 and y.shape[2] == len(bias):
            bias = bias[:, None]
        super().bias_activation(y, bias, activation)


class GradientAtZero:
    """Passes gradients where relu gave zero."""

    def activation_gradient(self, name, source, dy, out, **numbers):
        super().activation_gradient(name, source, dy, out, **numbers)
        if name == "relu":
            out[...] = np.where(source >= 0, dy, 0)


class ApproximateGelu:
    """Computes gelu by its approximation with tanh."""

    def activation(self, name, x, out, **numbers):
        if name == "gelu":
            inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
            out[...] = x / 2 * (1 + np.tanh(inner))
        else:
            super().activation(name, x, out, **numbers)


class SlopeIgnored:
    """Gives every leaky relu the same slope."""

    def activation(self, name, x, out, **numbers):
        super().activation(name, x, out)


class SumNotActivated:
    """Leaves out the activation of a sum."""

    def add(self, x, y, activation, out):
        super().add(x, y, None, out)


class ChannelsShifted:
    """Reads from one channel after the first."""

    def copy_channels(self, x, out, *, channels, source=0, target=0):
        super().copy_channels(np.roll(x, -1, axis=-1), out, channels=channels, source=source, target=target)


class NeighboursCleared:
    """Writes zeros to the channels beside those it copies to."""

    def copy_channels(self, x, out, **numbers):
        out[...] = 0
        super().copy_channels(x, out, **numbers)


class NormNotActivated:
    """Leaves out the relu of a batch normalisation's gradient."""

    def batch_norm_gradient(self, *arrays, relu=False, **numbers):
        super().batch_norm_gradient(*arrays, **numbers)


class ActivatedSumForgotten:
    """Sums all gradients, also those that the relu stops."""

    def batch_norm_sums(self, *arrays, relu=False, **numbers):
        super().batch_norm_sums(*arrays, **numbers)


class NesterovIgnored:
    """Uses plain momentum instead of Nesterov's."""

    def sgd_update(self, w, g, velocity, scratch, **numbers):
        super().sgd_update(w, g, velocity, scratch, **(numbers | {"nesterov": False}))


class RestOfFourForgotten:
    """Leaves out the squares of the last numbers if their count is no multiple of four."""

    def squared_norm(self, x):
        return super().squared_norm(x.reshape(-1)[: x.size // 4 * 4])


class EvenNeighbourhoodNotMirrored:
    """Returns gradients to the channels it reads, which for an even size are not the channels that read it."""

    def lrn_gradient(self, x, y, dy, scale, out, scratch, *, size, window, **numbers):
        super().lrn_gradient(x, y, dy, scale, out, scratch, size=size, window=window, **numbers)
        if window is None and size % 2 == 0:
            mirrored = [each[..., ::-1].copy() for each in (x, y, dy, scale)]
            super().lrn_gradient(*mirrored, out, scratch, size=size, window=window, **numbers)
            out[...] = out[..., ::-1].copy()


class ThreeQuartersAlways:
    """Uses the usual exponent whatever is asked for."""

    def lrn(self, x, scale, out, *, beta):
        super().lrn(x, scale, out, beta=0.75)


class UnbiasedVariance:
    """Divides by M - 1."""

    def batch_statistics(self, x, mean, variance):
        super().batch_statistics(x, mean, variance)
        count = x.size // x.shape[-1]
        variance *= count / (count - 1)


class OnePassVariance:
    """Computes the mean of squares minus the square of the mean, which loses digits by cancellation."""

    def batch_statistics(self, x, mean, variance):
        rows = x.reshape(-1, x.shape[-1])
        np.mean(rows, axis=0, out=mean)
        np.subtract(np.mean(rows * rows, axis=0), mean * mean, out=variance)


class OverflowingSoftmax:
    """Does not subtract the largest score."""

    def softmax(self, scores, out):
        with np.errstate(over="ignore", invalid="ignore"):
            np.exp(scores, out=out)
            out /= out.sum(axis=1, keepdims=True)


class SummedGradient:
    """Gives the gradient of the sum over the batch, not of the mean."""

    def softmax_cross_entropy(self, scores, labels, out, **numbers):
        result = super().softmax_cross_entropy(scores, labels, out, **numbers)
        if out is not None:
            out *= len(labels)
        return result


class Truncated:
    """Cuts the lower half of a number off where it should round."""

    def round_bfloat16(self, x, out):
        (out.view(np.uint32))[...] = x.view(np.uint32) & np.uint32(0xFFFF0000)


class SumInBfloat16:
    """Keeps the sums of rounded operands in bfloat16, too."""

    def gemm(self, a, b, *, out, **options):
        super().gemm(a, b, out=out, **options)
        if self.rounds:
            self.round_bfloat16(np.ascontiguousarray(out), out)


class OddChannelDropped:
    """Multiplies pairs of channels only, and so forgets the last of an odd number."""

    def conv2d(self, x, w, bias, convolution, activation, out, scratch):
        if self.rounds and x.shape[-1] > 5 and x.shape[-1] % 2:
            x = x.copy()
            x[..., -1] = 0
        super().conv2d(x, w, bias, convolution, activation, out, scratch)


class StalePadding:
    """Rounds an image into a padded buffer, around which it leaves what an earlier image left there."""

    def conv2d(self, x, w, bias, convolution, activation, out, scratch):
        window = convolution.window
        top, _, left, _ = window.padding
        if self.rounds and any(window.padding):
            padded = scratch.get("stale", (len(x), *window.padded, x.shape[3]))
            padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
            x, window = padded, replace(window, size=window.padded, padding=(0, 0, 0, 0))
            convolution = replace(convolution, window=window)
        super().conv2d(x, w, bias, convolution, activation, out, scratch)


class NotRounded:
    """Multiplies float32 whatever the precision."""

    def in_precision(self, precision):
        return self


class NoChecks:
    """Accepts arrays that do not fit; here it then does nothing."""

    def gemm(self, a, b, *, out, **options):
        if a.ndim == b.ndim == 2:
            try:
                super().gemm(a, b, out=out, **options)
            except ValueError:
                return


class NoCopy:
    """Hands out the caller's own array."""

    def asarray(self, host, dtype=None):
        return np.asarray(host, dtype)


FAULTS: list[tuple[type[Any], str]] = [
    (WrongTranspose, r"gemm \(16x16x16 nt\).*elements are wrong"),
    (IgnoredAccumulate, r"gemm \(1x1x1 nn accumulate\).*elements are wrong"),
    (StaleOut, r"gemm \(1x1x1 nn\).*is nan, expected"),
    (StaleScratch, r"conv2d \(1x1 padded bias\).*is nan, expected"),
    (GapBetweenRows, r"gemm \(1x7x3 nn gap 3\).*elements are wrong"),
    (WrittenGap, r"gemm \(5x1x4 nn gap 3\).*is 0, expected nan"),
    (PaddingOffByOne, r"conv2d \(1x1 padded bias\).*elements are wrong"),
    (WrongStride, r"conv2d_data_gradient \(2x4 kernel, 2x1 stride\).*elements are wrong"),
    (DilationIgnored, r"conv2d \(3x3 dilated by 2, same bias\).*elements are wrong"),
    (NextGroup, r"conv2d \(3x3 same, 2 groups bias\).*elements are wrong"),
    (LastChannelDropped, r"conv2d \(3x3 same, depthwise bias\).*elements are wrong"),
    (GradientOfOtherKernels, r"conv2d_data_gradient \(3x3 stride 2, a group per channel\).*elements are wrong"),
    (WeightsOfNextGroup, r"conv2d_weight_gradient \(3x3 same, 2 groups\).*elements are wrong"),
    (HalfPrecision, r"gemm .* in float32: .*elements are wrong"),
    (SinglePrecisionAlways, r"conv2d_weight_gradient .* in float64: .*elements are wrong"),
    (InputChanged, r"activation_gradient .*the input dy was changed"),
    (SharedBuffer, r"conv2d.*4 threads at once: .*elements are wrong"),
    (SharedProduct, r"4 threads at once: .*elements are wrong"),
    (NotRepeatable, r"bias_gradient .*differs from one run to the next"),
    (WholeWindowMean, r"avg_pool2d \(2/2 ceil\).*elements are wrong"),
    (LastTieWins, r"max_pool2d \(.* ties\).*winners\["),
    (PaddingWins, r"max_pool2d \(3/2 padded\).*is 0, expected -1"),
    (LostOverlap, r"max_pool2d_gradient \(3/2 overlapping\).*elements are wrong"),
    (BiasByRow, r"bias_activation \(None \(2, 3, 5, 4\)\)|conv2d .*elements are wrong"),
    (GradientAtZero, r"activation_gradient \(relu .*elements are wrong"),
    (ApproximateGelu, r"activation \(gelu .*elements are wrong"),
    (SlopeIgnored, r"activation \(leaky_relu .*slope 0.3\).*elements are wrong"),
    (SumNotActivated, r"add \(relu .*elements are wrong"),
    (ChannelsShifted, r"copy_channels .*elements are wrong"),
    (NeighboursCleared, r"copy_channels .*elements are wrong"),
    (NormNotActivated, r"batch_norm_gradient \(.* with relu\).*elements are wrong"),
    (ActivatedSumForgotten, r"batch_norm_sums \(.* with relu\).*: dgamma\["),
    (NesterovIgnored, r"sgd_update \(.*nesterov\).*: w\["),
    (RestOfFourForgotten, r"squared_norm \(.* numbers?\).*: loss"),
    (EvenNeighbourhoodNotMirrored, r"lrn_gradient \(across 4, even\).*elements are wrong"),
    (ThreeQuartersAlways, r"lrn \(\(3, 5, 4, 7\), beta 0.6\).*elements are wrong"),
    (UnbiasedVariance, r"batch_statistics .*: variance\["),
    (OnePassVariance, r"batch_statistics .*: variance\["),
    (OverflowingSoftmax, r"softmax \(5x3, deviation 300\).*is nan, expected"),
    (SummedGradient, r"softmax_cross_entropy \(7x10.*: out\["),
    (Truncated, r"in bfloat16|to bfloat16"),
    (SumInBfloat16, r"product .*in bfloat16\).*elements are wrong"),
    (OddChannelDropped, r"conv2d .*odd channels.* in bfloat16\).*elements are wrong"),
    (StalePadding, r"conv2d \(.* in bfloat16\).*is nan, expected"),
    (NotRounded, r"product .*in bfloat16\).*elements are wrong"),
    (NoChecks, r"raises no ShapeError"),
    (NoCopy, r"asarray does not copy"),
]
"""Each fault with the pattern that the contract's message must match."""
