"""The networks that a machine is calibrated with: drawn over the sizes that CNNs have, none of them in the zoo."""

from collections.abc import Iterator, Sequence
from math import exp, log, prod
from typing import NamedTuple

import numpy as np

from cnn.arrays import Shape
from cnn.cost import count
from cnn.layers import (
    GELU,
    AvgPool2D,
    BatchNorm,
    Block,
    Branches,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    HardSwish,
    Layer,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    Multiply,
    ReLU,
    ReLU6,
    Residual,
    Sigmoid,
    SiLU,
    Tanh,
)
from cnn.model.architecture import Architecture, Recipe
from cnn.model.network import Network

NETS = 150
FLOPS = 20_000_000_000
"""The most FLOP of a training step of a probe."""
BYTES = 2_000_000_000
"""The most bytes that it moves."""
ACTIVATIONS: tuple[type[Layer], ...] = (ReLU, Tanh, Sigmoid, GELU, SiLU, LeakyReLU, ReLU6, HardSwish)


class Probe(NamedTuple):
    """An architecture, and the images per step."""

    architecture: Architecture
    batch: int


def probes() -> Iterator[Probe]:
    """The smallest layer of every kind, which shows the overhead, then random networks of a fixed seed."""
    smallest: list[Layer | Block] = [
        Conv2D(2, 1, activation="relu"),
        Conv2D(2, 1, activation="relu", groups=2),
        Conv2D(2, 1, 2, activation="relu", groups=2),
        Conv2D(1, 1, activation="relu"),
        Conv2D(2, 1, 2, activation="relu"),
        MaxPool2D(1),
        AvgPool2D(1),
        *(activation() for activation in ACTIVATIONS),
        Multiply(2.0),
        BatchNorm(),
        Residual([ReLU()]),
        Branches([ReLU()], []),
        Dropout(),
        LocalResponseNorm(),
        LocalResponseNorm(3, region="within"),
    ]
    for name, end in (("smallest", Flatten()), ("smallest mean", GlobalAvgPool2D())):
        yield Probe(_architecture(name, [*smallest, end, Linear(1, activation="relu"), Linear(1)], (1, 1, 1)), 1)
    yield Probe(_architecture("smallest linear", [Flatten(), Linear(1, activation="relu"), Linear(1)], (1, 1, 1)), 1)
    rng = np.random.default_rng(5)
    for number in range(NETS):
        draw = _Draw(rng)
        shape = (side := int(rng.choice((28, 32, 32, draw.some(20, 40)))), side, int(rng.choice((1, 3))))
        hidden = draw.perceptron() if number % 5 == 0 else draw.convolutions(shape)
        scores = Linear(int(rng.choice((10, 10, draw.some(2, 200)))))
        architecture = _architecture(
            f"probe {number}", [*hidden, scores, *([Multiply(0.5)] if draw.chance(0.2) else [])], shape
        )
        yield Probe(architecture, _fitting(architecture, draw.some(24, 130) if number % 4 else draw.some(1, 24)))


def _architecture(name: str, layers: Sequence[Layer | Block], shape: tuple[int, int, int]) -> Architecture:
    return Architecture(name, layers, shape, Recipe())


def _fitting(architecture: Architecture, batch: int) -> int:
    """`batch` images, or as many as the limits allow."""
    one = count(architecture, 1, training=True)
    return max(1, min(batch, FLOPS // one.gemm_flops, BYTES // one.bytes))


class _Draw:
    """Draws the layers of one network, which is slim or wide: its convolutions have at most `most` filters."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.most = int(2 ** rng.integers(5, 9))

    def some(self, low: float, high: float) -> int:
        """A whole number, its logarithm drawn evenly."""
        return round(exp(self.rng.uniform(log(low), log(high))))

    def chance(self, share: float) -> bool:
        """True with the probability `share`."""
        return bool(self.rng.random() < share)

    def width(self, least: int, most: int) -> int:
        """Filters or units: mostly a power of two or a multiple of 16, as most networks have."""
        if self.chance(0.75):
            return int(2 ** self.rng.integers(max(3, least.bit_length() - 1), most.bit_length()))
        return 16 * self.some(max(1, least // 16), most // 16) if self.chance(0.5) else self.some(least, most)

    def perceptron(self) -> Iterator[Layer]:
        """Hidden layers without convolution."""
        yield Flatten()
        for _ in range(self.rng.integers(1, 4)):
            yield Linear(self.width(16, 1024), activation="relu")
            if self.chance(0.2):
                yield Dropout()

    def convolutions(self, shape: Shape) -> Iterator[Layer | Block]:
        """Blocks of convolutions, which may have normalisation and pooling, then perhaps a hidden linear layer.

        In three networks of ten, branches follow each block.
        """
        branched = self.chance(0.3)
        for _ in range(self.rng.integers(1, 5)):
            block: list[Layer | Block] = list(self.block(shape))
            if branched:
                block += self.branches(Network(block, shape).output_shape[-1])
            yield from block
            shape = Network(block, shape).output_shape
        if self.chance(0.2):
            yield GlobalAvgPool2D()
            return
        if self.chance(0.15):
            yield AvgPool2D(shape[0])
        yield Flatten()
        if self.chance(0.6):
            # No more weights than fit the probe's size.
            yield Linear(self.width(16, min(1024, 4_000_000 // prod(shape))), activation="relu")
            if self.chance(0.3):
                yield Dropout()

    def block(self, shape: Shape) -> Iterator[Layer]:
        """One or two convolutions, perhaps normalised, and pooling or a stride if there is room."""
        side, channels = shape[0], shape[2]
        halved = False
        for _ in range(1 + self.chance(0.35)):
            kernel = int(self.rng.choice((1, 2, 3, 3, 3, 3, 3, 5, 5, 5, 5, 7)))
            padding = kernel // 2 if side < 2 * kernel or self.chance(0.7) else 0
            stride = 2 if side >= 8 and not halved and self.chance(0.2) else 1
            channels = self.filters(channels)
            following = self.following()
            yield Conv2D(channels, kernel, stride, padding, activation=None if following else "relu")
            yield from following
            halved |= stride > 1
            side = (side + 2 * padding - kernel) // stride + 1
        if side >= 4 and not halved and self.chance(0.85):
            pool = MaxPool2D if self.chance(0.55) else AvgPool2D
            yield pool(int(self.rng.choice((2, 3))), 2, ceil=True)
            if self.chance(0.15):
                yield ReLU()
        if self.chance(0.25):
            yield LocalResponseNorm(3, region="within") if self.chance(0.6) else LocalResponseNorm()
        if self.chance(0.1):
            yield Dropout()

    def filters(self, channels: int) -> int:
        """As many as the channels or twice as many, as in most networks, or any number."""
        if channels >= 4 and self.chance(0.5):
            return min(self.most, channels * int(self.rng.choice((1, 2))))
        return self.width(4, self.most)

    def branches(self, channels: int) -> Iterator[Layer | Block]:
        """A residual block, a small inception module, or a depthwise convolution with one of 1x1."""
        if self.chance(0.5):
            stride = 1 + self.chance(0.5)
            filters = channels * stride
            main = [
                Conv2D(filters, 3, stride, 1, bias=False),
                BatchNorm(activation="relu"),
                Conv2D(filters, 3, padding=1, bias=False),
                BatchNorm(),
            ]
            projection = [Conv2D(filters, 1, stride, bias=False), BatchNorm()] if stride > 1 else []
            yield Residual(main, shortcut=projection, activation="relu")
        elif self.chance(0.5):
            wide = Conv2D(self.width(4, 64), 3, padding=1, activation="relu")
            yield Branches([Conv2D(self.width(4, 64), 1, activation="relu")], [wide], [MaxPool2D(3, 1, 1)])
        else:
            yield Conv2D(channels, 3, 1 + self.chance(0.4), 1, bias=False, groups=channels)
            yield BatchNorm(activation="relu")
            yield Conv2D(self.width(4, self.most), 1, activation="relu")

    def following(self) -> list[Layer]:
        """What follows a convolution that fuses nothing; nothing where it does."""
        if self.chance(0.6):
            return []
        activation = ACTIVATIONS[int(self.rng.integers(len(ACTIVATIONS)))]()
        return [BatchNorm(), activation] if self.chance(0.5) else [activation]
