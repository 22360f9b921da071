"""Data sets: labelled images in a training and a test split, and the plug-ins that load them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cnn.arrays import generator
from cnn.config import plain, require
from cnn.data.conversion import Layout, as_images, as_labels
from cnn.data.pixels import TYPES
from cnn.data.sources import gathered
from cnn.data.stored import Images, StoredImages, stored
from cnn.errors import CnnError, DataError, UsageError, listed
from cnn.paths import reading, shown
from cnn.plugins import DATASETS, names
from cnn.plugins import load as load_plugin
from cnn.system.cache import cache_folder, folder_in
from cnn.system.fetch import RemoteFile, fetch
from cnn.words import counted, unknown

DEFAULT_DATASET = "mnist-5k"
TEST_FRACTION, TEST_SEED = 0.2, 0
"""What is held out for testing where there are no test images."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images (N, H, W, C) and labels (N,) int64 from 0. Raises DataError if they do not fit.

    Images are uint8, uint16, float32 or float64, in memory, or `StoredImages` in a file, which a read-only memory map
    becomes. Those that are not row-major are copied once. Labels may be a list or whole numbers of another type.
    `classes` names label 0, 1, ...; None if the labels are mere numbers. The splits of a Dataset have its names.
    `weights` (N,) say how much each image counts in training, None if all count the same.
    """

    images: Images
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...] | None = None
    weights: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        images: Any = stored(self.images)
        images, labels = np.asarray(self.images) if images is None else images, np.asarray(self.labels)
        if labels.dtype.kind in "iu":
            labels = labels.astype(np.int64, copy=False)
        if images.dtype not in TYPES or images.ndim != 4 or 0 in images.shape[1:]:
            raise DataError(
                f"Images have shape {images.shape} and type {images.dtype}; give (N, H, W, C) and "
                f"{', '.join(np.dtype(kind).name for kind in TYPES)}, or use cnn.Dataset.from_arrays."
            )
        if not isinstance(images, StoredImages):
            # Batches are gathered image by image, which is slow where the pixels of an image lie far apart.
            images = np.ascontiguousarray(images, images.dtype.newbyteorder("="))
        if labels.dtype != np.int64 or labels.ndim != 1:
            raise DataError(f"Labels have shape {labels.shape} and type {labels.dtype}; give (N,) and int64.")
        if len(images) != len(labels):
            numbers = f"{counted(len(images), 'image')} and {counted(len(labels), 'label')}"
            raise DataError(f"{numbers} do not fit together; give one label per image.")
        if len(labels) and labels.min() < 0:
            raise DataError(f"The smallest label is {labels.min()}; number the classes from 0.")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        if self.weights is not None:
            object.__setattr__(self, "weights", _weights(self.weights, len(labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        weighted = ", weighted" if self.weights is not None else ""
        return f"Split({_described(self)}{weighted})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @classmethod
    def of(
        cls,
        images: Any,
        labels: Any = None,
        *,
        classes: Sequence[object] | None = None,
        layout: Layout = "NHWC",
        weights: npt.ArrayLike | None = None,
        named: bool = True,
    ) -> "Split":
        """A split of images and labels as `Dataset.from_arrays` takes them, or of a split, a data set or an iterable.

        `named` says whether the classes have names of their own, or are mere numbers that other labels may replace.
        """
        found: Split
        if isinstance(images, Split) and labels is None:
            found = images
        elif isinstance(images, Dataset) and labels is None:
            found = images.train
        else:
            names: Sequence[object] | None = classes
            if labels is None:
                (images, labels, own), layout = gathered(images, layout), "NHWC"
                if own is not None and labels.dtype.kind in "iu" and 0 <= labels.min() <= labels.max() < len(own):
                    labels, names = np.array(own)[labels], own if names is None else names
            numbers, texts = as_labels(labels, names, named=named)
            found = cls(as_images(images, layout=layout), numbers, texts)
        return found if weights is None else replace(found, weights=weights)  # type: ignore[arg-type]

    def weighted(self, class_weight: "Mapping[Any, float] | str | None") -> "Split":
        """The same images, each with the weight of its class times its own.

        `class_weight` is "balanced", which gives every class the same total, or weights by the name or the number of
        the class, 1 where there is none. Raises UsageError.
        """
        if class_weight is None:
            return self
        classes = self.classes or tuple(map(str, range(int(self.labels.max(initial=-1)) + 1)))
        counts = np.bincount(self.labels, minlength=len(classes))
        if isinstance(class_weight, str):
            require(
                class_weight == "balanced",
                f"class_weight is {class_weight!r}; give 'balanced', or weights by class.",
            )
            factors = len(self) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))
        else:
            require(
                isinstance(class_weight, Mapping), "class_weight must be 'balanced', or a table of weights by class."
            )
            factors = np.ones(len(classes))
            for name, weight in class_weight.items():
                text = str(plain(name))
                if text not in classes and not (text.isdecimal() and int(text) < len(classes)):
                    raise unknown("class_weight: there is no class", text, classes)
                factors[classes.index(text) if text in classes else int(text)] = weight
        own = np.ones(len(self)) if self.weights is None else self.weights
        return replace(self, weights=(factors[self.labels] * own).astype(np.float32))

    def take(self, indices: npt.ArrayLike) -> "Split":
        """The images and labels at `indices` (M,), copied, or still in their file. UsageError if one does not exist."""
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise UsageError(f"Indices have shape {chosen.shape} and type {chosen.dtype}; give (M,) and whole numbers.")
        chosen = chosen.astype(np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise UsageError(f"Indices run from {chosen.min()} to {chosen.max()}; give 0 to {len(self) - 1}.")
        images = self.images.rows_at(chosen) if isinstance(self.images, StoredImages) else self.images[chosen]
        weights = None if self.weights is None else self.weights[chosen]
        return Split(images, self.labels[chosen], self.classes, weights)

    def numbered_by(self, classes: Sequence[str]) -> "Split":
        """The same images with labels that count in `classes`, by name; unchanged if the classes have no names.

        Raises UsageError, with the names, if there are images of a class that is not among `classes`.
        """
        if self.classes is None or self.classes == tuple(classes):
            return self
        places = {name: place for place, name in enumerate(classes)}
        numbers = np.array([places.get(name, -1) for name in self.classes], dtype=np.int64)
        present = np.unique(self.labels)
        unknown = [self.classes[label] for label in present if numbers[label] < 0]
        if unknown:
            raise UsageError(
                f"There are images of {listed(unknown)}, but the model's classes are {listed(classes)}; "
                "leave those images out, or train a model on all classes."
            )
        return replace(self, labels=numbers[self.labels], classes=tuple(classes))

    def part_of_each_class(self, fraction: float, seed: int) -> "tuple[Split, Split]":
        """(the rest, a part of each class), chosen by the seed. Raises DataError if the part is empty."""
        held = held_of_each_class(self.labels, fraction, seed)
        if not held.any():
            raise DataError("There are too few images to hold some out for testing; give 3 or more per class.")
        return self.take(np.flatnonzero(~held)), self.take(np.flatnonzero(held))

    def hold_out(self, fraction: float, rng: int | np.random.Generator) -> "tuple[Split, Split]":
        """Divides the split at random into (training, validation), with `fraction` of the images in the latter.

        `rng` may be a seed. Raises UsageError if either part would be empty.
        """
        rng = generator(rng)
        require(isinstance(fraction, float | int | np.number), f"The fraction must be a number, not {fraction!r}.")
        held = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < held < len(self):
            raise UsageError(
                f"A fraction of {fraction} of {counted(len(self), 'image')} leaves a part empty; "
                "give a fraction between 0 and 1 (--validation) that leaves at least one image on both sides; with "
                "--validation 0 none are held out."
            )
        order = rng.permutation(len(self))
        # Sorted, so that both parts keep the order of the file: a copy in memory order is twice as fast.
        return self.take(np.sort(order[held:])), self.take(np.sort(order[:held]))


def held_of_each_class(labels: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which images (N,) belong to a part of each class, chosen by the seed."""
    held = np.zeros(len(labels), np.bool_)
    for label in range(int(labels.max(initial=-1)) + 1):
        own = np.flatnonzero(labels == label)
        order = np.random.default_rng(seed).permutation(len(own))
        held[own[order[: round(fraction * len(own))]]] = True
    return held


def _weights(weights: Any, count: int) -> npt.NDArray[np.float32]:
    """Weights (N,) with a mean of 1, so that the learning rate keeps its meaning. Raises DataError."""
    found = np.asarray(weights)
    if found.shape != (count,) or found.dtype.kind not in "uifb":
        raise DataError(f"Weights have shape {found.shape} and type {found.dtype}; give ({count},), one per image.")
    found = found.astype(np.float64)
    if not (np.isfinite(found).all() and (found >= 0).all() and (not count or found.any())):
        raise DataError("Weights must be finite and at least 0, and not all of them 0.")
    return (found / found.mean() if count else found).astype(np.float32)


def _described(split: Split) -> str:
    images = split.images
    where = ", in a file" if isinstance(images, StoredImages) else ""
    classes = "" if split.classes is None else f", {counted(len(split.classes), 'class')}"
    return f"{counted(len(split), 'image')} {'x'.join(map(str, split.shape))} {images.dtype}{where}{classes}"


def class_names(classes: Iterable[object]) -> tuple[str, ...]:
    """The names of classes, which may be given as NumPy's texts or as numbers. Raises UsageError for a single text."""
    require(
        isinstance(classes, Iterable) and not isinstance(classes, str | bytes),
        f"classes must be a list of names, not {classes!r}.",
    )
    return tuple(str(plain(each)) for each in classes)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A loaded data set.

    `classes` names label 0, 1, ...; `notes` are one-line remarks that the user must see, such as an unexpected digest;
    `source` says where the images came from; `validation` is None if the set has no such images. `resize` is how
    pictures of other sizes were made to fit, None where none were. Raises DataError if a split is empty, if the images
    of the splits differ in shape, or if a label has no class.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    source: str = "built in"
    validation: Split | None = None
    resize: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes))
        names = {"train": "training", "test": "test", "validation": "validation"}
        splits = {field: getattr(self, field) for field in names if getattr(self, field) is not None}
        for field, split in splits.items():
            kind, shapes = names[field], (self.train.images.shape[1:], split.images.shape[1:])
            if shapes[0] != shapes[1]:
                raise DataError(
                    f"{self.name}: training images are {shapes[0]}, {kind} images {shapes[1]}; make them equal."
                )
            if not len(split):
                raise DataError(f"{self.name}: the {kind} split is empty; give it at least one image.")
            if split.labels.max() >= len(self.classes):
                raise DataError(
                    f"{self.name}: a {kind} label is {split.labels.max()}, but there are {len(self.classes)} "
                    "classes; labels run from 0 to one less than that."
                )
            named = replace(split, classes=self.classes) if split.classes is None else split.numbered_by(self.classes)
            object.__setattr__(self, field, named)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def __repr__(self) -> str:
        held = f", {len(self.validation):,} validation" if self.validation else ""
        counts = f"{len(self.train):,} training{held}, {len(self.test):,} test"
        shape, dtype = "x".join(map(str, self.shape)), self.train.images.dtype
        return f"Dataset({self.name}: {counts} images {shape} {dtype}, {counted(len(self.classes), 'class')})"

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any = None,
        X_test: Any = None,
        y_test: Any = None,
        *,
        classes: Sequence[object] | None = None,
        validation: Any = None,
        layout: Layout = "NHWC",
        name: str = "arrays",
    ) -> "Dataset":
        """A data set of images and labels as people have them.

        Images are (N, H, W), (N, H, W, C), or (N, C, H, W) with layout="NCHW", of any type and strides: 8 or 16 bits,
        shades from 0 to 1, or any other numbers; those in a read-only memory map stay in their file. Labels are whole
        numbers, texts, or rows with a single 1. In place of X and y, X may be a data set of Hugging Face or
        torchvision, or an iterable of (image, label) pairs or of batches, and so may X_test. `validation` is a pair.

        `classes` names the labels, in their order; without, the names are the labels themselves. Without test images a
        fifth of each class, chosen by a fixed seed, is held out. Raises DataError or UsageError.
        """
        train = Split.of(X, y, classes=classes, layout=layout)
        names, notes = train.classes or (), tuple[str, ...]()
        if X_test is None:
            train, test = train.part_of_each_class(TEST_FRACTION, TEST_SEED)
            notes = (f"no test images: {len(test)} of {len(train) + len(test)} held out for testing, seed {TEST_SEED}",)
        else:
            test = Split.of(X_test, y_test, classes=names, layout=layout)
        held = None if validation is None else Split.of(validation, classes=names, layout=layout)
        return cls(name, train, test, names, notes, "arrays", held)


class DatasetPlugin(ABC):
    """One data set; a subclass gives its `name` and implements `load`. Its constructor needs no arguments."""

    name: ClassVar[str]
    summary: ClassVar[str] = "no description"
    licence: ClassVar[str] = "not stated"
    files: ClassVar[tuple[RemoteFile, ...]] = ()
    """What `download` fetches; empty if the set is built in or cannot be downloaded."""
    built_in: ClassVar[bool] = False
    """Whether it reads no folder, so that to name one is a mistake."""
    extra_folders: ClassVar[tuple[Path, ...]] = ()
    """Folders searched last, such as the one where an operating system's package installs the set."""

    @abstractmethod
    def load(self, folders: Sequence[Path]) -> Dataset:
        """Reads the set from the first of `folders` that contains it. Raises DataError if none does."""

    def locate(self, folders: Sequence[Path]) -> str:
        """Where `load` would read from, found without reading images. Raises DataError if the set is nowhere.

        Override it if `load` reads files under other names than those in `files`.
        """
        if not self.files:
            return "built in"
        for folder in folders:
            if all((folder / file.path).is_file() for file in self.files):
                return str(folder)
        raise self.missing(folders)

    def takes_file(self, path: Path) -> bool:
        """Whether `path` is a file that may stand in place of a folder."""
        return False

    def missing(self, folders: Sequence[Path], found: str = "") -> DataError:
        """The error for a set that is in none of the folders; `found` says what was there instead."""
        places = ", ".join(str(folder) for folder in folders) or "no folder at all"
        cure = f'run "cnn data get {self.name}" or name its folder' if self.files else "name its folder"
        return DataError(f"{self.name} is not in {places}{found and f' ({found})'}; {cure} with --data-dir.")

    def download(self, dest: Path) -> None:
        """Fetches `files` into `dest`. Raises DataError if there are none or if they cannot be fetched."""
        if not self.files:
            raise DataError(f"{self.name} has no download; load it without one, or name its folder.")
        for file in self.files:
            fetch(file, dest)


@dataclass(frozen=True)
class DatasetStatus:
    """What a listing says about one data set: `where` if it is `present`, `reason` (cause and cure) if not."""

    name: str
    summary: str
    licence: str
    present: bool
    where: str = ""
    reason: str = ""


def search_folders(data_dir: str | Path | None = None, extra: Sequence[Path] = ()) -> list[Path]:
    """Folders searched for data sets, in order: `data_dir`, CNN_DATA_DIR, the cache, then `extra`."""
    named = [data_dir, folder_in("CNN_DATA_DIR")]
    return [*(Path(folder) for folder in named if folder), cache_folder() / "data", *extra]


def load_dataset(
    name: str = DEFAULT_DATASET, *, data_dir: str | Path | None = None, download: bool = False, **settings: Any
) -> Dataset:
    """The data set registered as `name`, downloaded first if it is absent and `download` is true.

    `settings` are those of the data set, such as `size` for "folder". Raises UsageError if there is no such name or
    setting, DataError if the set is absent or not what it should be.
    """
    if isinstance(name, (str, Path)) and name not in names(DATASETS) and Path(name).exists():
        raise UsageError(f"{shown(name)} is a path; for your own pictures, load 'folder' with data_dir={str(name)!r}.")
    plugin = _plugin(name, **settings)
    folders = search_folders(data_dir, plugin.extra_folders)
    if data_dir is not None and plugin.built_in:
        raise UsageError(
            f"{name} is built in and reads nothing in {shown(data_dir)}; leave --data-dir out, or name the data set "
            "that is there (folder for your own pictures)."
        )
    with reading(data_dir or name, "data folder", DataError):
        if download and plugin.files:
            try:
                plugin.locate(folders)
            except DataError:
                download_dataset(name, data_dir=data_dir)
        elif data_dir is not None and not Path(data_dir).is_dir() and not plugin.takes_file(Path(data_dir)):
            raise DataError(f"The data folder {shown(data_dir)} does not exist; correct --data-dir.")
        return plugin.load(folders)


def download_dataset(name: str, *, data_dir: str | Path | None = None) -> Path:
    """Fetches the files of `name` into `data_dir`, else the cache. Returns the folder; raises DataError."""
    dest = Path(data_dir) if data_dir is not None else cache_folder() / "data"
    _plugin(name).download(dest)
    return dest


def dataset_status(name: str, *, data_dir: str | Path | None = None) -> DatasetStatus:
    """What is known about `name` without loading it; a broken plug-in is given as the reason, not raised."""
    try:
        plugin = _plugin(name)
    except UsageError:
        raise
    except CnnError as error:
        return DatasetStatus(name, "plug-in that cannot be loaded", "unknown", present=False, reason=str(error))
    try:
        with reading(data_dir or name, "data folder", DataError):
            where = plugin.locate(search_folders(data_dir, plugin.extra_folders))
    except DataError as error:
        return DatasetStatus(name, plugin.summary, plugin.licence, present=False, reason=str(error))
    return DatasetStatus(name, plugin.summary, plugin.licence, present=True, where=where)


def list_datasets(*, data_dir: str | Path | None = None) -> list[DatasetStatus]:
    """The status of every registered data set, sorted by name."""
    return [dataset_status(name, data_dir=data_dir) for name in names(DATASETS)]


def _plugin(name: str, **settings: Any) -> DatasetPlugin:
    found = load_plugin(DATASETS, name)
    if not (isinstance(found, type) and issubclass(found, DatasetPlugin)):
        raise CnnError(f"Plug-in {name!r} is {found!r}, not a subclass of DatasetPlugin; correct or remove it.")
    known = [] if found.__init__ is object.__init__ else list(signature(found).parameters)
    for key in settings.keys() - known:
        raise unknown(f"{name} has no setting", key, known)
    try:
        return found(**settings)
    except TypeError as error:
        raise CnnError(f"Plug-in {name!r} cannot be constructed: {error}; correct or remove it.") from error
