"""Own pictures: sizes and proportions, 16 bits, the cache of decoded pictures, tables, and the commands for them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn import plugins
from cnn.cli import main
from cnn.commands._bench_data import CHANGES
from cnn.data.dataset import load_dataset
from cnn.data.grid import grid
from cnn.data.images import image_header, read_image
from cnn.data.stored import StoredImages
from cnn.errors import DataError, UsageError
from cnn.model.modelfile import load_model

FOLDER = plugins.load(plugins.DATASETS, "folder")
CACHE = __import__("sys").modules[f"{FOLDER.__module__.rpartition('.')[0]}._picture_cache"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of decoded pictures, for sets of any size."""
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CNN_DATA_DIR", raising=False)
    monkeypatch.setattr(CACHE, "SMALL_FILES", 0)
    return tmp_path / "cache" / "pictures"


def write(path, size=(8, 8), value=100, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if mode in ("L", "I;16") else (value, 0, 0)).save(path)
    return path


def pets(root, counts=(("cat", 6), ("dog", 6)), size=(8, 8), suffix="png"):
    for place, (name, count) in enumerate(counts):
        for number in range(count):
            write(root / name / f"{number}.{suffix}", size, 10 + 100 * place + number)
    return root


# ------------------------------------------------------------------------------------------------------ single files


def test_ways_to_resize(tmp_path):
    # Left third red, middle green, right third blue: 6 wide, 2 high.
    wide = np.zeros((20, 60, 3), np.uint8)
    for third in range(3):
        wide[:, 20 * third : 20 * third + 20, third] = 240
    Image.fromarray(wide).save(tmp_path / "wide.png")
    read = {way: read_image(tmp_path / "wide.png", size=(10, 10), resize=way) for way in ("crop", "pad", "stretch")}
    assert read["crop"][:, 2:8, 1].min() > 230  # only the middle is left
    assert read["crop"][:, 2:8, [0, 2]].max() < 10
    assert read["pad"][:3].max() == read["pad"][-3:].max() == 0
    assert read["pad"][4, [1, 5, 9]].argmax(axis=1).tolist() == [0, 1, 2]
    assert read["stretch"][:, [1, 5, 9]].argmax(axis=2).tolist() == [[0, 1, 2]] * 10
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "high.png")
    high = read_image(tmp_path / "high.png", size=(10, 10), resize="crop")
    np.testing.assert_array_equal(high, read["crop"].transpose(1, 0, 2))
    with pytest.raises(UsageError, match="no way to resize 'crup'; did you mean 'crop'"):
        read_image(tmp_path / "high.png", size=(2, 2), resize="crup")


def test_a_large_jpeg_is_decoded_small(tmp_path):
    image = Image.linear_gradient("L").resize((1600, 1200))
    image.save(tmp_path / "x.jpg", quality=95)
    small = read_image(tmp_path / "x.jpg", size=(30, 40)).astype(int)
    expected = np.asarray(image.resize((40, 30), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small[..., 0] - expected).max() <= 4


def test_16_bits_are_kept_or_rounded(tmp_path):
    shades = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) + np.uint16(1)
    shades[-1, -1] = 65535
    Image.fromarray(shades).save(tmp_path / "deep.png")
    Image.fromarray(shades).save(tmp_path / "deep.tif")
    write(tmp_path / "eight.png", (16, 16), 7, "L")
    for name in ("deep.png", "deep.tif"):
        assert image_header(tmp_path / name) == ((16, 16), 1, True)
        np.testing.assert_array_equal(read_image(tmp_path / name, deep=True)[..., 0], shades)
        np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0].ravel(), np.arange(256))
    assert read_image(tmp_path / "eight.png", deep=True).max() == 7 * 257
    assert read_image(tmp_path / "deep.png", channels=3, size=(4, 4), deep=True).dtype == np.uint16
    pets(tmp_path / "pets", size=(16, 16))
    for name in ("cat", "dog"):
        for number in range(6):
            write(tmp_path / "pets" / name / f"{number}.png", (16, 16), 300 * (number + 1), "I;16")
    write(tmp_path / "pets" / "cat" / "7.png", (16, 16), 7, "L")
    data = load_dataset("folder", data_dir=tmp_path / "pets")
    assert data.train.images.dtype == np.uint16
    assert "1 of 13 images converted from 8 to 16 bits" in data.notes


# ------------------------------------------------------------------------------------------------------------ cache


def test_pictures_are_decoded_once_and_mapped(cache, tmp_path, monkeypatch):
    root, read = pets(tmp_path / "pets"), []
    monkeypatch.setattr(CACHE, "read_image", lambda path, **how: (read.append(path), read_image(path, **how))[1])
    first = load_dataset("folder", data_dir=root)
    assert len(read) == 12
    monkeypatch.setattr(CACHE, "IN_MEMORY", 100)
    again = load_dataset("folder", data_dir=root)
    assert len(read) == 12
    assert isinstance(again.train.images, StoredImages)
    for one, two in ((first.train, again.train), (first.test, again.test)):
        np.testing.assert_array_equal(one.images, two.images[:])
        assert one.labels.tolist() == two.labels.tolist()
    assert first.notes == again.notes
    (old,) = cache.glob("*.npy")
    # Another way to resize has a file of its own; a changed picture replaces the old one.
    load_dataset("folder", data_dir=root, size=(4, 4))
    assert (len(read), len(list(cache.glob("*.npy")))) == (24, 2)
    write(root / "cat" / "0.png", value=99)
    os.utime(root / "cat" / "0.png", (1, 1))
    assert (
        99
        in load_dataset("folder", data_dir=root).train.images[:, 0, 0, 0].tolist()
        + load_dataset("folder", data_dir=root).test.images[:, 0, 0, 0].tolist()
    )
    assert len(read) == 36
    assert not old.exists()


TABLES = {"foreign": "{", "unfinished": "{}", "list": "[1]", "form": '{"form": [1], "notes": []}'}


@pytest.mark.parametrize("damage", ["short", "other", "gone", "old", *TABLES])
def test_a_damaged_cache_is_made_anew(damage, cache, tmp_path, monkeypatch):
    root = pets(tmp_path / "pets")
    expected = load_dataset("folder", data_dir=root).train.images
    (file,) = cache.glob("*.npy")
    (table,) = cache.glob("*.json")
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "other":
        np.save(file, np.zeros((2, 2)))
    elif damage == "gone":
        file.unlink()
    elif damage == "old":
        table.write_text(json.dumps(json.loads(table.read_text()) | {"form": [[8, -8], "x", None]}))
    else:
        table.write_text(TABLES[damage])
    np.testing.assert_array_equal(load_dataset("folder", data_dir=root).train.images, expected)
    assert not list(cache.glob(".*"))


def test_what_cannot_be_decoded_or_kept_is_said_and_leaves_nothing(cache, tmp_path, monkeypatch):
    root = pets(tmp_path / "pets")
    for name in ("1", "4"):
        path = root / "dog" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"2 images cannot be read: .*dog/1\.png.*dog/4\.png is a damaged image"):
        load_dataset("folder", data_dir=root)
    assert not list(cache.glob("*.npy")) + list(cache.glob(".*"))
    root = pets(tmp_path / "others")
    monkeypatch.setattr(CACHE.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"the 12 images need .* GB, but .* has only .* free; free space"):
        load_dataset("folder", data_dir=root)


# ------------------------------------------------------------------------------------------------------------ tables


def test_a_table_stands_for_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("CNN_DATA_DIR", raising=False)
    pets(tmp_path / "all", (("x", 12),))
    rows = [f"all/x/{number}.png,{'dog' if number % 2 else 'cat'}" for number in range(12)]
    table = tmp_path / "labels.csv"
    table.write_text("\ufefffile,label\n" + "\n".join(rows) + "\n\n")
    data = load_dataset("folder", data_dir=table)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (10, 2)
    assert sorted(data.train.images[data.train.labels == 1][:, 0, 0, 0] % 2) == [1] * 5
    parts = ["train"] * 6 + ["val"] * 2 + ["Test"] * 4
    table.write_text("Class;File;split\n" + "\n".join(
        f"{'b' if k % 2 else 'a'};all/x/{k}.png;{part}" for k, part in enumerate(parts)
    ))  # fmt: skip
    data = load_dataset("folder", data_dir=table)
    assert [len(each) for each in (data.train, data.validation, data.test)] == [6, 2, 4]
    for text, words in (
        ("a,b\n1,2\n", "columns a, b; its first line must name a column file and a column label"),
        ("", "columns none"),
        ("file,label\nall/x/0.png\n", "row 2: there must be a cell in each of 2 columns"),
        ("file,label\nnone.png,a\nall/x/0.png,b", r"files that do not exist: none\.png"),
        (f"file,label\n{'n' * 5000},a\n", "too long for this system"),
        ("file,label\nall/x/0.png,a\n", "training images of 1 class, but at least 2"),
        ("file,label,split\nall/x/0.png,a,later\n", "split is 'later'"),
        ("file,label,split\nall/x/0.png,a,train\nall/x/1.png,b,train\nall/x/2.png,c,test\n", "no training images of c"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=words):
            load_dataset("folder", data_dir=table)
    table.write_bytes(b"file,label\n\xff\xfe,a\n")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        load_dataset("folder", data_dir=table)


# ---------------------------------------------------------------------------------------------------------- commands


def test_a_folder_is_trained_on_evaluated_and_predicted(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CNN_DATA_DIR", raising=False)
    root = pets(tmp_path / "pets", (("cat", 30), ("dog", 8)), (20, 30))
    write(root / "dog" / "wide.png", (20, 60))
    net = tmp_path / "net.toml"
    net.write_text(
        'input = [10, 12, 3]\nlayers = [{type = "Flatten"}, {type = "Linear", units = 2}]\n[recipe]\nepochs = 1\n'
    )
    run = str(tmp_path / "run")
    words = ["--model", str(net), "--backend", "numpy", "--resize", "pad", "--class-weights", "balanced"]
    words += ["--random-crop", "0.5", "--flip"]
    assert main(["train", str(root), "--out", run, *words]) == 0
    said = capsys.readouterr().out
    assert "test images 10x12x3, 2 classes" in said
    assert "39 of 39 images resized to 10x12 pixels, with black added (--resize)" in said
    assert "only 7 training images of dog; expect" in said
    assert "from 7 (dog) to 24 (cat) training images; --class-weights balanced" in said
    settings = json.loads((Path(run) / "settings.json").read_text())["options"]
    assert (settings["dataset"], settings["data_dir"], settings["resize"]) == ("folder", str(root), "pad")
    assert load_model(run, backend="numpy").resize == "pad"
    # The run goes on with the same pictures and weights, and a model that is evaluated gets what it was trained on.
    assert main(["train", "--resume", "--out", run, "--epochs", "2"]) == 0
    capsys.readouterr()
    model = load_model(run, backend="numpy")
    assert main(["eval", run, str(root), "--backend", "numpy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 8
    (root / "cat" / "3.png").write_bytes(b"no image")
    assert main(["predict", run, str(root), "--backend", "numpy", "--json"]) == 1
    found = capsys.readouterr()
    assert len(json.loads(found.out)) == 38
    assert "cat/3.png cannot be read as an image" in found.err
    wide = root / "dog" / "wide.png"
    assert main(["predict", run, str(wide), "--backend", "numpy", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    expected = model.predict(read_image(wide, size=(10, 12), resize="pad"))
    assert [found["probabilities"][name] for name in model.classes] == expected[0].tolist()
    assert main(["predict", run, str(root / "dog"), "--backend", "numpy", "--top", "1"]) == 0
    assert len(capsys.readouterr().out.split("\n\n")[1].splitlines()) == 9


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "mnist-5k", "--data-dir", "."], 2, "mnist-5k is built in and reads nothing in"),
        (["train", "mnist-5k", "--image-size", "8"], 2, "--image-size is for own pictures; mnist-5k has images of one"),
        (["train", ".", "--image-size", "8x"], 2, "'8x' is not a size such as 64x48"),
        (["train", ".", "--data-dir", "."], 2, "so --data-dir . has no meaning; leave it out"),
        (["predict", "run", "."], 1, "There is no model file"),
        (["data", "show", "mnist-5k", "--out", "grid.xyz"], 2, "end it in .png or .jpg"),
        (["data", "show", "mnist-5k", "--out", "grid.png", "--count", "2000"], 2, "give at most 1000"),
    ],
)
def test_a_mistake_gets_one_sentence(words, code, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_images_are_drawn_with_their_labels(tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert main(["data", "show", "mnist-5k", "--out", str(out), "--count", "6", "--pad-crop", "2"]) == 0
    said = capsys.readouterr().out
    assert "6 of 4,000 training images, shifted by up to 2 pixels\n" in said
    assert "0 400, 1 400" in said
    with Image.open(out) as picture:
        assert picture.size == (3 * (56 + 6) + 6, 2 * (56 + 14 + 6) + 6)
    # Each image is where it belongs, in shades that fill the range.
    images = np.zeros((2, 8, 8, 1), np.float32)
    images[0], images[1, 0] = -3, 5
    drawn = np.asarray(grid(images, ["a", "a label that is far too long for an image"]))
    assert drawn[6:70, 6:70].max() < 160
    assert drawn[6 : 6 + 8, 76 : 76 + 64].min() == 255


def test_the_rate_of_decoding_and_loading_is_measured(tmp_path, capsys):
    words = ["bench", "--backend", "numpy", "--rounds", "1", "--batch-size", "4", "--threads", "1"]
    assert main([*words, "--data", str(pets(tmp_path / "pets")), "--json"]) == 0
    groups = [each["group"] for each in json.loads(capsys.readouterr().out)["results"]]
    assert groups == ["decoding, once for a set", *CHANGES]
    assert main([*words, "--data", "mnist-5k"]) == 0
    assert "4,000 images uint8, 3 MB in memory" in capsys.readouterr().out
    assert main([*words, "--data", "nowhere"]) == 2


def test_a_path_in_place_of_a_name_is_told_from_a_typing_error(tmp_path):
    with pytest.raises(UsageError, match="is a path; for your own pictures, load 'folder' with data_dir="):
        load_dataset(str(tmp_path))
