"""Convolutions and products whose operands are rounded to bfloat16 as they are laid out, then multiplied.

AVX512_BF16 multiplies pairs (`dotproduct.py`), AMX tiles (`tileproduct.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnn.arrays import Array, Buffers, Shape
from cnn.compiled import (
    amx,
    direct,
    direct_bf16,
    direct_tiles,
    dotproduct,
    product_bf16,
    product_tiles,
    rounding,
    tileproduct,
)
from cnn.compiled.direct import ACROSS
from cnn.compiled.geometry import of_convolution
from cnn.compiled.parts import parts_for, parts_for_flops
from cnn.convolution import Convolution

SHORT_RUN = 8
"""Numbers in a row of a window from which on pairs pay; shorter ones are faster rounded and multiplied in float32."""

FEW = 8
"""With fewer rows, or fewer terms, a product in pairs is the faster one: tiles hold 16 rows and 32 terms."""


def engine() -> Any:
    """The address of the microkernel of tiles, None where there is no AMX."""
    return tileproduct.engine()


def here() -> bool:
    """Whether this processor multiplies bfloat16."""
    return in_pairs() or engine() is not None


def in_pairs() -> bool:
    """Whether this processor multiplies pairs of bfloat16."""
    return dotproduct.NATIVE


def by() -> str:
    """What multiplies bfloat16 here, in the words of a header."""
    if engine() is not None:
        return "bfloat16 by AMX"
    refused = f" ({amx.trouble()})" if amx.present() else ""
    return f"bfloat16 by AVX512_BF16{refused}"


class Direct(NamedTuple):
    """The functions of a direct algorithm, as `forward` and `weight_gradient` below."""

    forward: Callable[..., None]
    weight_gradient: Callable[..., None]


def algorithms(convolution: Convolution) -> dict[str, Direct]:
    """The direct algorithms by name that this processor has for a convolution, the default last."""
    found = {}
    if convolution.plain and in_pairs() and convolution.window.kernel[1] * convolution.channels >= SHORT_RUN:
        found["direct"] = Direct(forward, weight_gradient)
    if convolution.plain and engine() is not None:
        found["amx"] = Direct(forward_in_tiles, weight_gradient_in_tiles)
    return found


def of_pixels() -> Direct:
    """The algorithm for a convolution that reads pixels one by one, where none is measured."""
    return Direct(forward, weight_gradient) if engine() is None else Direct(forward_in_tiles, weight_gradient_in_tiles)


def product(a: Array, b: Array, *, out: Array, transpose_a: bool = False, **how: Any) -> None:
    """As `product_tiles.product`, in tiles or in pairs."""
    microkernel, terms = engine(), a.shape[0 if transpose_a else 1]
    if microkernel is None or (in_pairs() and min(len(out), terms) < FEW):
        product_bf16.product(a, b, out=out, transpose_a=transpose_a, **how)
    else:
        product_tiles.product(microkernel, a, b, out=out, transpose_a=transpose_a, **how)


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

    Arrays are contiguous, the convolution is plain, and x and w are not rounded yet. x and out are float32 or SHORT.
    """
    images, (rows, columns) = len(x), convolution.window.kernel
    size, run = direct_bf16.weights_size(convolution), columns * convolution.channels
    panels = _panels(w, rows, run, ACROSS, (direct_bf16.panel_count(convolution), size), scratch)
    count = direct.units(convolution, images)
    parts = parts_for_flops(2 * images * convolution.macs, most=count)
    planes = scratch.get("rounded planes", (parts, direct_bf16.plane_size(convolution)), np.uint16)
    spaces = scratch.get("sums of a tile", (parts, direct_bf16.SPACE), np.float32)
    added = np.zeros(convolution.filters, np.float32) if bias is None else bias
    if multiplies:
        direct_bf16.forward(
            *(dotproduct.address(), x.reshape(-1), panels, added, relu, out.reshape(-1)),
            *(of_convolution(convolution), count, planes, spaces),
        )


def weight_gradient(
    x: Array, dy: Array, convolution: Convolution, out: Array, scratch: Buffers, *, multiplies: bool = True
) -> None:
    """out (R, S, C, K) = the gradient of w from x (N, H, W, C) and dy (N, P, Q, K); else as `forward`.

    x and dy are float32 or SHORT.
    """
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


def forward_in_tiles(
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
    """As `forward`, where there is an `engine`."""
    images, filters = len(x), convolution.filters
    shape = direct_tiles.panel_count(convolution), direct_tiles.panel_size(convolution)
    panels = _panels(w, *direct_tiles.parts_of_sums(convolution), tileproduct.SIDE, shape, scratch)
    count = direct_tiles.units(convolution, images)
    parts = parts_for_flops(2 * images * convolution.macs, most=count)
    planes = scratch.get("rounded planes", (parts, direct_tiles.plane_size(convolution)), np.uint16)
    lines = scratch.get("lines", (parts, direct_tiles.lines_size(convolution)), np.uint16)
    spaces = scratch.get("tile spaces", (parts, tileproduct.SPACE // 4), _PAIR)
    added = np.zeros(filters, np.float32) if bias is None else bias
    if multiplies:
        direct_tiles.forward(
            *(engine(), x.reshape(-1), panels, added, relu, out.reshape(-1).view(np.uint8), out.itemsize),
            *(of_convolution(convolution), direct_tiles.cells_of(convolution)),
            *(direct_tiles.forward_table(convolution), count, lines, planes, spaces),
        )


def weight_gradient_in_tiles(
    x: Array, dy: Array, convolution: Convolution, out: Array, scratch: Buffers, *, multiplies: bool = True
) -> None:
    """As `weight_gradient`, where there is an `engine`."""
    blocks = direct_tiles.blocks(convolution)
    count = len(x) * -(-convolution.out[0] // blocks.height)
    parts = parts_for_flops(2 * len(x) * convolution.macs, most=count)
    blocks = blocks._replace(together=min(blocks.together, -(-count // parts)))
    lines = scratch.get("lines", (parts, direct_tiles.line_size(convolution)), np.uint16)
    rooms = scratch.get("rooms", (parts, blocks.together * (blocks.left + blocks.right)), _PAIR)
    spaces = scratch.get("tile spaces", (parts, tileproduct.SPACE // 4), _PAIR)
    sums = scratch.get("sums", (parts, out.size), np.float32)
    if multiplies:
        direct_tiles.weight_gradient(
            *(engine(), x.reshape(-1), dy.reshape(-1), of_convolution(convolution)),
            *(direct_tiles.weight_table(convolution), count, blocks),
            *(lines, rooms, spaces, sums),
        )
        direct_tiles.add_up_turned(sums, convolution.filters, out.reshape(-1), parts_for(sums.size))


def _panels(w: Array, sums: int, run: int, across: int, shape: Shape, scratch: Buffers) -> Array:
    """The weights (sums, run, K) in panels of `across` filters."""

    def lay_out(panels: Array) -> None:
        parts = min(parts_for(w.size), sums * len(panels))
        rounding.panels(w.reshape(-1), sums, run, w.shape[-1], across, panels, parts)

    return scratch.made_of(w, f"panels of {across}", shape, _PAIR, lay_out)


_PAIR = np.uint32
