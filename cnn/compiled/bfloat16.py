"""Convolutions and products whose operands are rounded to bfloat16 as they are laid out, and multiplied in pairs."""

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.compiled import direct, direct_bf16, dotproduct, product_bf16, rounding
from cnn.compiled.direct import ACROSS
from cnn.compiled.geometry import of_convolution
from cnn.compiled.parts import parts_for, parts_for_flops
from cnn.convolution import Convolution

SHORT_RUN = 8
"""Numbers in a row of a window from which on pairs pay; shorter ones are faster rounded and multiplied in float32."""

product = product_bf16.product


def here() -> bool:
    """Whether this processor multiplies bfloat16."""
    return dotproduct.NATIVE


def pays(convolution: Convolution) -> bool:
    """Whether this processor multiplies bfloat16, and the rows of a convolution's windows are worth it."""
    return here() and convolution.plain and convolution.window.kernel[1] * convolution.channels >= SHORT_RUN


def forward(
    x: Array,
    w: Array,
    bias: Array | None,
    convolution: Convolution,
    out: Array,
    scratch: Buffers,
    *,
    relu: bool,
    multiplies: bool = True,
) -> None:
    """out (N, P, Q, K) = x (N, H, W, C) correlated with w (R, S, C, K), plus bias (K,), with ReLU if `relu`.

    Arrays are contiguous float32, the convolution is plain, and x and w are not rounded yet.
    """
    images, filters, (rows, columns) = len(x), convolution.filters, convolution.window.kernel
    panels = scratch.get("panels", (direct_bf16.panel_count(convolution), direct_bf16.weights_size(convolution)), _PAIR)
    run = columns * convolution.channels
    rounding.panels(w.reshape(-1), rows, run, filters, ACROSS, panels, min(parts_for(w.size), rows * len(panels)))
    count = direct.units(convolution, images)
    parts = parts_for_flops(2 * images * convolution.macs, most=count)
    planes = scratch.get("rounded planes", (parts, direct_bf16.plane_size(convolution)), np.uint16)
    added = np.zeros(filters, np.float32) if bias is None else bias
    if multiplies:
        direct_bf16.forward(
            *(dotproduct.address(), x.reshape(-1), panels, added, relu, out.reshape(-1)),
            *(of_convolution(convolution), count, planes),
        )


def weight_gradient(
    x: Array, dy: Array, convolution: Convolution, out: Array, scratch: Buffers, *, multiplies: bool = True
) -> None:
    """out (R, S, C, K) = the gradient of w from x (N, H, W, C) and dy (N, P, Q, K); else as `forward`."""
    images = len(x)
    parts = parts_for_flops(2 * images * convolution.macs, most=images)
    together = min(direct_bf16.group(convolution), -(-images // parts))
    space = direct_bf16.plane_size(convolution) + direct_bf16.gradients_size(convolution)
    spaces = scratch.get("spaces", (parts, together * space), _PAIR)
    lines = scratch.get("lines", (parts, direct_bf16.line_size(convolution)), np.uint16)
    sums = scratch.get("sums", (parts, out.size), np.float32)
    if multiplies:
        direct_bf16.weight_gradient(
            *(dotproduct.address(), x.reshape(-1), dy.reshape(-1), of_convolution(convolution)),
            *(images, together, lines, spaces, sums, out.reshape(-1)),
        )


_PAIR = np.uint32
