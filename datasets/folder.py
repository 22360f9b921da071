"""Class folders: images in DIR/CLASS/, or in train/, val/ and test/ of DIR with class folders in each of them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn.data.dataset import Dataset, DatasetPlugin, Split
from cnn.data.images import image_header, read_image
from cnn.errors import DataError, UsageError, listed
from cnn.paths import reading
from cnn.words import counted

from ._class_folders import BESIDE, ClassFolders, split_folders, subfolders  # noqa: TID251 - relative, as it should be

MAX_BYTES = 4 << 30
_TEST_FRACTION = 0.2
_SEED = 0


class _Item(NamedTuple):
    path: Path
    label: int


class _Listing(NamedTuple):
    """The items of each split, without a `val` folder none for validation."""

    classes: tuple[str, ...]
    train: list[_Item]
    validation: list[_Item]
    test: list[_Item]
    notes: list[str]


class Folder(DatasetPlugin):
    """Your own folder, the first that is searched: --data-dir, else CNN_DATA_DIR.

    Images are resized to their most common size, or to `size` (H, W) if that is given, and grey images among
    colour images become colour images; with `strict`, either is a DataError instead. Without a test folder, a
    fifth of each class, chosen by a fixed seed, is used for testing. The notes report all of this, and what was left
    out and why.
    """

    name = "folder"
    summary = "your own images, one folder per class, in --data-dir"
    licence = "the licence of your images"

    def __init__(self, size: tuple[int, int] | None = None, strict: bool = False) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise UsageError(f"The size is {size}; give height and width in pixels, 1 or more.")
        self.size, self.strict = size, strict

    def locate(self, folders: Sequence[Path]) -> str:
        """The first folder, if it has class folders in it."""
        self._splits(folders)
        return str(folders[0])

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Reads every image. Raises DataError, naming the file, if one is damaged or too large."""
        found = self._list(folders)
        size, channels, mixed = self._common_form(found.train + found.validation + found.test)
        train, test = (self._read(items, size, channels) for items in (found.train, found.test))
        validation = self._read(found.validation, size, channels) if found.validation else None
        notes = (*found.notes, *mixed)
        return Dataset(self.name, train, test, found.classes, notes, str(folders[0]), validation)

    def _splits(self, folders: Sequence[Path]) -> dict[str, ClassFolders]:
        """The class folders of the training images, and of the others that there are."""
        with reading(folders[0] if folders else ".", "folder", DataError):
            if not folders or not folders[0].is_dir():
                raise self.missing(folders[:1])
        base = folders[0]
        roots = split_folders(base)
        if "train" not in roots or not subfolders(roots["train"]):
            roots = {"train": base}
        found = {split: ClassFolders(root) for split, root in roots.items()}
        train = found["train"]
        if train.root != base:
            beside = [path.name for path in subfolders(base) if path not in roots.values()]
            train.left_out[BESIDE] += beside
        names = list(train.images)
        if len(names) < 2:
            there = f"{counted(len(names), 'folder')} with images{f' ({names[0]})' if names else ''}"
            raise DataError(
                f"{train.root} has {there}, but at least 2 classes are needed; "
                + "".join(f"{note}; " for note in train.notes())
                + "with --data-dir, name a folder that has one folder per class, or name the data set that is there, "
                "such as mnist."
            )
        for split, other in found.items():
            unknown = [name for name in other.images if name not in names]
            if unknown:
                raise DataError(
                    f"The classes {listed(unknown)} of {other.root} have no counterpart in {train.root} "
                    f"(there are {listed(names)}); add or remove them."
                )
            if split != "train" and not other.images:
                raise DataError(f"{other.root} has no images in class folders; fill it or remove it.")
        return found

    def _list(self, folders: Sequence[Path]) -> _Listing:
        """The classes, the items of each split, and notes."""
        found = self._splits(folders)
        names = tuple(found["train"].images)
        items = {
            split: [_Item(path, label) for label, name in enumerate(names) for path in each.images.get(name, [])]
            for split, each in found.items()
        }
        notes = [note for each in found.values() for note in each.notes()]
        train, validation = items["train"], items.get("val", [])
        if "test" in items:
            return _Listing(names, train, validation, items["test"], notes)
        train, test = _held_out(train, len(names))
        if not test:
            raise DataError(
                f"{found['train'].root} has too few images to hold some out for testing; give 3 or more per class."
            )
        held = f"no test folder: {len(test)} of {len(train) + len(test)} images held out for testing, seed {_SEED}"
        return _Listing(names, train, validation, test, [held, *notes])

    def _common_form(self, items: list[_Item]) -> tuple[tuple[int, int], int, list[str]]:
        """The size (H, W) and channels of all images, and notes on the images that are converted."""
        forms = {item.path: image_header(item.path) for item in items}
        sizes = Counter(form[0] for form in forms.values())
        # Ties go to the larger size, so that the order of files does not matter.
        size = self.size or max(sizes, key=lambda found: (sizes[found], found))
        channels = max(form[1] for form in forms.values())
        notes = []
        resized = f"resized to {size[1]}x{size[0]} pixels"
        for position, wanted, change in ((0, size, resized), (1, channels, "converted from grey to colour")):
            others = [path for path, form in forms.items() if form[position] != wanted]
            if others and self.strict:
                raise DataError(f"{others[0]} would be {change}; do that first, or read the folder without strict.")
            if others:
                notes.append(f"{len(others)} of {counted(len(items), 'image')} {change}")
        if len(items) * size[0] * size[1] * channels > MAX_BYTES:
            raise DataError(
                f"{len(items)} images of {size[0]} x {size[1]} pixels do not fit into {MAX_BYTES >> 30} GiB; "
                "scale them down."
            )
        return size, channels, notes

    def _read(self, items: list[_Item], size: tuple[int, int], channels: int) -> Split:
        images = np.empty((len(items), *size, channels), dtype=np.uint8)
        for index, item in enumerate(items):
            images[index] = read_image(item.path, size=size, channels=channels)
        return Split(images, np.array([item.label for item in items], dtype=np.int64))


def _held_out(items: list[_Item], classes: int) -> tuple[list[_Item], list[_Item]]:
    """(training, test) items: a part of each class, chosen by the seed, is for testing."""
    train, test = [], []
    for label in range(classes):
        own = [item for item in items if item.label == label]
        order = np.random.default_rng(_SEED).permutation(len(own))
        held = {int(i) for i in order[: round(_TEST_FRACTION * len(own))]}
        train += [item for i, item in enumerate(own) if i not in held]
        test += [item for i, item in enumerate(own) if i in held]
    return train, test
