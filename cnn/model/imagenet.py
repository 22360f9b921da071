"""Published networks for ImageNet's pictures of 224x224 that are neither residual nor for small images."""

from collections.abc import Sequence
from typing import Any

from cnn.data.augmentation import Augmentation
from cnn.initializers import Gaussian, He
from cnn.layers import (
    BatchNorm,
    Block,
    Branches,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
)
from cnn.model.architecture import Architecture, Recipe
from cnn.optimizers import SGD
from cnn.schedules import Constant, MultiStep

SHAPE = (224, 224, 3)


def alexnet(classes: int = 1000) -> Architecture:
    """Krizhevsky et al. 2012, section 3, with its two groups and local response normalisation: 60,965,224 parameters.

    The paper's 224 pixels and stride of 4 give its 55 columns only for 227, as which its authors later corrected it.
    Trained as in section 5; its layers are normalised before they are pooled.
    """

    def conv(filters: int, kernel: int, **settings: Any) -> Conv2D:
        return Conv2D(filters, kernel, activation="relu", weights=Gaussian(0.01), **settings)

    def norm() -> Layer:
        return LocalResponseNorm(5, 5e-4, 0.75, k=2.0)  # alpha is of the mean over 5, the paper's 1e-4 of the sum

    hidden = [layer for _ in range(2) for layer in (Linear(4096, activation="relu", weights=Gaussian(0.01)), Dropout())]
    return Architecture(
        "alexnet",
        [
            conv(96, 11, stride=4),
            norm(),
            MaxPool2D(3, 2),
            conv(256, 5, padding=2, groups=2),
            norm(),
            MaxPool2D(3, 2),
            conv(384, 3, padding=1),
            conv(384, 3, padding=1, groups=2),
            conv(256, 3, padding=1, groups=2),
            MaxPool2D(3, 2),
            Flatten(),
            *hidden,
            Linear(classes, weights=Gaussian(0.01)),
        ],
        (227, 227, 3),
        _recipe(epochs=90, batch_size=128, schedule=MultiStep(0.01, (250_000, 500_000, 750_000))),
    )


def vgg16(classes: int = 1000) -> Architecture:
    """Configuration D of Simonyan & Zisserman 2015 (table 1): 138,357,544 parameters; trained as in section 3.1."""
    convolutions: list[Layer] = []
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        convolutions += [Conv2D(filters, 3, padding=1, activation="relu", weights=He()) for _ in range(count)]
        convolutions.append(MaxPool2D(2))
    hidden = [layer for _ in range(2) for layer in (Linear(4096, activation="relu", weights=He()), Dropout(0.5))]
    return Architecture(
        "vgg16",
        [*convolutions, Flatten(), *hidden, Linear(classes, weights=Gaussian(0.01))],
        SHAPE,
        _recipe(epochs=74, batch_size=256, schedule=MultiStep(0.01, (125_000, 250_000, 310_000))),
    )


def googlenet(classes: int = 1000) -> Architecture:
    """Szegedy et al. 2014, table 1, without the auxiliary classifiers: 6,998,552 parameters.

    The paper gives no first learning rate; this recipe's is ours.
    """
    stem = [
        _conv(64, 7, 2, 3),
        MaxPool2D(3, 2, ceil=True),
        LocalResponseNorm(),
        _conv(64, 1),
        _conv(192, 3, padding=1),
        LocalResponseNorm(),
        MaxPool2D(3, 2, ceil=True),
    ]
    return Architecture(
        "googlenet",
        [
            *stem,
            _inception(64, (96, 128), (16, 32), 32),
            _inception(128, (128, 192), (32, 96), 64),
            MaxPool2D(3, 2, ceil=True),
            _inception(192, (96, 208), (16, 48), 64),
            _inception(160, (112, 224), (24, 64), 64),
            _inception(128, (128, 256), (24, 64), 64),
            _inception(112, (144, 288), (32, 64), 64),
            _inception(256, (160, 320), (32, 128), 128),
            MaxPool2D(3, 2, ceil=True),
            _inception(256, (160, 320), (32, 128), 128),
            _inception(384, (192, 384), (48, 128), 128),
            GlobalAvgPool2D(),
            Dropout(0.4),
            Linear(classes, weights=He()),
        ],
        SHAPE,
        _recipe(epochs=90, batch_size=128, schedule=Constant(0.01)),
    )


def squeezenet(classes: int = 1000) -> Architecture:
    """SqueezeNet 1.1: 1,235,496 parameters (Iandola et al. 2016; the smaller version is that of its repository).

    The recipe's constant rate is ours.
    """

    def fires(*sizes: tuple[int, int]) -> list[Layer | Block]:
        layers: list[Layer | Block] = []
        for squeezed, expanded in sizes:
            layers += [_conv(squeezed, 1), Branches([_conv(expanded, 1)], [_conv(expanded, 3, padding=1)])]
        return layers

    return Architecture(
        "squeezenet",
        [
            _conv(64, 3, 2),
            MaxPool2D(3, 2, ceil=True),
            *fires((16, 64), (16, 64)),
            MaxPool2D(3, 2, ceil=True),
            *fires((32, 128), (32, 128)),
            MaxPool2D(3, 2, ceil=True),
            *fires((48, 192), (48, 192), (64, 256), (64, 256)),
            Dropout(0.5),
            Conv2D(classes, 1, activation="relu", weights=Gaussian(0.01)),
            GlobalAvgPool2D(),
        ],
        SHAPE,
        _recipe(epochs=90, batch_size=128, schedule=Constant(0.01)),
    )


def mobilenet(classes: int = 1000) -> Architecture:
    """MobileNet (version 1) of width 1: 4,231,976 parameters (Howard et al. 2017, table 1).

    The recipe's constant rate is ours.
    """

    blocks: list[Layer] = []
    sizes = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    for channels, filters, stride in [*sizes, *[(512, 512, 1)] * 5, (512, 1024, 2), (1024, 1024, 1)]:
        blocks += [
            Conv2D(channels, 3, stride, 1, bias=False, weights=He(), groups=channels),
            BatchNorm(activation="relu"),
            Conv2D(filters, 1, bias=False, weights=He()),
            BatchNorm(activation="relu"),
        ]
    return Architecture(
        "mobilenet",
        [
            Conv2D(32, 3, 2, 1, bias=False, weights=He()),
            BatchNorm(activation="relu"),
            *blocks,
            GlobalAvgPool2D(),
            Linear(classes, weights=He()),
        ],
        SHAPE,
        _recipe(epochs=90, batch_size=128, schedule=Constant(0.01)),
    )


def _recipe(*, epochs: int, batch_size: int, schedule: Constant | MultiStep) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=SGD(0.9, 5e-4),
        schedule=schedule,
        preprocessing="standardise",
        augmentation=Augmentation(flip=True),
    )


def _conv(filters: int, kernel: int, stride: int = 1, padding: int = 0) -> Conv2D:
    return Conv2D(filters, kernel, stride, padding, activation="relu", weights=He())


def _inception(ones: int, threes: Sequence[int], fives: Sequence[int], pooled: int) -> Block:
    """Four branches: 1x1; 1x1 then 3x3; 1x1 then 5x5; pooling then 1x1."""
    return Branches(
        [_conv(ones, 1)],
        [_conv(threes[0], 1), _conv(threes[1], 3, padding=1)],
        [_conv(fives[0], 1), _conv(fives[1], 5, padding=2)],
        [MaxPool2D(3, 1, 1), _conv(pooled, 1)],
    )
