"""Own pictures: in DIR/CLASS/, in train/, val/ and test/ of DIR with class folders in each of them, or in a table."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn.data.dataset import TEST_FRACTION, TEST_SEED, Dataset, DatasetPlugin, Split, held_of_each_class
from cnn.data.images import RESIZES, Form
from cnn.data.stored import Images, StoredImages
from cnn.errors import DataError, UsageError, listed
from cnn.paths import reading
from cnn.words import counted, unknown

from ._class_folders import BESIDE, ClassFolders, split_folders, subfolders  # noqa: TID251 - relative, as it should be
from ._picture_cache import Survey, forms_of  # noqa: TID251
from ._picture_table import read_table  # noqa: TID251

TABLE = ".csv"


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
    """Your own folder or CSV file of pictures, the first that is searched: --data-dir, else CNN_DATA_DIR.

    Pictures of another size than `size` (H, W) are resized: "crop" keeps their proportions and cuts out the middle,
    "pad" adds black, "stretch" distorts. Without a size all must have the same, unless `otherwise` says which to take
    then. Grey images among colour images become colour images, and 8 bits among 16 become 16; `channels` asks for 1 or
    3. With `strict`, all of this is a DataError instead. Without test images a fifth of each class, chosen by a fixed
    seed, is used for testing. The notes report all of this, and what was left out and why.

    Pictures are decoded once, by several threads, and kept in the cache, as long as their names, sizes and times stay
    the same. Those of a large set are not read into memory, but mapped: see `cnn.data.stored`.
    """

    name = "folder"
    summary = "your own images, one folder per class or listed in a CSV file, in --data-dir"
    licence = "the licence of your images"

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        strict: bool = False,
        resize: str = "crop",
        channels: int | None = None,
        otherwise: tuple[int, int] | None = None,
    ) -> None:
        for each in (size, otherwise):
            if each is not None and (len(each) != 2 or min(each) < 1):
                raise UsageError(f"The size is {each}; give height and width in pixels, 1 or more.")
        if resize not in RESIZES:
            raise unknown("There is no way to resize", str(resize), RESIZES)
        if channels not in (None, 1, 3):
            raise UsageError(f"There are no images of {channels} channels; give 1 (grey) or 3 (colour).")
        self.size, self.strict, self.resize = size, strict, resize
        self.channels, self.otherwise = channels, otherwise

    def takes_file(self, path: Path) -> bool:
        """A CSV file may stand in place of the folder."""
        return path.suffix.lower() == TABLE and path.is_file()

    def locate(self, folders: Sequence[Path]) -> str:
        """The first folder, if it has class folders in it, or the CSV file."""
        self._list(folders)
        return str(folders[0])

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Decodes every image, or maps those decoded before. Raises DataError, naming the files that are damaged."""
        found = self._list(folders)
        parts = [found.train, found.validation, found.test]
        items = [item for part in parts for item in part]
        settings = f"{self.size} {self.strict} {self.resize} {self.channels} {self.otherwise}"
        with reading(folders[0], "folder", DataError):
            survey = Survey(folders[0], [item.path for item in items], settings)
        table = survey.known()
        if table is None:
            form, notes = self._common_form(items)
        else:
            size, channels, deep = table["form"]
            form, notes = Form((size[0], size[1]), channels, deep), table["notes"]
        images = survey.images(form, self.resize)
        if table is None and survey.cached:
            survey.remember({"form": form, "notes": notes})
        ends = np.cumsum([0, *map(len, parts)])
        splits = [
            Split(_rows(images, int(start), int(stop)), np.array([item.label for item in part], dtype=np.int64))
            for part, start, stop in zip(parts, ends, ends[1:], strict=False)
        ]
        train, validation, test = splits
        return Dataset(
            self.name,
            train,
            test,
            found.classes,
            (*found.notes, *notes),
            str(folders[0]),
            validation if len(validation) else None,
            self.resize,
        )

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
                + "".join(f"{note}; " for note in train.notes(3))
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
        if folders and self.takes_file(folders[0]):
            names, items, notes = _from_table(folders[0])
        else:
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
        held = held_of_each_class(np.array([item.label for item in train]), TEST_FRACTION, TEST_SEED)
        # Sorted by class, as the folders are.
        test = sorted((item for item, is_held in zip(train, held, strict=True) if is_held), key=lambda item: item.label)
        rest = sorted(
            (item for item, is_held in zip(train, held, strict=True) if not is_held), key=lambda item: item.label
        )
        if not test:
            raise DataError(f"{folders[0]} has too few images to hold some out for testing; give 3 or more per class.")
        note = f"no test folder: {len(test)} of {len(train)} images held out for testing, seed {TEST_SEED}"
        return _Listing(names, rest, validation, test, [note, *notes])

    def _common_form(self, items: list[_Item]) -> tuple[Form, list[str]]:
        """The form of all images, and notes on the images that are converted."""
        forms = forms_of([item.path for item in items])
        sizes = Counter(form.size for form in forms)
        size = self.size or (next(iter(sizes)) if len(sizes) == 1 else self.otherwise)
        if size is None:
            some = listed((f"{height}x{width}" for (height, width), _ in sizes.most_common(3)), most=3)
            raise DataError(
                f"The images have {counted(len(sizes), 'size')} ({some}{', ...' if len(sizes) > 3 else ''}); say to "
                "which they are to be resized: --image-size HxW, or size=(H, W)."
            )
        form = Form(size, self.channels or max(form.channels for form in forms), any(form.deep for form in forms))
        ways = {"crop": "with the middle cut out", "pad": "with black added", "stretch": "distorted"}
        notes = []
        if self.size is None and len(sizes) > 1:
            notes.append(
                f"the images have {counted(len(sizes), 'size')}; all become {size[0]}x{size[1]}, unless --image-size "
                "HxW says another"
            )
        for position, change in enumerate(
            (f"resized to {size[0]}x{size[1]} pixels", "converted from grey to colour", "converted from 8 to 16 bits")
        ):
            others = [item.path for item, each in zip(items, forms, strict=True) if each[position] != form[position]]
            if position == 1 and form.channels == 1:
                change = "converted from colour to grey"
            if others and self.strict:
                raise DataError(f"{others[0]} would be {change}; do that first, or read the folder without strict.")
            if others:
                way = "" if position or not _other_shapes(forms, size) else f", {ways[self.resize]} (--resize)"
                notes.append(f"{len(others)} of {counted(len(items), 'image')} {change}{way}")
        return form, notes


def _other_shapes(forms: list[Form], size: tuple[int, int]) -> bool:
    """Whether an image has other proportions than `size`."""
    return any(form.size[0] * size[1] != form.size[1] * size[0] for form in forms)


def _rows(images: Images, start: int, stop: int) -> Images:
    if isinstance(images, StoredImages):
        return images.rows_at(np.arange(start, stop))
    return images[start:stop]


def _from_table(table: Path) -> tuple[tuple[str, ...], dict[str, list[_Item]], list[str]]:
    """The classes and the items of each split in a CSV file, and notes."""
    found = read_table(table)
    names = tuple(sorted({label for _, label in found.get("train", [])}))
    if len(names) < 2:
        raise DataError(f"{table} has training images of {counted(len(names), 'class')}, but at least 2 are needed.")
    for rows in found.values():
        strange = sorted({label for _, label in rows} - set(names))
        if strange:
            raise DataError(f"{table} has no training images of {listed(strange)}; add some, or remove these rows.")
    places = {name: place for place, name in enumerate(names)}
    items = {split: [_Item(path, places[label]) for path, label in rows] for split, rows in found.items()}
    return names, items, []
