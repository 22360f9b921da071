"""Published networks, one builder each, with the recipe each was trained by; and a user's own from a TOML file."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from cnn.augment import Augmentation
from cnn.backend import Backend
from cnn.config import check_values, require
from cnn.dataset import Dataset
from cnn.errors import FileFormatError, UsageError
from cnn.initializers import Gaussian, He, Xavier
from cnn.layers import AvgPool2D, Conv2D, Flatten, Layer, Linear, LocalResponseNorm, MaxPool2D, ReLU
from cnn.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from cnn.model import Sequential
from cnn.optimizers import SGD, Optimizer
from cnn.preprocessing import Preprocessing
from cnn.schedules import Constant, Inv, MultiStep, Schedule

PREPROCESSINGS = ("scale", "mean_image", "standardise")


@dataclass
class Recipe:
    """How a network is trained: what `cnn train` takes unless told otherwise.

    preprocessing is "scale" (pixels * pixel_scale), "mean_image" (minus the training images' mean) or "standardise"
    (mean 0, deviation 1 a channel).
    """

    epochs: int = 10
    batch_size: int = 64
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Constant)
    loss: Loss = field(default_factory=SoftmaxCrossEntropy)
    preprocessing: str = "scale"
    pixel_scale: float = 1 / 256
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        self.optimizer = Optimizer.from_config(self.optimizer)
        self.schedule = Schedule.from_config(self.schedule)
        self.loss = Loss.from_config(self.loss)
        if isinstance(self.augmentation, dict):
            self.augmentation = Augmentation(**self.augmentation)
        require(
            self.preprocessing in PREPROCESSINGS,
            f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, not {self.preprocessing!r}.",
        )
        require(
            self.epochs >= 1 and self.batch_size >= 1,
            f"epochs ({self.epochs}) and batch_size ({self.batch_size}) must be at least 1.",
        )
        require(
            self.pixel_scale > 0 and isfinite(self.pixel_scale),
            f"pixel_scale must be above 0 and finite, not {self.pixel_scale}.",
        )

    def preprocess(self, data: Dataset) -> Preprocessing:
        """The preprocessing, with its constants taken from the training images."""
        if self.preprocessing == "mean_image":
            return Preprocessing.mean_image(data.train, self.pixel_scale)
        if self.preprocessing == "standardise":
            return Preprocessing.standardise(data.train, self.pixel_scale)
        return Preprocessing.scale_only(self.pixel_scale)


@dataclass
class Architecture:
    """A network before it is built: a name, its layers, the image shape it was published for, its recipe."""

    name: str
    layers: list[Layer]
    input_shape: tuple[int, int, int]
    recipe: Recipe

    def build(
        self,
        *,
        data: Dataset | None = None,
        backend: Backend | str | None = None,
        seed: int | np.random.Generator = 0,
    ) -> Sequential:
        """The network with fresh weights, for the images and classes of `data` or else as published."""
        return Sequential(
            self.layers,
            data.shape if data else self.input_shape,
            name=self.name,
            loss=self.recipe.loss,
            preprocessing=self.recipe.preprocess(data) if data else None,
            classes=data.classes if data else None,
            backend=backend,
            seed=seed,
        )


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

    Its 32x32 input is the 28x28 digit with a border of two, here the first convolution's padding. The pooling has no
    trained coefficient. Source: report of github.com/jyk46/cs5220-final-project, 2015.
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
    )


def vgg6(classes: int = 10) -> Architecture:
    """Six 3x3 convolutions in three pairs and two linear layers, in the manner of Simonyan & Zisserman 2015."""
    pairs: list[Layer] = []
    for filters in (64, 128, 256):
        pairs += [Conv2D(filters, 3, padding=1, activation="relu", weights=He()) for _ in range(2)]
        pairs.append(MaxPool2D(2))
    return Architecture(
        "vgg6",
        [*pairs, Flatten(), Linear(256, activation="relu", weights=He()), Linear(classes)],
        (32, 32, 3),
        Recipe(
            epochs=30,
            optimizer=SGD(0.9, 5e-4),
            schedule=MultiStep(0.01, (12_000, 18_000)),
            preprocessing="standardise",
            augmentation=Augmentation(flip=True, pad_crop=4),
        ),
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


ZOO: dict[str, Callable[[int], Architecture]] = {
    builder.__name__: builder for builder in (lenet, lenet5, cifar10_quick, cifar10_full, vgg6, mlp)
}


def architecture(name: str, classes: int = 10) -> Architecture:
    """The network of the zoo called `name`, or the one in the TOML file `name`. Raises UsageError for neither."""
    if name in ZOO:
        return ZOO[name](classes)
    if name.endswith(".toml"):
        return read_architecture(Path(name))
    raise UsageError(f"There is no network {name!r}; known are: {', '.join(ZOO)}, or a file ending in .toml.")


def read_architecture(path: Path) -> Architecture:
    """A network described in TOML: `input`, `[[layers]]` tables and an optional `[recipe]`.

    Raises UsageError for an unknown layer or setting, FileFormatError for a file that is missing or no TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileFormatError(f"{path} cannot be read as TOML ({error}); correct it.") from error
    unknown = set(table) - {"name", "input", "layers", "recipe"}
    if unknown:
        raise UsageError(f"{path} has unknown entries {sorted(unknown)}; known are name, input, layers and recipe.")
    shape, layers, recipe = table.get("input"), table.get("layers"), table.get("recipe", {})
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise UsageError(f"{path}: input must be three whole numbers above 0 [height, width, channels], not {shape!r}.")
    if not isinstance(layers, list) or not layers:
        raise UsageError(f"{path} needs at least one [[layers]] table.")
    if not isinstance(recipe, dict):
        raise UsageError(f"{path}: recipe must be a table [recipe], not {recipe!r}.")
    try:
        check_values("recipe", recipe, {each.name: each for each in fields(Recipe)})
        return Architecture(
            str(table.get("name", path.stem)),
            [Layer.from_config(layer) for layer in layers],
            (shape[0], shape[1], shape[2]),
            Recipe(**recipe),
        )
    except (TypeError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from error
