"""Data sets: labelled images in a training and a test split, and the plug-ins that load them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cnn.arrays import generator
from cnn.config import plain, require
from cnn.errors import CnnError, DataError, UsageError, listed
from cnn.paths import reading, shown
from cnn.plugins import DATASETS, names
from cnn.plugins import load as load_plugin
from cnn.system.cache import cache_folder, folder_in
from cnn.system.fetch import RemoteFile, fetch
from cnn.words import counted

DEFAULT_DATASET = "mnist-5k"


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, H, W, C) uint8 and labels (N,) int64 from 0. Raises DataError if they do not fit.

    Images that are not row-major are copied once. Labels may be a list or whole numbers of another type. `classes`
    names label 0, 1, ...; None if the labels are mere numbers. The splits of a Dataset have its names.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if labels.dtype.kind in "iu":
            labels = labels.astype(np.int64, copy=False)
        if images.dtype == np.uint8:
            # Batches are gathered image by image, which is slow where the pixels of an image lie far apart.
            images = np.ascontiguousarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
            raise DataError(f"Images have shape {images.shape} and type {images.dtype}; give (N, H, W, C) and uint8.")
        if labels.dtype != np.int64 or labels.ndim != 1:
            raise DataError(f"Labels have shape {labels.shape} and type {labels.dtype}; give (N,) and int64.")
        if len(images) != len(labels):
            numbers = f"{counted(len(images), 'image')} and {counted(len(labels), 'label')}"
            raise DataError(f"{numbers} do not fit together; give one label per image.")
        if len(labels) and labels.min() < 0:
            raise DataError(f"The smallest label is {labels.min()}; number the classes from 0.")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.ArrayLike) -> "Split":
        """The images and labels at `indices` (M,), copied. Raises UsageError if one does not exist."""
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
            raise UsageError(f"Indices have shape {chosen.shape} and type {chosen.dtype}; give (M,) and whole numbers.")
        chosen = chosen.astype(np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise UsageError(f"Indices run from {chosen.min()} to {chosen.max()}; give 0 to {len(self) - 1}.")
        return Split(self.images[chosen], self.labels[chosen], self.classes)

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


def class_names(classes: Iterable[object]) -> tuple[str, ...]:
    """The names of classes, which may be given as NumPy's texts or as numbers. Raises UsageError for a single text."""
    require(
        isinstance(classes, Iterable) and not isinstance(classes, str | bytes),
        f"classes must be a list of names, not {classes!r}.",
    )
    return tuple(str(plain(each)) for each in classes)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set.

    `classes` names label 0, 1, ...; `notes` are one-line remarks that the user must see, such as an unexpected digest;
    `source` says where the images came from; `validation` is None if the set has no such images. Raises DataError if a
    split is empty, if the images of the splits differ in shape, or if a label has no class.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    source: str = "built in"
    validation: Split | None = None

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


class DatasetPlugin(ABC):
    """One data set; a subclass gives its `name` and implements `load`. It is constructed without arguments."""

    name: ClassVar[str]
    summary: ClassVar[str] = "no description"
    licence: ClassVar[str] = "not stated"
    files: ClassVar[tuple[RemoteFile, ...]] = ()
    """What `download` fetches; empty if the set is built in or cannot be downloaded."""
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


def load_dataset(name: str = DEFAULT_DATASET, *, data_dir: str | Path | None = None, download: bool = False) -> Dataset:
    """The data set registered as `name`, downloaded first if it is absent and `download` is true.

    Raises UsageError if there is no such name, DataError if the set is absent or not what it should be.
    """
    plugin = _plugin(name)
    folders = search_folders(data_dir, plugin.extra_folders)
    with reading(data_dir or name, "data folder", DataError):
        if download and plugin.files:
            try:
                plugin.locate(folders)
            except DataError:
                download_dataset(name, data_dir=data_dir)
        elif data_dir is not None and not Path(data_dir).is_dir():
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


def _plugin(name: str) -> DatasetPlugin:
    found = load_plugin(DATASETS, name)
    if not (isinstance(found, type) and issubclass(found, DatasetPlugin)):
        raise CnnError(f"Plug-in {name!r} is {found!r}, not a subclass of DatasetPlugin; correct or remove it.")
    try:
        return found()
    except TypeError as error:
        raise CnnError(f"Plug-in {name!r} cannot be constructed: {error}; correct or remove it.") from error
