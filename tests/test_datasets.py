"""Data sets as a user sees them: splits, search folders, messages for missing files, real files."""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnn.data.dataset as dataset_module
import cnn.plugins as plugins
from cnn.data.dataset import (
    DEFAULT_DATASET,
    Dataset,
    Split,
    dataset_status,
    download_dataset,
    list_datasets,
    load_dataset,
    search_folders,
)
from cnn.errors import CnnError, DataError, UsageError
from cnn.system.cache import cache_folder

OWN = {"cifar10", "cifar100", "fashion-mnist", "folder", "mnist", "mnist-5k", "synthetic"}
MNIST_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def make_split(count: int = 10, shape: tuple[int, ...] = (2, 2, 1)) -> Split:
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1) * np.ones(shape, dtype=np.uint8)
    return Split(images, np.arange(count, dtype=np.int64))


@pytest.fixture
def no_folders(tmp_path, monkeypatch):
    """Only files that the test creates are found."""
    monkeypatch.delenv("CNN_DATA_DIR", raising=False)
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def write_mnist(folder: Path, images: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in MNIST_NAMES:
        shape = (images, 28, 28) if "images" in name else (images,)
        header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        (folder / name).write_bytes(header + bytes(int(np.prod(shape))))
    return folder


# ------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int64), r"shape \(2, 3, 3\)"),
        (np.zeros((2, 3, 3, 1), np.float16), np.zeros(2, np.int64), "float16"),
        (np.zeros((2, 0, 3, 1), np.uint8), np.zeros(2, np.int64), r"\(2, 0, 3, 1\)"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.float32), "type float32"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros((2, 1), np.int64), r"\(2, 1\)"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int64), "2 images and 3 labels"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.array([0, -1]), "smallest label is -1"),
    ],
)
def test_split_says_the_numbers_that_do_not_fit(images, labels, message):
    with pytest.raises(DataError, match=message):
        Split(images, labels)


def test_take_copies_in_order():
    split = make_split()
    taken = split.take([3, 1, 3])
    assert taken.labels.tolist() == [3, 1, 3]
    assert taken.images[:, 0, 0, 0].tolist() == [3, 1, 3]
    taken.images[:] = 0
    assert split.images[3, 0, 0, 0] == 3
    assert len(split.take([])) == 0
    for wrong, message in (([10], "from 10 to 10"), ([-1], "from -1 to -1"), ([[1]], r"shape \(1, 1\)")):
        with pytest.raises(UsageError, match=message):
            split.take(wrong)


def test_hold_out_parts_at_random_by_the_generator():
    split = make_split(100)
    train, validation = split.hold_out(0.2, np.random.default_rng(1))
    assert (len(train), len(validation)) == (80, 20)
    assert sorted([*train.labels, *validation.labels]) == list(range(100))
    again = split.hold_out(0.2, np.random.default_rng(1))[1]
    other = split.hold_out(0.2, np.random.default_rng(2))[1]
    assert validation.labels.tolist() == again.labels.tolist() != other.labels.tolist()
    assert validation.labels.tolist() != list(range(20))


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, 0.01, 0.99, float("nan")])
def test_hold_out_refuses_an_empty_part(fraction):
    with pytest.raises(UsageError, match=f"{fraction} of 10 images"):
        make_split().hold_out(fraction, np.random.default_rng(0))


def test_dataset_checks_its_splits_against_each_other():
    good = make_split()
    classes = tuple("0123456789")
    assert Dataset("x", good, good, classes).shape == (2, 2, 1)
    for train, test, names, message in (
        (good, make_split(shape=(3, 2, 1)), classes, r"\(2, 2, 1\), test images \(3, 2, 1\)"),
        (good, good.take([]), classes, "test split is empty"),
        (good, good, classes[:9], "label is 9, but there are 9 classes"),
    ):
        with pytest.raises(DataError, match=message):
            Dataset("x", train, test, names)


# ------------------------------------------------------------------------------------------------------------- folders


def test_search_order(monkeypatch, tmp_path):
    monkeypatch.setenv("CNN_DATA_DIR", "/from/env")
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path))
    expected = [Path("/named"), Path("/from/env"), tmp_path / "data", Path("/extra")]
    assert search_folders("/named", [Path("/extra")]) == expected
    monkeypatch.delenv("CNN_DATA_DIR")
    assert search_folders() == [tmp_path / "data"]


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("CNN_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(CnnError, match="no home folder; set CNN_CACHE_DIR to a folder for"):
        cache_folder()
    monkeypatch.setenv("CNN_CACHE_DIR", "/own")
    assert cache_folder() == Path("/own")


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("CNN_CACHE_DIR", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("CNN_CACHE_DIR")
    assert cache_folder() == Path("/xdg/cnn")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/someone/.cache/cnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/someone/.cache/cnn")


def test_the_first_folder_that_holds_the_set_wins(no_folders, monkeypatch):
    for count, place in ((1, "named"), (2, "env/mnist"), (3, "cache/data/mnist")):
        write_mnist(no_folders / place, count)
    monkeypatch.setenv("CNN_DATA_DIR", str(no_folders / "env"))
    assert len(load_dataset("mnist", data_dir=no_folders / "named").train) == 1
    assert len(load_dataset("mnist").train) == 2
    monkeypatch.delenv("CNN_DATA_DIR")
    assert len(load_dataset("mnist").train) == 3


def test_absent_set_names_folders_and_cure(no_folders):
    with pytest.raises(DataError, match=r'mnist is not in .*cache/data; run "cnn data get mnist" or name its folder'):
        load_dataset("mnist")
    (write_mnist(no_folders / "cache/data/mnist") / MNIST_NAMES[1]).unlink()
    with pytest.raises(DataError, match="has only train-images-idx3-ubyte, t10k-images-idx3-ubyte, t10k-labels"):
        load_dataset("mnist")
    (no_folders / "cifar-10-batches-bin").mkdir()
    (no_folders / "cifar-10-batches-bin" / "data_batch_1.bin").touch()
    with pytest.raises(DataError, match=r"lacks data_batch_2\.bin, data_batch_3\.bin"):
        load_dataset("cifar10", data_dir=no_folders)


def test_named_folder_that_does_not_exist(no_folders):
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_dataset("mnist", data_dir=no_folders / "nowhere")


@pytest.mark.parametrize("name", ["mnist-5k", "synthetic"])
def test_a_folder_named_for_a_set_that_reads_none_is_refused(name, no_folders):
    with pytest.raises(UsageError, match=f"{name} is built in and reads nothing in .*; leave --data-dir out"):
        load_dataset(name, data_dir=no_folders)
    with pytest.raises(UsageError, match="has no setting 'sice'"):
        load_dataset("folder", data_dir=no_folders, sice=3)


def test_unknown_name_lists_the_known():
    with pytest.raises(UsageError, match=r"no data set 'mnits'; did you mean 'mnist'\? Known are: .*mnist-5k"):
        load_dataset("mnits")


def test_mnist_files_are_not_taken_for_fashion_mnist(no_folders, monkeypatch):
    write_mnist(no_folders / "flat")
    mnist = plugins.load(plugins.DATASETS, "mnist")
    digests = tuple(hashlib.sha256((no_folders / "flat" / name).read_bytes()).hexdigest() for name in MNIST_NAMES)
    assert load_dataset("fashion-mnist", data_dir=no_folders / "flat").notes
    monkeypatch.setattr(mnist, "content", digests)
    assert load_dataset("mnist", data_dir=no_folders / "flat").notes == ()
    with pytest.raises(DataError, match="holds mnist, not fashion-mnist"):
        load_dataset("fashion-mnist", data_dir=no_folders / "flat")


# ---------------------------------------------------------------------------------------------------- status, download


def test_status_of_every_set_without_loading_one(no_folders, monkeypatch):
    monkeypatch.setattr(np, "frombuffer", lambda *_, **__: pytest.fail("read an image"))
    listed = {status.name: status for status in list_datasets()}
    assert set(listed) >= OWN
    for name in OWN:
        status = listed[name]
        assert status.summary != "no description"
        assert status.licence != "not stated"
        assert status.present == bool(status.where) == (not status.reason)
    assert listed["mnist-5k"].where == "built in"
    assert not listed["mnist"].present
    assert "cnn data get mnist" in listed["mnist"].reason
    write_mnist(no_folders / "cache/data/mnist")
    assert dataset_status("mnist").where == str(no_folders / "cache/data/mnist")


def test_download_goes_to_the_cache_or_the_named_folder(no_folders, monkeypatch):
    fetched = []
    monkeypatch.setattr(dataset_module, "fetch", lambda file, folder: fetched.append((file.path, folder)))
    assert download_dataset("cifar100") == no_folders / "cache/data"
    assert download_dataset("cifar10", data_dir=no_folders / "mine") == no_folders / "mine"
    assert fetched == [
        ("cifar-100-binary.tar.gz", no_folders / "cache/data"),
        ("cifar-10-binary.tar.gz", no_folders / "mine"),
    ]
    with pytest.raises(DataError, match="synthetic has no download"):
        download_dataset("synthetic")


def test_load_downloads_only_what_is_absent(no_folders, monkeypatch):
    def fake(file, folder):
        fetched.append(file.path)
        write_mnist(folder / "mnist")

    fetched: list[str] = []
    monkeypatch.setattr(dataset_module, "fetch", fake)
    for _ in range(2):
        assert len(load_dataset("mnist", data_dir=no_folders / "new", download=True).train) == 3
    assert fetched == [f"mnist/{name}.gz" for name in MNIST_NAMES]


TOY = """
import numpy as np
from cnn.data.dataset import Dataset, DatasetPlugin, Split

class Toy(DatasetPlugin):
    name = "toy"

    def load(self, folders):
        split = Split(np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1]))
        return Dataset(self.name, split, split, ("a", "b"))

class Broken:
    pass
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A third party's distribution on the path."""
    (tmp_path / "toy_sets.py").write_text(TOY)
    info = tmp_path / "toy_sets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-sets\nVersion: 1.0\n")
    points = ("toy = toy_sets:Toy", "toy-broken = toy_sets:Broken", "toy-absent = toy_sets:Absent")
    (info / "entry_points.txt").write_text("\n".join(["[cnn.datasets]", *points, ""]))
    monkeypatch.syspath_prepend(tmp_path)


def test_a_third_partys_set_is_one_small_class(toy):
    assert len(load_dataset("toy").train) == 4
    assert dataset_status("toy").present
    with pytest.raises(DataError, match="toy has no download"):
        download_dataset("toy")


def test_a_broken_plug_in_does_not_break_the_list(toy):
    listed = {status.name: status for status in list_datasets()}
    assert listed["toy"].present
    assert "not a subclass of DatasetPlugin" in listed["toy-broken"].reason
    assert "cannot be loaded" in listed["toy-absent"].reason
    with pytest.raises(CnnError, match="not a subclass of DatasetPlugin"):
        load_dataset("toy-broken")


# ------------------------------------------------------------------------------------------------------------ the sets


def test_mnist_5k_is_the_default_and_needs_nothing(no_folders):
    dataset = load_dataset()
    assert dataset.name == DEFAULT_DATASET == "mnist-5k"
    assert dataset.shape == (28, 28, 1)
    assert np.bincount(dataset.train.labels).tolist() == [400] * 10
    assert np.bincount(dataset.test.labels).tolist() == [100] * 10
    # The digits take turns, so that any stretch of the file is balanced.
    assert dataset.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    digests = [hashlib.sha256(split.images.tobytes()).hexdigest()[:16] for split in (dataset.train, dataset.test)]
    assert digests == ["5e77c51b65c39a4c", "e496e676b11588f6"]
    assert len({image.tobytes() for split in (dataset.train, dataset.test) for image in split.images}) == 5000


def test_mnist_5k_files_are_packed_without_a_time_stamp():
    folder = Path(__file__).parents[1] / "datasets" / "mnist-5k"
    packed = sorted(folder.glob("*.gz"))
    assert len(packed) == 4
    for path in packed:
        assert path.read_bytes()[4:8] == bytes(4)
    assert "Attribution-ShareAlike 3.0" in " ".join((folder / "LICENSE").read_text().split())


def test_synthetic_is_seeded_and_can_be_learnt():
    kind = plugins.load(plugins.DATASETS, "synthetic")
    first, second, other = (kind(seed=seed).load([]) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert not np.array_equal(first.train.images, other.train.images)
    small = kind(shape=(9, 7, 3), classes=4, train=50, test=20).load([])
    assert small.train.images.shape == (50, 9, 7, 3)
    assert small.test.images.shape == (20, 9, 7, 3)
    assert set(np.bincount(small.train.labels)) == {12, 13}
    # The mean training image of a class, as a classifier, does far better than chance.
    means = np.stack([first.train.images[first.train.labels == label].mean(axis=0) for label in range(10)])
    distances = ((first.test.images[:, None].astype(float) - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == first.test.labels).mean() > 0.6
    for wrong, message in (
        ({"classes": 1}, "1 classes"),
        ({"train": 0}, "0 training"),
        ({"shape": (0, 1, 1)}, r"shape is \(0, 1, 1\)"),
        ({"noise": -1.0}, "noise is -1.0"),
    ):
        with pytest.raises(UsageError, match=message):
            kind(**wrong)


def paint(path: Path, size: tuple[int, int], value: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), value if mode == "L" else (value, 0, 0)).save(path)


def test_folder_with_a_test_folder(tmp_path):
    for value, name in ((10, "ant"), (20, "bee")):
        for number in range(3):
            paint(tmp_path / "train" / name / f"{number}.png", (4, 6), value + number)
        paint(tmp_path / "test" / name / "0.PNG", (4, 6), value + 9)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    dataset = load_dataset("folder", data_dir=tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert dataset.shape == (4, 6, 3)
    assert dataset.train.images[:, 0, 0, 0].tolist() == [10, 11, 12, 20, 21, 22]
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.images[:, 0, 0, 0].tolist() == [19, 29]
    (note,) = dataset.notes
    assert note.startswith("left out of train, no image by their suffix (.bmp, .gif, ")
    assert note.endswith("): ant/notes.txt")
    paint(tmp_path / "test" / "cow" / "0.png", (4, 6), 1)
    with pytest.raises(DataError, match=r"classes cow of .*test have no counterpart in .*train \(there are ant, bee\)"):
        load_dataset("folder", data_dir=tmp_path)


def test_folder_without_a_test_folder_holds_a_fifth_of_each_class_out(tmp_path):
    for name, count in (("ant", 10), ("bee", 5)):
        for number in range(count):
            paint(tmp_path / name / f"{number}.png", (4, 4), number, mode="L")
    dataset = load_dataset("folder", data_dir=tmp_path)
    assert dataset.shape == (4, 4, 1)
    assert np.bincount(dataset.train.labels).tolist() == [8, 4]
    assert np.bincount(dataset.test.labels).tolist() == [2, 1]
    assert dataset.notes == ("no test folder: 3 of 15 images held out for testing, seed 0",)
    again = load_dataset("folder", data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.test.images, again.test.images)


def test_folder_resizes_and_colours_with_a_note_or_refuses(tmp_path):
    for name in ("ant", "bee"):
        for number in range(5):
            paint(tmp_path / name / f"{number}.png", (4, 6), 100)
    paint(tmp_path / "bee" / "5.png", (8, 8), 100)
    paint(tmp_path / "bee" / "6.png", (4, 6), 100, mode="L")
    with pytest.raises(
        DataError, match=r"have 2 sizes \(4x6, 8x8\); say to which .* --image-size HxW, or size=\(H, W\)"
    ):
        load_dataset("folder", data_dir=tmp_path)
    dataset = load_dataset("folder", data_dir=tmp_path, otherwise=(4, 6))
    assert dataset.shape == (4, 6, 3)
    assert dataset.notes[1:] == (
        "the images have 2 sizes; all become 4x6, unless --image-size HxW says another",
        "1 of 12 images resized to 4x6 pixels, with the middle cut out (--resize)",
        "1 of 12 images converted from grey to colour",
    )
    kind = plugins.load(plugins.DATASETS, "folder")
    with pytest.raises(DataError, match=r"5\.png would be resized to 4x6 pixels"):
        kind(size=(4, 6), strict=True).load([tmp_path])
    assert kind(size=(3, 3)).load([tmp_path]).shape == (3, 3, 3)
    with pytest.raises(UsageError, match="size"):
        kind(size=(0, 3))


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "Validation", "TEST")])
def test_folder_uses_its_own_validation_images(tmp_path, names):
    for part, name in enumerate(names):
        for value, label in ((10, "ant"), (20, "bee")):
            paint(tmp_path / name / label / "0.png", (4, 4), value + part, mode="L")
    dataset = load_dataset("folder", data_dir=tmp_path)
    splits = dataset.train, dataset.validation, dataset.test
    assert [split.images[:, 0, 0, 0].tolist() for split in splits] == [[10, 20], [11, 21], [12, 22]]
    assert all(split.classes == ("ant", "bee") for split in splits)
    assert dataset.notes == ()
    paint(tmp_path / names[1] / "cow" / "0.png", (4, 4), 0)
    with pytest.raises(DataError, match=r"classes cow of .* have no counterpart"):
        load_dataset("folder", data_dir=tmp_path)
    paint(tmp_path / "training" / "ant" / "0.png", (4, 4), 0)
    with pytest.raises(DataError, match="training; name one of them train"):
        load_dataset("folder", data_dir=tmp_path)


def test_folder_says_what_it_leaves_out_and_why(tmp_path):
    for name in ("ant", "bee"):
        for number in range(5):
            paint(tmp_path / "train" / name / f"{number}.png", (4, 4), 100)
        paint(tmp_path / "test" / name / "0.jfif.png", (4, 4), 100)
        (tmp_path / "test" / name / "0.jfif.png").rename(tmp_path / "test" / name / "0.jfif")
    train = tmp_path / "train"
    (train / "cow").mkdir()
    paint(train / "dog" / "small" / "0.png", (4, 4), 100)
    paint(train / "ant" / "old" / "0.png", (4, 4), 100)
    (train / "ant" / "5.avif").touch()
    (train / "ant" / "Thumbs.db").touch()
    (train / "ant" / "6.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "more").mkdir()
    dataset = load_dataset("folder", data_dir=tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (10, 2)
    notes = " | ".join(dataset.notes)
    assert notes.count("left out of train, ") == 6
    for words in (
        "empty: cow",
        "with images one level deeper; move them up: dog",
        "folders in a class; only images directly in it are read: ant/old",
        "): ant/5.avif",
        "links that lead nowhere: ant/6.png",
        "beside the folder of training images: more",
    ):
        assert words in notes


def test_folder_without_classes(no_folders):
    with pytest.raises(DataError, match="0 folders with images, but at least 2"):
        load_dataset("folder", data_dir=no_folders)
    paint(no_folders / "only" / "0.png", (4, 4), 1)
    with pytest.raises(DataError, match=r"1 folder with images \(only\), but at least 2"):
        load_dataset("folder", data_dir=no_folders)
    paint(no_folders / "second" / "0.png", (4, 4), 1)
    with pytest.raises(DataError, match="too few images"):
        load_dataset("folder", data_dir=no_folders)
    assert "folder is not in" in dataset_status("folder").reason


# ---------------------------------------------------------------------------------------------------------- real files


def real(name: str) -> Dataset:
    """The real set from CNN_DATA_DIR or the operating system's folder; skips with the reason if it is missing."""
    status = dataset_status(name, data_dir=os.environ.get("CNN_DATA_DIR"))
    if not status.present:
        pytest.skip(status.reason)
    return load_dataset(name)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_idx_files(name):
    dataset = real(name)
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert dataset.shape == (28, 28, 1)
    assert dataset.notes == ()
    assert dataset.train.labels[:4].tolist() == {"mnist": [5, 0, 4, 1], "fashion-mnist": [9, 0, 0, 3]}[name]


def test_mnist_5k_is_a_part_of_the_real_training_set():
    train = real("mnist").train
    known = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    subset = load_dataset("mnist-5k")
    for split in (subset.train, subset.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert known[image.tobytes()] == label


def test_real_cifar10():
    dataset = real("cifar10")
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    # The channel means that the field has long published: red, green, blue.
    means = dataset.train.images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-4)
    assert all("not the official files of cifar10 (MD5)" in note for note in dataset.notes)
