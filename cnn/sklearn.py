"""A network as a scikit-learn classifier, for pipelines and searches; needs `pip install cnn-blas[sklearn]`."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cnn.config import whole
from cnn.data.augmentation import Augmentation
from cnn.data.conversion import Layout, as_images
from cnn.data.dataset import Dataset, Split
from cnn.errors import CnnError, ShapeError, UsageError
from cnn.layers import Conv2D, Flatten, Layer, Linear, MaxPool2D
from cnn.layers.blocks import Block
from cnn.model.architecture import Architecture, Recipe
from cnn.model.sequential import Sequential
from cnn.model.zoo import architecture
from cnn.optimizers import Adam, Optimizer
from cnn.schedules import Constant
from cnn.system.threads import budget, limit_threads
from cnn.training.fitting import fit
from cnn.training.results import History

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise CnnError("cnn.sklearn needs scikit-learn 1.6 or newer; install it: pip install cnn-blas[sklearn].") from error

SMALLEST = 8
"""The least height and width of images for which the default network has convolutions."""


class CNNClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trains a network by `fit`, and classifies by `predict` and `predict_proba`.

    X is images (N, H, W), (N, H, W, C), or with layout="NCHW" (N, C, H, W), of any numbers, or rows of `image_shape`
    (H, W) or (H, W, C), as other estimators take them. Without an image_shape, rows are taken as the network's own
    shape, if they have as many numbers, and else as images of one row. y is labels of any kind.

    Parameters
    ----------
    network : a name, a .toml file, a `cnn.Architecture`, or layers whose last has a unit per class. By default two
        convolutions and two linear layers; for images below 8 pixels linear layers alone.
    max_iter, batch_size, learning_rate_init, solver, alpha : epochs, images per step, learning rate, optimizer ("SGD",
        "RMSprop", "Adam" or an object) and L2 weight decay. None stands for those of the network's recipe; layers and
        the default network have Adam with a rate of 0.003, 60 epochs of batches of 32.
    augmentation : a `cnn.Augmentation`.
    early_stopping, validation_fraction, n_iter_no_change : whether to hold a part of each class out, which part, and
        after how many epochs without a lower loss on it to stop with the best weights.
    class_weight : "balanced" or weights by class.
    warm_start : whether `fit` goes on with the weights that there are.
    backend, precision : as of `cnn.Sequential`.
    n_jobs : threads; None is what CNN_NUM_THREADS or OMP_NUM_THREADS allows, as joblib sets it, -1 all.
    random_state, verbose : the seed of every random choice; whether to show a bar.

    Attributes
    ----------
    classes_, model_, history_, n_iter_ : labels in order, the `cnn.Sequential`, the results by epoch and their number.
    """

    model_: Sequential
    history_: History
    classes_: npt.NDArray[Any]

    def __init__(
        self,
        network: str | Architecture | Sequence[Layer | Block] | None = None,
        *,
        image_shape: tuple[int, ...] | None = None,
        layout: Layout = "NHWC",
        max_iter: int | None = None,
        batch_size: int | None = None,
        learning_rate_init: float | None = None,
        solver: str | Optimizer | None = None,
        alpha: float | None = None,
        augmentation: Augmentation | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        class_weight: Mapping[Any, float] | str | None = None,
        warm_start: bool = False,
        backend: str | None = None,
        precision: str | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.network = network
        self.image_shape = image_shape
        self.layout = layout
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.solver = solver
        self.alpha = alpha
        self.augmentation = augmentation
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.backend = backend
        self.precision = precision
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains a new network, or with warm_start the one that there is."""
        X, y = self._checked(X, y)
        classes = np.unique(y)
        fresh = not (self.warm_start and hasattr(self, "model_"))
        if not fresh and not np.array_equal(classes, self.classes_):
            raise UsageError(f"warm_start needs the classes of the first fit, {self.classes_}, not {classes}.")
        self._train(X, y, sample_weight, classes=classes, fresh=fresh, epochs=self.max_iter)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One epoch on these images; `classes` are needed at the first call. The optimizer starts anew at each."""
        fresh = not hasattr(self, "model_")
        X, y = self._checked(X, y, reset=fresh)
        if fresh and classes is None:
            raise UsageError("classes must be passed on the first call to partial_fit.")
        known = np.unique(classes) if fresh else self.classes_
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise UsageError(f"classes={list(classes)} is not the same as on the first call: {list(known)}.")
        if not np.isin(y, known).all():
            raise UsageError(f"y has labels that are not among classes={list(known)}.")
        self._train(X, y, sample_weight, classes=known, fresh=fresh, epochs=1)
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """The probability of each of classes_, (N, K)."""
        check_is_fitted(self, "model_")
        X = validate_data(self, X, dtype="numeric", allow_nd=True, reset=False)
        images = self._images(X, self.model_.input_shape)
        with limit_threads(self._threads()):
            found: npt.NDArray[np.float64] = np.asarray(self.model_.predict(images), np.float64)
        found /= found.sum(axis=1, keepdims=True)
        return found

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The likeliest class of each image, (N,)."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[likeliest])

    def _checked(self, X: Any, y: Any, *, reset: bool = True) -> tuple[Any, Any]:
        X, y = validate_data(self, X, y, dtype="numeric", allow_nd=True, reset=reset)
        check_classification_targets(y)
        return X, y

    def _train(self, X: Any, y: Any, sample_weight: Any, *, classes: Any, fresh: bool, epochs: int | None) -> None:
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        if weights is not None and (weights == 0).any():
            # What counts for nothing is as if it were not there.
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
            if not len(y):
                raise UsageError("All weights are 0; give at least one image a weight.")
        random = check_random_state(self.random_state)
        seed = np.random.default_rng(random.randint(2**31 - 1))
        chosen = self._architecture(X, len(classes))
        shape = chosen.input_shape if fresh else self.model_.input_shape
        names = [str(each) for each in classes]
        split = Split(self._images(X, shape), np.searchsorted(classes, y), tuple(names), weights)
        split = split.weighted(self._class_weight(classes))
        recipe, held = self._recipe(chosen.recipe), None
        if self.early_stopping:
            split, held = split.part_of_each_class(self.validation_fraction, int(seed.integers(2**31)))
        with limit_threads(self._threads()):
            if fresh:
                self.classes_ = classes
                data = Dataset("arrays", split, split, tuple(names))
                preprocessing = recipe.preprocess(data)
                self.model_ = Sequential(
                    deepcopy(chosen.layers), shape, name=chosen.name, loss=recipe.loss, classes=names,
                    preprocessing=preprocessing, backend=self.backend, precision=self.precision, seed=seed,
                )  # fmt: skip
            history = fit(
                self.model_, split, recipe=replace(recipe, loss=self.model_.loss), epochs=epochs, validation=held,
                patience=self.n_iter_no_change if self.early_stopping else None, progress=self.verbose,
            )  # fmt: skip
        self.history_ = history if fresh else History([*self.history_, *history])
        self.n_iter_ = len(self.history_)

    def _architecture(self, X: Any, classes: int) -> Architecture:
        """The network, for the shape of X and the number of classes."""
        recipe = Recipe(60, 32, Adam(), Constant(0.003), preprocessing="standardise")
        if isinstance(self.network, str | Architecture):
            given = architecture(self.network, classes) if isinstance(self.network, str) else self.network
            return replace(given, input_shape=self._shape(X, given.input_shape))
        shape = self._shape(X, None)
        layers = default_layers(shape, classes) if self.network is None else self.network
        return Architecture("classifier", layers, shape, recipe)

    def _shape(self, X: Any, own: tuple[int, int, int] | None) -> tuple[int, int, int]:
        """Shape (H, W, C) of one image."""
        if self.image_shape is not None:
            given = self.image_shape
            if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                raise UsageError(f"image_shape must be (H, W) or (H, W, C), not {given!r}.")
            for size in given:
                whole(size, "Each number of image_shape")
            height, width, channels = (*self.image_shape, 1)[:3]
            own = height, width, channels
        if X.ndim == 2 and own is not None and X.shape[1] != np.prod(own):
            raise ShapeError(f"Rows of {X.shape[1]} numbers are no images of {own}; give their image_shape (H, W, C).")
        if self.image_shape is not None and own is not None:
            return own
        if X.ndim == 2:
            return own or (1, X.shape[1], 1)
        height, width, channels = as_images(X[:1], layout=self.layout).shape[1:]
        return height, width, channels

    def _images(self, X: Any, shape: tuple[int, ...]) -> Any:
        if X.ndim == 2 and shape[0] == 1 and X.dtype.kind in "iu":
            X = X.astype(np.float64)  # rows of a table are no shades
        return as_images(X, layout=self.layout, shape=shape)

    def _recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with what was given."""
        optimizer = recipe.optimizer if self.solver is None else Optimizer.from_config(_capitals(self.solver))
        if self.alpha is not None:
            optimizer = Optimizer.from_config(optimizer.config() | {"weight_decay": float(self.alpha)})
        rate = self.learning_rate_init
        return replace(
            recipe,
            optimizer=optimizer,
            schedule=recipe.schedule if rate is None else recipe.schedule.at(float(rate)),
            batch_size=recipe.batch_size if self.batch_size is None else self.batch_size,
            augmentation=recipe.augmentation if self.augmentation is None else self.augmentation,
        )

    def _class_weight(self, classes: Any) -> Mapping[Any, float] | str | None:
        """The weights by number, as a class may be named like the number of another one."""
        if not isinstance(self.class_weight, Mapping):
            return self.class_weight
        # Weights of classes that are not there are as common in scikit-learn as in this.
        return {str(each): self.class_weight[each] for each in classes.tolist() if each in self.class_weight}

    def _threads(self) -> int:
        asked = None if self.n_jobs is None else whole(self.n_jobs, "n_jobs", -(2**31))
        return budget(None if asked is None or asked < 1 else asked).count

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def default_layers(shape: tuple[int, int, int], classes: int) -> list[Layer | Block]:
    """The layers of a small network for images of `shape` (H, W, C)."""
    convolutions: list[Layer | Block] = []
    if min(shape[:2]) >= SMALLEST:
        for filters in (16, 32):
            convolutions += [Conv2D(filters, 3, padding=1, activation="relu"), MaxPool2D(2)]
    return [*convolutions, Flatten(), Linear(64, activation="relu"), Linear(classes)]


def _capitals(solver: str | Optimizer) -> str | Optimizer:
    """The name of an optimizer, which scikit-learn writes in small letters."""
    names = {"adam": "Adam", "sgd": "SGD", "rmsprop": "RMSprop"}
    return names.get(solver, solver) if isinstance(solver, str) else solver
