"""Lists images in class folders, and says what is left out of them and why."""

from collections import defaultdict
from pathlib import Path

from cnn.data.images import SUFFIXES
from cnn.errors import DataError, listed
from cnn.paths import reading

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""The names of a split's folder in small letters, as people write them."""
_SILENT = frozenset({"thumbs.db", "desktop.ini"})
"""Files that systems put into folders of images."""
DEEPER = "with images one level deeper; move them up"
EMPTY = "empty"
NO_IMAGES = f"no image by their suffix ({', '.join(sorted(SUFFIXES))})"
DANGLING = "links that lead nowhere"
INNER = "folders in a class; only images directly in it are read"
BESIDE = "beside the folder of training images"


class ClassFolders:
    """The class folders in `root`: `images` by class name, both sorted, for the classes that have any.

    Raises DataError if `root` or a folder in it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: dict[str, list[str]] = defaultdict(list)
        """What was left out, as paths from `root`, by the reason."""
        self.images: dict[str, list[Path]] = {}
        for folder in subfolders(root):
            found = self._images(folder)
            if found:
                self.images[folder.name] = found

    def _images(self, folder: Path) -> list[Path]:
        found, inner, other = [], [], 0
        for path in entries(folder):
            name = f"{folder.name}/{path.name}"
            if path.is_dir():
                inner.append(path)
            elif not path.exists():
                self.left_out[DANGLING].append(name)
            elif path.suffix.lower() in SUFFIXES and path.is_file():
                found.append(path)
            elif path.name.lower() not in _SILENT:
                self.left_out[NO_IMAGES].append(name)
            else:
                continue
            other += 1
        deeper = [each for each in inner if any(path.suffix.lower() in SUFFIXES for path in entries(each))]
        if found:
            self.left_out[INNER] += [f"{folder.name}/{path.name}" for path in inner]
        elif deeper:
            self.left_out[DEEPER].append(folder.name)
        elif not other:
            self.left_out[EMPTY].append(folder.name)
        return found

    def notes(self, most: int = 8) -> list[str]:
        """What was left out, one line for each reason, with the names of at most `most` files and folders."""
        return [
            f"left out of {self.root.name}, {why}: {listed(found, most)}"
            for why, found in self.left_out.items()
            if found
        ]


def split_folders(base: Path) -> dict[str, Path]:
    """The folders train, val and test of `base` that exist, by these names; they may be written with capitals.

    Raises DataError if two folders can be meant.
    """
    found = {}
    for split, names in _SPLITS.items():
        meant = [path for path in subfolders(base) if path.name.lower() in names]
        if len(meant) > 1:
            raise DataError(f"{base} has {listed(path.name for path in meant)}; name one of them {split}.")
        if meant:
            found[split] = meant[0]
    return found


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that are not hidden, sorted."""
    return [path for path in entries(folder) if path.is_dir()]


def entries(folder: Path) -> list[Path]:
    """What is in `folder` and not hidden, sorted by name. Raises DataError if it cannot be read."""
    with reading(folder, "folder", DataError):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
