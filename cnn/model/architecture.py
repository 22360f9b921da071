"""Architectures: layers with the recipe to train them, described in Python or in a TOML file."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from cnn.backend import Backend
from cnn.config import check_values, merged, require, settle
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Dataset
from cnn.data.preprocessing import Preprocessing
from cnn.data.views import NONE, checked
from cnn.errors import UsageError
from cnn.layers import Layer
from cnn.layers.blocks import Block
from cnn.losses import Loss, SoftmaxCrossEntropy
from cnn.model.network import Network
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD, Multiplier, Optimizer, SlowWeights
from cnn.schedules import Constant, OneCycle, Schedule
from cnn.toml import read_toml
from cnn.words import unknown

ENTRIES = ("name", "input", "layers", "recipe")
"""What a network's TOML file may hold."""
RECIPE_BESIDES = " (`cnn reference Recipe` says what they are)"
PREPROCESSINGS = ("scale", "mean_image", "standardise")
MOST_EPOCHS = 1_000_000
"""No run needs more; a number with too many zeros is a mistake."""


@dataclass
class Recipe:
    """How a model is trained: the defaults of `cnn train`.

    preprocessing is "scale" (pixels of 8 bits * pixel_scale, others as their white is), "mean_image" (minus the
    training images' mean) or "standardise" (mean 0 and standard deviation 1 per channel).
    """

    epochs: float = 10
    """Passes over the training images; a fraction ends within one."""
    batch_size: int = 64
    """Images per step."""
    optimizer: Optimizer = field(default_factory=SGD)
    """Of `cnn reference`, by name or as a table."""
    schedule: Schedule = field(default_factory=Constant)
    """The learning rate by step, as a table with a type."""
    multipliers: list[Multiplier] = field(default_factory=list)
    """Tables with a pattern of parameters and factors on their learning rate and decay, or when they freeze."""
    slow_weights: SlowWeights | None = None
    """A copy of the weights that follows them, as a name or table: Lookahead or EMA."""
    loss: Loss = field(default_factory=SoftmaxCrossEntropy)
    """By name or as a table."""
    preprocessing: str = "scale"
    """"scale", "mean_image" or "standardise"."""
    pixel_scale: float = 1 / 256
    """The factor of pixels of 8 bits."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """A table of settings of Augmentation."""
    mixup: float = 0.0
    """The alpha of mixup (Zhang et al. 2018), such as 0.2: pairs of images and their losses are averaged; 0 is none."""
    clip_norm: float | None = None
    """The largest norm of all gradients together (Pascanu et al. 2013); longer ones are scaled down to it."""
    validation: float | None = None
    """The fraction of the training images that `cnn train` holds out; without, 0.05, but at most 1,000 images."""
    tta: str = NONE
    """Test-time augmentation with which `cnn train` tests once more: "none", "flip" or "flip+shift"."""

    def __post_init__(self) -> None:
        self.optimizer = Optimizer.from_config(self.optimizer)
        self.schedule = Schedule.from_config(self.schedule)
        self.loss = Loss.from_config(self.loss)
        if isinstance(self.multipliers, list | tuple):
            self.multipliers = Multiplier.list_of(self.multipliers)
        if self.slow_weights is not None:
            self.slow_weights = SlowWeights.from_config(self.slow_weights)
        if isinstance(self.augmentation, dict):
            known = {each.name: each for each in fields(Augmentation)}
            besides = " (`cnn reference Augmentation` says what they are)"
            check_values("augmentation", self.augmentation, known, besides)
            self.augmentation = Augmentation(**self.augmentation)
        settle(self)
        checked(self.tta)
        require(
            self.preprocessing in PREPROCESSINGS,
            f"preprocessing must be one of {', '.join(PREPROCESSINGS)}, not {self.preprocessing!r}.",
        )
        check_mixup_and_clip(self.mixup, self.clip_norm)
        share = self.validation
        require(share is None or 0 <= share < 1, f"validation must be at least 0 and below 1, not {share}.")
        require(
            0 < self.epochs <= MOST_EPOCHS and self.batch_size >= 1,
            f"epochs ({self.epochs:.7g}) must be above 0 and at most {MOST_EPOCHS:,}, and batch_size "
            f"({self.batch_size}) at least 1.",
        )
        require(
            self.pixel_scale > 0 and isfinite(self.pixel_scale),
            f"pixel_scale must be above 0 and finite, not {self.pixel_scale}.",
        )

    def changed(self, table: Mapping[str, Any]) -> "Recipe":
        """The recipe with some settings replaced, as in a TOML file; of tables only what is given changes.

        Raises UsageError for an unknown setting or a wrong value.
        """
        before = {each.name: getattr(self, each.name) for each in fields(self)}
        augmentation = {each.name: getattr(self.augmentation, each.name) for each in fields(Augmentation)}
        values = merged(before | {"augmentation": augmentation}, table)
        known = {each.name: each for each in fields(Recipe)}
        check_values("recipe", values, known, RECIPE_BESIDES)
        return replace(self, **values)

    def preprocess(self, data: Dataset) -> Preprocessing:
        """The preprocessing, with its constants computed from the training images."""
        return Preprocessing.suiting(data.train, self.preprocessing, self.pixel_scale)


def one_cycle(epochs: float, lr: float, pad_crop: int, *, cutout: int = 0, label_smoothing: float = 0.0) -> Recipe:
    """The recipe of networks without one of their own, or with a long one: a cycle of the rate, no images held out."""
    return Recipe(
        epochs=epochs,
        batch_size=128,
        optimizer=SGD(0.9, 5e-4, nesterov=True),
        schedule=OneCycle(lr),
        preprocessing="standardise",
        validation=0.0,
        augmentation=Augmentation(flip=True, pad_crop=pad_crop, cutout=cutout),
        loss=SoftmaxCrossEntropy(label_smoothing=label_smoothing),
    )


def check_mixup_and_clip(mixup: float, clip_norm: float | None) -> None:
    """Raises UsageError for values that no run can have."""
    require(0 <= mixup < inf, f"mixup must be at least 0 and finite, not {mixup}.")
    require(clip_norm is None or 0 < clip_norm < inf, f"clip_norm must be above 0 and finite, not {clip_norm}.")


@dataclass(frozen=True)
class Published:
    """The accuracy (0 to 1) on the test images of a data set that was published for a network and its recipe."""

    dataset: str
    accuracy: float
    source: str
    tta: str = NONE
    """The test-time augmentation that it was found with."""

    def __str__(self) -> str:
        return f"{self.accuracy:.2%} on {self.dataset} ({self.source})"

    def compared(self, reached: float) -> str:
        """What a run reached beside it."""
        if reached >= self.accuracy:
            return f"{self}: reached"
        return f"{self}: missed by {100 * (self.accuracy - reached):.2f} points"


@dataclass
class Architecture:
    """The description that models are built from: name, layers, published image shape and recipe, and precision.

    Without a precision it is that of CNN_PRECISION, or float32. `published` is what others reached with this recipe.
    """

    name: str
    layers: Sequence[Layer | Block]
    input_shape: tuple[int, int, int]
    recipe: Recipe
    precision: str | None = None
    published: Published | None = None

    @property
    def network(self) -> Network:
        """The network for the published image shape. Raises ShapeError naming the layer that does not fit."""
        return Network(self.layers, self.input_shape)

    def build(
        self,
        *,
        data: Dataset | None = None,
        backend: Backend | str | None = None,
        seed: int | np.random.Generator = 0,
    ) -> Sequential:
        """A model with fresh weights, for the images and classes of `data`, or as published without `data`."""
        model = Sequential(
            deepcopy(self.layers),
            data.shape if data else self.input_shape,
            name=self.name,
            loss=self.recipe.loss,
            preprocessing=self.recipe.preprocess(data) if data else None,
            classes=data.classes if data else None,
            backend=backend,
            precision=self.precision,
            seed=seed,
        )
        model.resize = data.resize if data else None
        return model


def read_architecture(path: Path) -> Architecture:
    """The architecture in a TOML file: `input`, `[[layers]]` tables and an optional `[recipe]`.

    Raises UsageError for an unknown layer or setting, FileFormatError if the file is missing or is not a TOML file.
    """
    table = read_toml(path)
    for name in sorted(set(table) - set(ENTRIES)):
        raise unknown(f"{path} has no entry", name, ENTRIES)
    shape, layers, recipe = table.get("input"), table.get("layers"), table.get("recipe", {})
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise UsageError(f"{path}: input must be three whole numbers above 0 [height, width, channels], not {shape!r}.")
    if not isinstance(layers, list) or not layers:
        raise UsageError(f"{path} needs at least one [[layers]] table.")
    if not isinstance(recipe, dict):
        raise UsageError(f"{path}: recipe must be a table [recipe], not {recipe!r}.")
    try:
        known = {each.name: each for each in fields(Recipe)}
        check_values("recipe", recipe, known, RECIPE_BESIDES)
        return Architecture(
            str(table.get("name", path.stem)),
            [Layer.from_config(layer) for layer in layers],
            (shape[0], shape[1], shape[2]),
            Recipe(**recipe),
        )
    except (TypeError, UsageError) as error:
        raise UsageError(f"{path}: {error}") from error
