"""Class folders: images in DIR/CLASS/, or in DIR/train/CLASS/ and DIR/test/CLASS/, labelled by their folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn.data.dataset import Dataset, DatasetPlugin, Split
from cnn.data.images import SUFFIXES, image_header, read_image
from cnn.errors import DataError, UsageError
from cnn.words import counted

MAX_BYTES = 4 << 30
_TEST_FRACTION = 0.2
_SEED = 0


class _Item(NamedTuple):
    path: Path
    label: int


class Folder(DatasetPlugin):
    """Your own folder, the first that is searched: --data-dir, else CNN_DATA_DIR.

    Images are resized to their most common size, or to `size` (H, W) if that is given, and grey images among
    colour images become colour images; with `strict`, either is a DataError instead. Without a test folder, a
    fifth of each class, chosen by a fixed seed, is used for testing. The notes report all of this.
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
        self._classes(folders)
        return str(folders[0])

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Reads every image. Raises DataError, naming the file, if one is damaged or too large."""
        classes, train, test, notes = self._list(folders)
        size, channels, mixed = self._common_form(train + test)
        splits = [self._read(items, size, channels) for items in (train, test)]
        return Dataset(self.name, splits[0], splits[1], classes, (*notes, *mixed), str(folders[0]))

    def _classes(self, folders: Sequence[Path]) -> tuple[Path, list[str]]:
        """The folder with the training class folders, and their sorted names."""
        if not folders or not folders[0].is_dir():
            raise self.missing(folders[:1])
        root = folders[0]
        if _subfolders(root / "train"):
            root = root / "train"
        names = [name for name in _subfolders(root) if _images(root / name)]
        if len(names) < 2:
            raise DataError(
                f"{root} has {counted(len(names), 'folder')} with images, but at least 2 classes are needed; "
                "with --data-dir, name a folder that has one folder per class."
            )
        return root, names

    def _list(self, folders: Sequence[Path]) -> tuple[tuple[str, ...], list[_Item], list[_Item], list[str]]:
        """Class names, training items, test items and notes."""
        root, names = self._classes(folders)
        listed = [[_Item(path, label) for path in _images(root / name)] for label, name in enumerate(names)]
        tests = folders[0] / "test"
        if root.name == "train" and _subfolders(tests):
            unknown = [name for name in _subfolders(tests) if _images(tests / name) and name not in names]
            if unknown:
                raise DataError(f"{tests / unknown[0]} has no counterpart in {root}; add or remove it.")
            found = [_Item(path, label) for label, name in enumerate(names) for path in _images(tests / name)]
            return tuple(names), [item for items in listed for item in items], found, []
        train, test = [], []
        for items in listed:
            order = np.random.default_rng(_SEED).permutation(len(items))
            held = {int(i) for i in order[: round(_TEST_FRACTION * len(items))]}
            train += [item for i, item in enumerate(items) if i not in held]
            test += [item for i, item in enumerate(items) if i in held]
        if not test:
            raise DataError(f"{root} has too few images to hold some out for testing; give 3 or more per class.")
        note = f"no test folder: {len(test)} of {len(train) + len(test)} images held out for testing, seed {_SEED}"
        return tuple(names), train, test, [note]

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


def _subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder` that are not hidden; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Sorted image files in `folder`, recognised by their suffix; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
