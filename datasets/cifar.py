"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 32 x 32 RGB pixels, binary or pickled."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from cnn.data.dataset import Dataset, DatasetPlugin, Split
from cnn.errors import DataError
from cnn.paths import check_file, reading
from cnn.system.fetch import RemoteFile

from ._archive import read_members  # noqa: TID251 - relative, as it should be
from ._cifar_pickle import read_batch  # noqa: TID251

SIDE, CHANNELS = 32, 3
PIXELS = SIDE * SIDE * CHANNELS
_CURE = "download or copy it again"
_PICKLE_OVERHEAD = 256  # bytes per image that a pickled batch may take besides pixels: file name and labels
_FINE_LABELS = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_TORONTO = "https://www.cs.toronto.edu/~kriz"
_MINDSPORE = "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets"


@dataclass(frozen=True)
class Layout:
    """One published form of the set: its folder, the archive of that folder, and the MD5 of each batch in it.

    The last batch is the test batch. MD5 is the digest that is published for the unpacked batches.
    """

    folder: str
    archive: str
    batches: Mapping[str, str]
    pickled: bool


class Cifar10(DatasetPlugin):
    """Animals and vehicles (Krizhevsky, "Learning multiple layers of features from tiny images", 2009)."""

    name = "cifar10"
    summary = "animals and vehicles, 50,000 + 10,000 images of 32 x 32 x 3, 10 classes"
    licence = "none stated; cite Krizhevsky (2009)"
    classes: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    train_size: ClassVar[int] = 50_000
    test_size: ClassVar[int] = 10_000
    # In the binary layout this many label bytes precede the pixels; the last one is used.
    label_bytes: ClassVar[int] = 1
    label_key: ClassVar[str] = "labels"
    # Size and digest: the checksum file cifar10.txt of TensorFlow Datasets. The second address is the one
    # that MindSpore's tutorials name.
    files = (
        RemoteFile(
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            (f"{_TORONTO}/cifar-10-binary.tar.gz", f"{_MINDSPORE}/cifar-10-binary.tar.gz"),
        ),
    )
    # MD5 of the pickled batches from torchvision's cifar.py; of the binary ones from the data-set packages of the
    # RAI project, which agree with other projects' CMake files for CIFAR-10.
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            {
                "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
                "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
            },
            pickled=False,
        ),
        Layout(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
            },
            pickled=True,
        ),
    )

    def locate(self, folders: Sequence[Path]) -> str:
        """The folder or archive that holds all batches of one layout."""
        return str(self._find(folders)[1])

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Reads all batches; batches whose digest is not the official one are used and noted."""
        layout, where = self._find(folders)
        limits = {f"{layout.folder}/{name}": self._limit(layout, name) for name in layout.batches}
        archived = read_members(where, limits) if where.is_file() else None
        batches, other = [], []
        for name, known in layout.batches.items():
            raw = archived.pop(f"{layout.folder}/{name}") if archived is not None else self._read(layout, where / name)
            if hashlib.md5(raw, usedforsecurity=False).hexdigest() != known:
                other.append(name)
            batches.append(self._parse(layout, name, raw, f"{where}/{name}"))
        images, labels = ([getattr(batch, part) for batch in batches[:-1]] for part in ("images", "labels"))
        train = Split(np.concatenate(images), np.concatenate(labels))
        notes = () if not other else (f"not the official files of {self.name} (MD5): {', '.join(other)}",)
        return Dataset(self.name, train, batches[-1], self.classes, notes, str(where))

    def _find(self, folders: Sequence[Path]) -> tuple[Layout, Path]:
        partial = ""
        for base in folders:
            for layout in self.layouts:
                for folder in (base / layout.folder, base):
                    absent = [name for name in layout.batches if not (folder / name).is_file()]
                    if not absent:
                        return layout, folder
                    if folder.name == layout.folder and folder.is_dir():
                        partial = f"{folder} lacks {', '.join(absent)}"
                if (base / layout.archive).is_file():
                    return layout, base / layout.archive
        raise self.missing(folders, partial)

    def _count(self, layout: Layout, name: str) -> int:
        """Images in the batch `name`."""
        return self.test_size if name == list(layout.batches)[-1] else self.train_size // (len(layout.batches) - 1)

    def _limit(self, layout: Layout, name: str) -> int:
        """Bytes of the batch `name`: exact if it is binary, an upper limit if it is pickled."""
        return self._count(layout, name) * (PIXELS + (_PICKLE_OVERHEAD if layout.pickled else self.label_bytes))

    def _read(self, layout: Layout, path: Path) -> bytes:
        """The batch in the file `path`."""
        check_file(path, "file", DataError)
        with reading(path, "file", DataError):
            size, limit = path.stat().st_size, self._limit(layout, path.name)
            if size > limit:
                raise DataError(f"{path} has {size:,} bytes, more than {limit:,}; {_CURE}.")
            return path.read_bytes()

    def _parse(self, layout: Layout, name: str, raw: bytes, source: str) -> Split:
        """One batch as images (N, 32, 32, 3) and labels; `source` names it in errors."""
        count = self._count(layout, name)
        if layout.pickled:
            rows, listed = read_batch(raw, source, self.label_key, PIXELS)
            labels = np.array(listed, dtype=np.int64)
        else:
            record = self.label_bytes + PIXELS
            if len(raw) != count * record:
                raise DataError(f"{source} has {len(raw):,} bytes where {count * record:,} are expected; {_CURE}.")
            records = np.frombuffer(raw, dtype=np.uint8).reshape(count, record)
            rows, labels = records[:, self.label_bytes :], records[:, self.label_bytes - 1].astype(np.int64)
        if not len(rows) == len(labels) == count:
            raise DataError(
                f"{source} holds {len(rows)} images and {len(labels)} labels where {count} are expected; {_CURE}."
            )
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise DataError(
                f"{source} holds labels from {labels.min()} to {labels.max()} where 0 to {len(self.classes) - 1} "
                f"are expected; {_CURE}."
            )
        # From planar red, green, blue to NHWC.
        return Split(np.ascontiguousarray(rows.reshape(count, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)), labels)


class Cifar100(Cifar10):
    """CIFAR-10's relative with 100 classes, labelled by the fine label."""

    name = "cifar100"
    summary = "things and animals, 50,000 + 10,000 images of 32 x 32 x 3, 100 classes"
    classes = tuple(_FINE_LABELS.split())
    label_bytes = 2
    label_key = "fine_labels"
    # Size and digest: the checksum file cifar100.txt of TensorFlow Datasets; mirror as for CIFAR-10.
    files = (
        RemoteFile(
            "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            (f"{_TORONTO}/cifar-100-binary.tar.gz", f"{_MINDSPORE}/cifar-100-binary.tar.gz"),
        ),
    )
    layouts = (
        Layout(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            {
                "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
                "test.bin": "4499cfba6c016c1be1438163640a0898",
            },
            pickled=False,
        ),
        Layout(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            pickled=True,
        ),
    )
