"""Residual networks (He et al. 2015, "Deep residual learning for image recognition"), for CIFAR and for ImageNet."""

from typing import Any

from cnn.data.augmentation import Augmentation
from cnn.initializers import He
from cnn.layers import AvgPool2D, BatchNorm, Block, Conv2D, Flatten, GlobalAvgPool2D, Layer, Linear, MaxPool2D, Residual
from cnn.model.architecture import Architecture, Recipe
from cnn.optimizers import SGD, Adam
from cnn.schedules import Constant, MultiStep

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)


def resnet8(classes: int = 10) -> Architecture:
    """The image classifier of MLPerf Tiny: 78,666 numbers, 480 of them running statistics; published 85 % on CIFAR-10.

    Three residual blocks; its projections have no normalisation. Its rate falls by 1 % per epoch, here it is constant.
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
        Recipe(
            epochs=500,
            batch_size=32,
            optimizer=Adam(),
            schedule=Constant(1e-3),
            preprocessing="scale",
            augmentation=Augmentation(flip=True, pad_crop=4),
        ),
    )


def resnet20(classes: int = 10) -> Architecture:
    """He et al.'s 20 layers for CIFAR (section 4.2): 272,474 parameters; published 91.25 % on CIFAR-10.

    Shortcuts that change the shape are projections (option B of section 3.3); the paper's table 6 has option A, which
    pads with zeros and has 2,752 parameters fewer.
    """
    blocks = [
        *(_basic(16), _basic(16), _basic(16)),
        *(_basic(32, 2), _basic(32), _basic(32)),
        *(_basic(64, 2), _basic(64), _basic(64)),
    ]
    return Architecture(
        "resnet20",
        [*_conv_norm(16, 3), *blocks, GlobalAvgPool2D(), Linear(classes, weights=He())],
        CIFAR,
        Recipe(
            epochs=164,
            batch_size=128,
            optimizer=SGD(0.9, 1e-4),
            schedule=MultiStep(0.1, (32_000, 48_000)),
            preprocessing="mean_image",
            pixel_scale=1 / 64,
            augmentation=Augmentation(flip=True, pad_crop=4),
        ),
    )


def resnet18(classes: int = 1000) -> Architecture:
    """He et al.'s 18 layers (table 1) with projections where the shape changes: 11,689,512 parameters."""
    blocks = [_basic(64), _basic(64)]
    for filters in (128, 256, 512):
        blocks += [_basic(filters, 2), _basic(filters)]
    return _imagenet("resnet18", blocks, classes)


def resnet50(classes: int = 1000) -> Architecture:
    """He et al.'s 50 layers (table 1): 25,557,032 parameters.

    A bottleneck that halves the image does so in its 3x3 convolution, as most libraries have it, not in the 1x1 before.
    """
    blocks = [_bottleneck(64, projected=True), _bottleneck(64), _bottleneck(64)]
    for filters, count in ((128, 4), (256, 6), (512, 3)):
        blocks += [_bottleneck(filters, 2, projected=True), *(_bottleneck(filters) for _ in range(count - 1))]
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


def _conv_norm(filters: int, kernel: int, stride: int = 1, activation: str | None = "relu") -> list[Layer]:
    settings: dict[str, Any] = {"padding": kernel // 2, "bias": False, "weights": He()}
    return [Conv2D(filters, kernel, stride, **settings), BatchNorm(activation=activation)]


def _basic(filters: int, stride: int = 1) -> Block:
    main = [*_conv_norm(filters, 3, stride), *_conv_norm(filters, 3, activation=None)]
    shortcut = _conv_norm(filters, 1, stride, None) if stride > 1 else []
    return Residual(main, shortcut=shortcut, activation="relu")


def _bottleneck(filters: int, stride: int = 1, *, projected: bool = False) -> Block:
    main = [*_conv_norm(filters, 1), *_conv_norm(filters, 3, stride), *_conv_norm(4 * filters, 1, activation=None)]
    shortcut = _conv_norm(4 * filters, 1, stride, None) if projected else []
    return Residual(main, shortcut=shortcut, activation="relu")
