"""`fit`: trains a model on arrays, splits or data sets, by settings or by a recipe."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy.typing as npt

from cnn.config import require
from cnn.data.conversion import Layout
from cnn.data.dataset import Dataset, Split
from cnn.data.preprocessing import Preprocessing
from cnn.errors import UsageError
from cnn.model.architecture import Architecture, Recipe
from cnn.model.sequential import Sequential
from cnn.training.results import History
from cnn.training.trainer import Callback, Trainer

FROM_RECIPE = (
    *("batch_size", "optimizer", "schedule", "multipliers", "slow_weights"),
    *("augmentation", "mixup", "clip_norm"),
)
"""Settings of a Trainer that a recipe has, too."""


def fit(
    model: Sequential,
    train: Any,
    y: Any = None,
    *,
    epochs: float | None = None,
    recipe: Recipe | Architecture | None = None,
    validation: Any = None,
    layout: Layout = "NHWC",
    sample_weight: npt.ArrayLike | None = None,
    class_weight: Mapping[Any, float] | str | None = None,
    callbacks: Iterable[Callback] | Callback = (),
    progress: bool = False,
    **settings: Any,
) -> History:
    """Trains `model` and returns one result per epoch; `settings` are those of `Trainer`, schedule a number or one.

    `train` is a Split, a Dataset, or anything that `Dataset.from_arrays` takes: images, with their labels as `y`.
    `validation` is one of these or a pair (images, labels); of a Dataset it is its own. `sample_weight` (N,) and
    `class_weight` ("balanced", or weights by class) say how much an image counts. A `recipe` gives epochs, batch size,
    optimizer, schedule, augmentation, mixup and clipping, unless they are given; and the preprocessing, to a model
    without one.
    `progress` shows a bar, in notebooks too.

    Raises UsageError for a setting that a Trainer does not have, a recipe for another loss, and what a Trainer raises.
    """
    known = [each.name for each in fields(Trainer) if each.name not in ("model", "train")]
    unknown = sorted(settings.keys() - known)
    require(not unknown, f"fit has no setting {', '.join(unknown)}; known are: {', '.join(known)}.")
    require(isinstance(model, Sequential), f"A Trainer trains a cnn.Sequential, not a {type(model).__name__}.")
    if validation is None and isinstance(train, Dataset):
        validation = train.validation
    recipe = recipe.recipe if isinstance(recipe, Architecture) else recipe
    split, given = settings_and_split(
        model, train, y, recipe=recipe, layout=layout, sample_weight=sample_weight, class_weight=class_weight
    )
    settings = given | settings
    if epochs is None and recipe is not None:
        epochs = recipe.epochs
    held = None if validation is None else model.split_of(validation, layout=layout)
    require(epochs is not None, "Give epochs=N, the number of passes over the images, or a recipe.")
    trainer = Trainer(model, split, validation=held, **settings)
    listeners = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    if progress:
        # Its tqdm is loaded where it is shown only: in a notebook it brings that one's.
        from cnn.training.notebook import NotebookBar

        listeners.append(NotebookBar(epochs or 0))
    return trainer.run(epochs or 0, listeners)


def settings_and_split(
    model: Sequential,
    train: Any,
    y: Any,
    *,
    recipe: Recipe | Architecture | None,
    layout: Layout,
    sample_weight: npt.ArrayLike | None,
    class_weight: Mapping[Any, float] | str | None,
) -> tuple[Split, dict[str, Any]]:
    """The training images, and the settings of a Trainer that a recipe gives; a model without one gets a preprocessing.

    Raises UsageError for what is no recipe, or one for another loss.
    """
    split = model.split_of(train, y, layout=layout, weights=sample_weight).weighted(class_weight)
    if recipe is None:
        return split, {}
    recipe = recipe.recipe if isinstance(recipe, Architecture) else recipe
    require(isinstance(recipe, Recipe), f"recipe must be a cnn.Recipe or an architecture, not {recipe!r}.")
    if recipe.loss != model.loss:
        raise UsageError(f"The recipe is for the loss {recipe.loss}, but {model.name} has {model.loss}.")
    if model.adapts:
        model.preprocessing = Preprocessing.suiting(split, recipe.preprocessing, recipe.pixel_scale)
        model.adapts = False
    return split, {name: getattr(recipe, name) for name in FROM_RECIPE}
