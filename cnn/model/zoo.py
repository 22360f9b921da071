"""Published architectures, each with the recipe it was trained by: the small ones here, and the names of all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn.config import whole
from cnn.errors import UsageError
from cnn.initializers import Gaussian, He, Xavier
from cnn.layers import (
    AvgPool2D,
    BatchNorm,
    Block,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    ReLU,
)
from cnn.losses import MeanSquaredError
from cnn.model import airbench, imagenet, resnets
from cnn.model.architecture import Architecture, Published, Recipe, one_cycle, read_architecture
from cnn.optimizers import SGD
from cnn.schedules import Constant, Inv, MultiStep
from cnn.words import unknown


def lenet(classes: int = 10) -> Architecture:
    """Caffe's LeNet for MNIST: 431,080 parameters; published 98.97 % after 10,000 iterations (10.7 epochs).

    Source: examples/mnist of BVLC Caffe.
    """
    caffe: dict[str, Any] = {"weights": Xavier(), "bias_multipliers": (2.0, 1.0)}
    return Architecture(
        "lenet",
        [
            Conv2D(20, 5, **caffe),
            MaxPool2D(2),
            Conv2D(50, 5, **caffe),
            MaxPool2D(2),
            Flatten(),
            Linear(500, activation="relu", **caffe),
            Linear(classes, **caffe),
        ],
        (28, 28, 1),
        Recipe(epochs=11, optimizer=SGD(0.9, 5e-4), schedule=Inv(0.01, 1e-4, 0.75)),
        published=Published("mnist", 0.9897, "Caffe, examples/mnist"),
    )


LECUN_CONNECTIONS = [
    *([k, (k + 1) % 6, (k + 2) % 6] for k in range(6)),
    *([k, (k + 1) % 6, (k + 2) % 6, (k + 3) % 6] for k in range(6)),
    *([k, (k + 1) % 6, (k + 3) % 6, (k + 4) % 6] for k in range(3)),
    [0, 1, 2, 3, 4, 5],
]
"""Which of the 6 maps each of the 16 filters of LeNet-5's second convolution sees (LeCun et al. 1998, table I)."""


def lenet5(classes: int = 10) -> Architecture:
    """LeNet-5 as tiny-cnn and the Cornell study trained it: tanh, average pooling, connection table, squared error.

    Its 32x32 input is the 28x28 digit with a border of two, which is here the first convolution's padding. The pooling
    has no trained coefficients. Source: report of github.com/jyk46/cs5220-final-project, 2015.
    """
    return Architecture(
        "lenet5",
        [
            Conv2D(6, 5, padding=2, activation="tanh"),
            AvgPool2D(2),
            Conv2D(16, 5, activation="tanh", connections=LECUN_CONNECTIONS),
            AvgPool2D(2),
            Conv2D(120, 5, activation="tanh"),
            Flatten(),
            Linear(classes, activation="tanh"),
        ],
        (28, 28, 1),
        Recipe(epochs=10, schedule=Constant(0.05), loss=MeanSquaredError(-0.8, 0.8)),
    )


def cifar10_quick(classes: int = 10) -> Architecture:
    """Caffe's cifar10_quick: 145,578 parameters; published 75.3 % after 5,000 iterations of 100 (10 epochs).

    Source: examples/cifar10 of BVLC Caffe.
    """

    def caffe(std: float) -> dict[str, Any]:
        return {"weights": Gaussian(std), "bias_multipliers": (2.0, 1.0)}

    return Architecture(
        "cifar10_quick",
        [
            Conv2D(32, 5, padding=2, **caffe(1e-4)),
            MaxPool2D(3, 2, ceil=True),
            ReLU(),
            Conv2D(32, 5, padding=2, activation="relu", **caffe(0.01)),
            AvgPool2D(3, 2, ceil=True),
            Conv2D(64, 5, padding=2, activation="relu", **caffe(0.01)),
            AvgPool2D(3, 2, ceil=True),
            Flatten(),
            Linear(64, **caffe(0.1)),
            Linear(classes, **caffe(0.1)),
        ],
        (32, 32, 3),
        Recipe(
            epochs=10,
            batch_size=100,
            optimizer=SGD(0.9, 0.004),
            schedule=MultiStep(1e-3, (4000,)),
            preprocessing="mean_image",
            pixel_scale=1.0,
        ),
        published=Published("cifar10", 0.753, "Caffe, examples/cifar10"),
    )


def cifar10_full(classes: int = 10) -> Architecture:
    """Caffe's cifar10_full: 89,578 parameters, 70,000 iterations of 100 (140 epochs).

    Source: examples/cifar10 of BVLC Caffe.
    """

    def norm() -> Layer:
        return LocalResponseNorm(3, 5e-5, 0.75, region="within")

    def caffe(std: float) -> dict[str, Any]:
        return {"weights": Gaussian(std), "bias_multipliers": (2.0, 1.0)}

    return Architecture(
        "cifar10_full",
        [
            Conv2D(32, 5, padding=2, **caffe(1e-4)),
            MaxPool2D(3, 2, ceil=True),
            ReLU(),
            norm(),
            Conv2D(32, 5, padding=2, activation="relu", **caffe(0.01)),
            AvgPool2D(3, 2, ceil=True),
            norm(),
            Conv2D(64, 5, padding=2, activation="relu", weights=Gaussian(0.01)),
            AvgPool2D(3, 2, ceil=True),
            Flatten(),
            Linear(classes, weights=Gaussian(0.01), weight_multipliers=(1.0, 250.0), bias_multipliers=(2.0, 0.0)),
        ],
        (32, 32, 3),
        Recipe(
            epochs=140,
            batch_size=100,
            optimizer=SGD(0.9, 0.004),
            schedule=MultiStep(1e-3, (60_000, 65_000)),
            preprocessing="mean_image",
            pixel_scale=1.0,
        ),
        published=Published("cifar10", 0.81, "Caffe, issue 2124: 81.x"),
    )


def vgg6(classes: int = 10) -> Architecture:
    """Six 3x3 convolutions in three pairs and two linear layers, in the style of Simonyan & Zisserman 2015.

    The recipe is our own: one cycle of the rate in 30 epochs, with cutout and label smoothing.
    """
    pairs: list[Layer] = []
    for filters in (64, 128, 256):
        pairs += [Conv2D(filters, 3, padding=1, activation="relu", weights=He()) for _ in range(2)]
        pairs.append(MaxPool2D(2))
    return Architecture(
        "vgg6",
        [*pairs, Flatten(), Linear(256, activation="relu", weights=He()), Linear(classes)],
        (32, 32, 3),
        one_cycle(30, 0.05, pad_crop=4, cutout=8, label_smoothing=0.1),
    )


def fashion(classes: int = 10) -> Architecture:
    """Two pairs of 3x3 convolutions with batch normalisation, two linear layers, for Fashion-MNIST: 468,010 parameters.

    The size of the small networks of Fashion-MNIST's list of benchmarks; the recipe is our own. Published there for two
    convolutions and three linear layers of 1.8 million parameters: 93.2 %.
    Source: github.com/zalandoresearch/fashion-mnist.
    """
    pairs: list[Layer | Block] = []
    for filters in (32, 64):
        for _ in range(2):
            pairs += [Conv2D(filters, 3, padding=1, bias=False, weights=He()), BatchNorm(activation="relu")]
        pairs.append(MaxPool2D(2))
    return Architecture(
        "fashion",
        [*pairs, Flatten(), Dropout(0.3), Linear(128, activation="relu", weights=He()), Linear(classes)],
        (28, 28, 1),
        one_cycle(15, 0.1, pad_crop=2),
        published=Published("fashion-mnist", 0.932, "the data set's own list of benchmarks"),
    )


def mlp(classes: int = 10) -> Architecture:
    """Two hidden layers of 128 and 64 units: no convolution, for comparison."""
    hidden = He()
    return Architecture(
        "mlp",
        [
            Flatten(),
            Linear(128, activation="relu", weights=hidden),
            Linear(64, activation="relu", weights=hidden),
            Linear(classes),
        ],
        (28, 28, 1),
        Recipe(epochs=10, schedule=Constant(0.05)),
    )


_FOR_SMALL_IMAGES = (
    *(lenet, lenet5, fashion, cifar10_quick, cifar10_full, vgg6, mlp),
    *(resnets.resnet8, resnets.resnet20, airbench.airbench94, airbench.airbench95),
)
_FOR_PICTURES = (
    *(resnets.resnet18, resnets.resnet50),
    *(imagenet.alexnet, imagenet.vgg16, imagenet.googlenet, imagenet.squeezenet, imagenet.mobilenet),
)

ZOO: dict[str, Callable[..., Architecture]] = {build.__name__: build for build in (*_FOR_SMALL_IMAGES, *_FOR_PICTURES)}
"""Each makes an architecture, for its published number of classes or another."""

SMALL = tuple(build.__name__ for build in _FOR_SMALL_IMAGES)
"""The names of those for images of MNIST's and CIFAR's sizes."""


def architecture(name: str, classes: int | None = None) -> Architecture:
    """The published architecture `name`, or the one in the TOML file `name`. Raises UsageError if there is neither.

    `classes` is for a published one, whose own number is the default.
    """
    if isinstance(name, str) and name in ZOO:
        return ZOO[name]() if classes is None else ZOO[name](whole(classes, "The number of classes"))
    if str(name).endswith(".toml"):
        return read_architecture(Path(name))
    refuse_onnx(name)
    raise unknown("There is no architecture", name, ZOO, ", or a file ending in .toml")


def refuse_onnx(name: str | Path) -> None:
    """Raises UsageError for the name of an ONNX file where a network or a model should be."""
    if str(name).endswith(".onnx"):
        raise UsageError(f"{name} is an ONNX file; run `cnn import {name}` first, and name the model that it writes.")
