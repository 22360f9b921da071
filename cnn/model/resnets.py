"""Residual networks (He et al. 2015, "Deep residual learning for image recognition"), for CIFAR and for ImageNet.

With `zero_last` the last normalisation of each block starts with scales of 0, so that the block starts as its shortcut
(Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1). The published recipes do without.
"""

from typing import Any

from cnn.data.augmentation import Augmentation
from cnn.initializers import He, Ones, Zeros
from cnn.layers import AvgPool2D, BatchNorm, Block, Conv2D, Flatten, GlobalAvgPool2D, Layer, Linear, MaxPool2D, Residual
from cnn.model.architecture import Architecture, Published, Recipe, one_cycle
from cnn.optimizers import SGD
from cnn.schedules import MultiStep

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)


def resnet8(classes: int = 10) -> Architecture:
    """The image classifier of MLPerf Tiny: 78,666 numbers, 480 of them running statistics; published 85 % on CIFAR-10.

    Three residual blocks; its projections have no normalisation. The source trains 500 epochs with Adam, this recipe
    60 with one cycle of SGD's rate.
    Source: Banbury et al. 2021, "MLPerf Tiny benchmark"; the code of mlcommons/tiny, image classification.
    """

    def conv(filters: int, kernel: int = 3, stride: int = 1) -> Conv2D:
        return Conv2D(filters, kernel, stride, "same", weights=He())

    def block(filters: int, stride: int) -> Block:
        main = [conv(filters, 3, stride), BatchNorm(activation="relu"), conv(filters), BatchNorm()]
        return Residual(main, shortcut=[conv(filters, 1, stride)] if stride > 1 else [], activation="relu")

    return Architecture(
        "resnet8",
        [
            conv(16),
            BatchNorm(activation="relu"),
            block(16, 1),
            block(32, 2),
            block(64, 2),
            AvgPool2D(8),
            Flatten(),
            Linear(classes, weights=He()),
        ],
        CIFAR,
        one_cycle(60, 0.2, pad_crop=4),
        published=Published("cifar10", 0.85, "MLPerf Tiny"),
    )


def resnet20(classes: int = 10, *, zero_last: bool = False) -> Architecture:
    """He et al.'s 20 layers for CIFAR (section 4.2): 272,474 parameters; published 91.25 % on CIFAR-10.

    Shortcuts that change the shape are projections (option B of section 3.3); the paper's table 6 has option A, which
    pads with zeros and has 2,752 parameters fewer. The paper trains 164 epochs with two steps of the rate, this recipe
    50 with one cycle of it.
    """
    blocks = [
        _basic(filters, 2 if place == 0 < group else 1, zero_last=zero_last)
        for group, filters in enumerate((16, 32, 64))
        for place in range(3)
    ]
    return Architecture(
        "resnet20",
        [*_conv_norm(16, 3), *blocks, GlobalAvgPool2D(), Linear(classes, weights=He())],
        CIFAR,
        one_cycle(50, 0.2, pad_crop=4),
        published=Published("cifar10", 0.9125, "He et al. 2015, table 6"),
    )


def resnet18(classes: int = 1000, *, zero_last: bool = False) -> Architecture:
    """He et al.'s 18 layers (table 1) with projections where the shape changes: 11,689,512 parameters."""
    blocks = [_basic(64, zero_last=zero_last), _basic(64, zero_last=zero_last)]
    for filters in (128, 256, 512):
        blocks += [_basic(filters, 2, zero_last=zero_last), _basic(filters, zero_last=zero_last)]
    return _imagenet("resnet18", blocks, classes)


def resnet50(classes: int = 1000, *, zero_last: bool = False) -> Architecture:
    """He et al.'s 50 layers (table 1): 25,557,032 parameters.

    A bottleneck that halves the image does so in its 3x3 convolution, as most libraries have it, not in the 1x1 before.
    """
    blocks = [
        _bottleneck(filters, 2 if place == 0 < group else 1, projected=place == 0, zero_last=zero_last)
        for group, (filters, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)))
        for place in range(count)
    ]
    return _imagenet("resnet50", blocks, classes)


def _imagenet(name: str, blocks: list[Block], classes: int) -> Architecture:
    return Architecture(
        name,
        [
            *_conv_norm(64, 7, 2),
            MaxPool2D(3, 2, padding=1),
            *blocks,
            GlobalAvgPool2D(),
            Linear(classes, weights=He()),
        ],
        IMAGENET,
        Recipe(
            epochs=120,
            batch_size=256,
            optimizer=SGD(0.9, 1e-4),
            schedule=MultiStep(0.1, (150_000, 300_000)),
            preprocessing="standardise",
            augmentation=Augmentation(flip=True),
        ),
    )


def _conv_norm(
    filters: int, kernel: int, stride: int = 1, activation: str | None = "relu", *, zero: bool = False
) -> list[Layer]:
    settings: dict[str, Any] = {"padding": kernel // 2, "bias": False, "weights": He()}
    scales = Zeros() if zero else Ones()
    return [Conv2D(filters, kernel, stride, **settings), BatchNorm(activation=activation, scales=scales)]


def _basic(filters: int, stride: int = 1, *, zero_last: bool = False) -> Block:
    main = [*_conv_norm(filters, 3, stride), *_conv_norm(filters, 3, activation=None, zero=zero_last)]
    shortcut = _conv_norm(filters, 1, stride, None) if stride > 1 else []
    return Residual(main, shortcut=shortcut, activation="relu")


def _bottleneck(filters: int, stride: int = 1, *, projected: bool = False, zero_last: bool = False) -> Block:
    last = _conv_norm(4 * filters, 1, activation=None, zero=zero_last)
    main = [*_conv_norm(filters, 1), *_conv_norm(filters, 3, stride), *last]
    shortcut = _conv_norm(4 * filters, 1, stride, None) if projected else []
    return Residual(main, shortcut=shortcut, activation="relu")
