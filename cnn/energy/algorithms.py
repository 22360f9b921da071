"""What a library executes to compute a convolution: the products and passes of each algorithm, and who has which.

A stage counts as im2col + GEMM on the whole batch (`cnn.cost`). Other software does otherwise:

- im2col, image by image: as many products and column matrices as images (Caffe, Torch nn);
- implicit: the same products without a column matrix in memory (Chetlur et al. 2014, "cuDNN");
- winograd: F(2x2, 3x3), 16 multiplications for 36 (Lavin and Gray 2016), tiles transformed in registers;
- fft: tiles of 32x32 in the frequency domain, a complex product per frequency (Vasilache et al. 2015);
- direct: vectors over channels and filters, no column matrix (oneDNN, formerly MKL-DNN).
"""

from collections.abc import Iterator
from math import ceil, prod
from typing import NamedTuple

from cnn.arithmetic import FLOAT, Sizes
from cnn.cost import WEIGHT, Stage

TILE = 32
"""Side of a tile of the FFT; what a kernel reaches over its edge is computed twice."""
FREQUENCIES = TILE * (TILE // 2 + 1)
"""Complex numbers of a tile of real ones, transformed."""


class Run(NamedTuple):
    """An operation as executed, `times` times one after the other: FLOP, bytes and, of a product, the sizes of each.

    `share` is the part of SGEMM's rate that a product reaches, beyond what its sizes leave.
    """

    flops: float
    bytes: float
    sizes: Sizes | None = None
    times: int = 1
    share: float = 1.0


class Library(NamedTuple):
    """Software by the algorithms that it has, of which it takes the fastest for each convolution.

    `kind` is the class of software that errors are given for. `spread` is the standard deviation of the logarithm of
    published over predicted times of that class, beyond that of the products: what the model leaves out. `share` is the
    part of SGEMM's rate that a convolution reaches.
    """

    words: str
    algorithms: tuple[str, ...]
    kind: str
    spread: float
    share: float = 1.0


GEMM, FAST, DIRECT = "im2col + GEMM", "implicit, FFT, Winograd", "direct"
"""The classes of software."""

LIBRARIES = {
    "im2col": Library("im2col + GEMM, a product for the whole batch", ("im2col",), GEMM, 0.08),
    "im2col-image": Library("im2col + GEMM, a product for each image, as Caffe and Torch nn", ("image",), GEMM, 0.08),
    "implicit": Library("implicit GEMM, as cuDNN 1 and 2", ("implicit",), FAST, 0.22),
    "implicit-fft": Library("implicit GEMM and FFT, as cuDNN 3 and, on Kepler, 5", ("implicit", "fft"), FAST, 0.22),
    "winograd-data": Library(
        "implicit GEMM, FFT, and Winograd but for gradients of weights, as cuDNN 4",
        ("implicit", "fft", "winograd-data"),
        FAST,
        0.22,
    ),
    "winograd": Library("implicit GEMM, FFT and Winograd, as cuDNN 5", ("implicit", "fft", "winograd"), FAST, 0.22),
    # The share is fitted to one published step, of AlexNet on a Xeon Phi 7250 with MKL 2017.
    "direct": Library("direct convolution, as MKL-DNN", ("direct",), DIRECT, 0.4, 0.53),
}


def executed(stage: Stage, batch: int, library: Library) -> list[list[Run]]:
    """What `library` may execute of a stage of `batch` images: a list of runs for each of its algorithms that fits."""
    if stage.convolution is None or stage.convolution.depthwise:
        return [[Run(each.flops, each.bytes, each.sizes) for each in stage.operations]]
    return [list(_runs(stage, batch, name, library.share)) for name in library.algorithms if _fits(stage, name)]


def _fits(stage: Stage, name: str) -> bool:
    assert stage.convolution is not None
    window = stage.convolution.window
    if name == "fft":
        return window.stride == (1, 1) and not window.dilated and 5 <= min(window.kernel) <= max(window.kernel) < TILE
    if name.startswith("winograd"):
        fits = window.stride == (1, 1) and not window.dilated and window.kernel == (3, 3)
        return fits and not (name == "winograd-data" and stage.phase == WEIGHT)
    return True


def _runs(stage: Stage, batch: int, name: str, share: float) -> Iterator[Run]:
    convolution = stage.convolution
    assert convolution is not None
    arrays = FLOAT * (batch * prod(convolution.input_shape) + prod(convolution.weights_shape))
    arrays += FLOAT * batch * prod(convolution.output_shape)
    products = [each for each in stage.operations if each.sizes]
    for each in stage.operations:
        moves = each.kind in ("im2col", "col2im")
        if each.sizes is None:
            if name == "im2col" or not moves:
                yield Run(each.flops, each.bytes)
            elif name == "image":
                yield Run(each.flops / batch, each.bytes / batch, times=batch)
        elif name == "im2col":
            yield Run(each.flops, each.bytes, each.sizes)
        elif name == "image":
            rows = batch * prod(convolution.out)
            sizes = Sizes(*(side // batch if side == rows else side for side in each.sizes))
            yield Run(sizes.flops, sum(sizes.operands), sizes, batch)
        elif name.startswith("winograd"):
            tiles = prod(ceil(side / 2) * 2 / side for side in convolution.out)
            yield Run(each.flops * tiles * 16 / 36, arrays / len(products), each.sizes)
        elif name != "fft":
            yield Run(each.flops, arrays / len(products), each.sizes, share=share)
    if name == "fft":
        yield from _fft(convolution.groups, convolution.group.channels, stage, batch)


def _fft(groups: int, channels: int, stage: Stage, batch: int) -> Iterator[Run]:
    """Transforms there and back, each of which reads and writes its arrays, and the products of all frequencies."""
    convolution = stage.convolution
    assert convolution is not None
    filters = convolution.group.filters
    side = [TILE - kernel + 1 for kernel in convolution.window.kernel]
    tiles = batch * prod(ceil(out / each) for out, each in zip(convolution.out, side, strict=True))
    for _ in range(groups):
        # Complex: 4 multiplications and 4 additions, 8 bytes a number.
        moved = 2 * FLOAT * FREQUENCIES * (tiles * (channels + filters) + channels * filters)
        yield Run(0, 2 * moved, times=1)
        yield Run(8 * tiles * channels * filters * FREQUENCIES, moved, Sizes(tiles, filters, channels))
