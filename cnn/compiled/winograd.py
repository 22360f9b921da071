"""Winograd convolution of 3x3 and 5x5 kernels with stride 1, forward and both gradients, as batches of small SGEMMs.

The plane of results is cut into tiles of t x t pixels; with kernels of r x r, each reads s x s, s = t + r - 1, and
every element of the transformed tiles is one matrix product over the channels (Lavin and Gray 2016, section 4.1): s^2
products per tile instead of t^2 r^2. t is 2 or 4 where r = 3 and 2 where r = 5. Threads take fixed ranges of
tiles, in blocks whose transformed data stay in a core's cache: transform the block, one SGEMM for each element,
transform back. Pixels outside the image are read from a page of zeros, and results outside it are written to a waste
page, so that tiles at a border need no special code.

Errors mix within a tile: the error of a large pixel reaches all results of its tile. To first order in u = 2^-24,
element by element and with * as the elementwise product,

    |error of y| <= (C + r^2 + 19) u |A^T| (sum over channels of (|G| |g| |G^T|) * (|B^T| |d| |B|)) |A| + u |bias|
    |error of dw| <= (T + s^2 threads + 17) u |G^T| (sum over the T tiles of (|B^T| |d| |B|) * (|A| |dy| |A^T|)) |G|

The factor counts the roundings that any term can meet, and the matrices hold all that it is multiplied by: a kernel's
transform is a product of r^2 terms with a rounded matrix (r^2 + 1 roundings), a tile's has at most 8 where there is no
fused multiply-add, the sum over channels C, a result's transform 8, the bias 1, ReLU none; the gradient of a kernel
comes from a product of s^2 terms per thread with a rounded matrix. The data gradient has the bound of y, with K for C.
`amplification` is the effect of the matrices.
"""

from typing import Any

import numpy as np

from cnn.arrays import Array, Buffers
from cnn.compiled.transforms import data_matrix, kernel_matrix, result_matrix
from cnn.compiled.vectors import WIDTH
from cnn.compiled.winograd_kernels import LINE, combine, convolve, correlate, spacing
from cnn.convolution import Convolution, Pair

BLOCK_BYTES = 1 << 20
"""Bytes of a core's second-level cache that a block's transformed data should take."""
LEAST, MOST = 64, 128
"""Tiles per block: not fewer, because SGEMM packs the kernels for each block; not more, because it gains nothing."""
UNLIMITED = 1 << 62
"""A limit of multiply-accumulates that leaves every product in one piece."""


TILES = {(3, 3): (2, 4), (5, 5): (2,)}
"""The tile sides t that exist for each kernel."""


def tiles(convolution: Convolution) -> tuple[int, ...]:
    """Tiles with which the functions below can compute this convolution.

    Empty unless the kernel is 3x3 or 5x5, the stride is 1, channels and filters each fill a vector, and there is
    neither dilation nor groups.
    """
    window, least = convolution.window, min(convolution.channels, convolution.filters)
    fits = window.stride == (1, 1) and not window.dilated and convolution.groups == 1 and least >= WIDTH
    return TILES.get(window.kernel, ()) if fits else ()


def amplification(tile: int, span: int, direction: str) -> float:
    """The largest value of the matrix products in the bound above if |g|, |d| and |dy| are one everywhere.

    Kernels are `span` x `span`. `direction` is "data" for y and dx, "weight" for dw. A direct sum would have r^2 for
    "data", as a result is made of r^2 products per channel, and t^2 for "weight". To first order, for y, dx and dw,

        |error| <= factor u amplification (sum over channels or tiles of max |d| max |g|, or max |d| max |dy|)

    with the maxima over the tile and over the kernel.
    """
    data, kernel, result = (np.abs(make(tile, span)) for make in (data_matrix, kernel_matrix, result_matrix))
    middle, last = (kernel, result) if direction == "data" else (result.T, kernel.T)
    return float((last @ (data.sum(1) * middle.sum(1))).max() ** 2)


def winograd_forward(
    blas: Any,
    x: Array,
    w: Array,
    bias: Array | None,
    convolution: Convolution,
    out: Array,
    scratch: Buffers,
    *,
    relu: bool,
    tile: int,
    threads: int,
    largest: int = UNLIMITED,
) -> None:
    """out (N, P, Q, K) = x (N, H, W, C) correlated with w (R, R, C, K), plus bias (K,), with ReLU if `relu`.

    `tile` is one of `tiles`. `blas` is the address of a single-threaded cblas_sgemm, `threads` the number of Numba's
    threads; arrays are contiguous float32 and x, w and out do not overlap. A product of more than `largest`
    multiply-accumulates is split (some libraries multiply small matrices faster because they do not pack them first).
    """
    top, _, left, _ = convolution.window.padding
    _convolve(
        *(blas, x, w, bias, out, scratch),
        turned=False,
        shift=(top, left),
        relu=relu,
        tile=tile,
        threads=threads,
        largest=largest,
    )


def winograd_data_gradient(
    blas: Any,
    dy: Array,
    exchanged: Array,
    convolution: Convolution,
    out: Array,
    scratch: Buffers,
    *,
    tile: int,
    threads: int,
    largest: int = UNLIMITED,
) -> None:
    """out (N, H, W, C) = the gradient of x from dy (N, P, Q, K) and kernels (R, R, K, C); else as `winograd_forward`.

    `exchanged` is w with its channels and filters exchanged. The result is dy correlated with these kernels rotated by
    180 degrees, padded by R - 1 - top rows and R - 1 - left columns.
    """
    top, _, left, _ = convolution.window.padding
    _convolve(
        *(blas, dy, exchanged, None, out, scratch),
        turned=True,
        shift=(len(exchanged) - 1 - top, len(exchanged) - 1 - left),
        relu=False,
        tile=tile,
        threads=threads,
        largest=largest,
    )


def winograd_weight_gradient(
    blas: Any,
    x: Array,
    dy: Array,
    convolution: Convolution,
    out: Array,
    scratch: Buffers,
    *,
    tile: int,
    threads: int,
    largest: int = UNLIMITED,
) -> None:
    """out (R, R, C, K) = the gradient of w from x (N, H, W, C) and dy (N, P, Q, K); else as `winograd_forward`.

    Every thread keeps a sum of s^2 C K elements; these are added in order, so that the same number of threads
    gives the same bits.
    """
    images, *plane = x.shape
    channels, filters, span = convolution.channels, convolution.filters, len(out)
    side = tile + span - 1
    planes, columns = side**2, channels * filters
    parts, block = _division(images, convolution.out, tile=tile, side=side, threads=threads, depth=channels + filters)
    size = planes * (_spacing(block * channels) + _spacing(block * filters))
    space, sums = (
        _space(scratch, "winograd", parts * size),
        _space(scratch, "winograd sums", parts * planes * _spacing(columns)),
    )
    zeros = _zeros(scratch, max(channels, filters))
    top, _, left, _ = convolution.window.padding
    correlate(
        *(np.uintp(blas), parts, block, largest, tile, side, images, tuple(plane), (top, left), dy.shape[1:]),
        *(_address(x), _address(dy), sums, _address(zeros), space, 4 * size),
    )
    matrix, gap = _MATRICES[tile, span][2], _spacing(columns)
    combine(
        *(np.uintp(blas), threads, _address(matrix), span**2, planes, parts, sums, planes * gap, gap),
        *(_address(out), columns, columns),
    )


def _convolve(
    blas: Any,
    x: Array,
    w: Array,
    bias: Array | None,
    out: Array,
    scratch: Buffers,
    *,
    turned: bool,
    shift: Pair,
    relu: bool,
    tile: int,
    threads: int,
    largest: int,
) -> None:
    """out (N, *, *, K) from x (N, *, *, C) and w (R, R, C, K), w rotated by 180 degrees if `turned`.

    `shift` is the number of padding rows and columns before x.
    """
    images, *plane = x.shape
    channels, filters, span = x.shape[3], out.shape[3], len(w)
    side = tile + span - 1
    planes, columns = side**2, channels * filters
    matrix = _MATRICES[tile, span][1 if turned else 0]

    def transform(space: Array) -> None:
        combine(
            *(np.uintp(blas), threads, _address(matrix), planes, span**2, 1, _address(w), 0, columns),
            *(_line(space), _spacing(columns), columns),
        )

    weights = _line(scratch.made_of(w, "winograd weights", (planes * _spacing(columns) + LINE,), None, transform))
    parts, block = _division(images, out.shape[1:3], tile=tile, side=side, threads=threads, depth=channels + filters)
    size = _spacing(filters) + planes * (_spacing(block * channels) + _spacing(block * filters))
    space, zeros = _space(scratch, "winograd", parts * size), _zeros(scratch, max(channels, filters))
    convolve(
        *(np.uintp(blas), parts, block, largest, tile, side, images, tuple(plane), shift, out.shape[1:]),
        *(_address(x), weights, _address(zeros if bias is None else bias), np.float32(0 if relu else -np.inf)),
        *(_address(out), _address(zeros), space, 4 * size),
    )


def _division(images: int, plane: tuple[int, ...], *, tile: int, side: int, threads: int, depth: int) -> Pair:
    """The number of parts of all tiles, and the tiles per block; blocks are about equal."""
    total = images * -(-plane[0] // tile) * -(-plane[1] // tile)
    parts = max(1, min(threads, total))
    fitting = BLOCK_BYTES // (4 * side**2 * depth)
    share = max(1, -(-total // parts))
    return parts, -(-share // -(-share // min(MOST, max(LEAST, fitting))))


def _kernel_matrices(tile: int, span: int) -> tuple[Array, Array, Array]:
    """G and G as one matrix (s^2, r^2), for a kernel as it is and rotated by 180 degrees; transposed, (r^2, s^2)."""
    matrix = np.kron(kernel_matrix(tile, span), kernel_matrix(tile, span)).astype(np.float32)
    return matrix, np.ascontiguousarray(matrix[:, ::-1]), np.ascontiguousarray(matrix.T)


_MATRICES = {(tile, span): _kernel_matrices(tile, span) for (span, _), sides in TILES.items() for tile in sides}


def _spacing(size: int) -> int:
    return int(spacing.py_func(size))


def _zeros(scratch: Buffers, count: int) -> Array:
    """A page of zeros."""
    zeros = scratch.get("winograd zeros", (count,))
    zeros.fill(0)
    return zeros


def _space(scratch: Buffers, name: str, size: int) -> int:
    """The address of a buffer of `size` elements that starts on a cache line."""
    return _line(scratch.get(name, (size + LINE,)))


def _line(space: Array) -> int:
    """The address of the first cache line that begins in a buffer."""
    line = 4 * LINE
    return -(-_address(space) // line) * line


def _address(array: Array) -> int:
    return int(array.ctypes.data)
