"""Arrays as people have them: layouts, types, strides, labels of any kind, other libraries' data sets, files."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

import cnn
from cnn.data.conversion import as_images, as_labels
from cnn.data.pixels import kind_of
from cnn.data.preprocessing import Preprocessing
from cnn.data.stored import StoredImages
from cnn.errors import CnnError, DataError, UsageError
from cnn.training.notebook import NotebookBar

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 6, 6, 3), np.uint8)
LABELS = RNG.permutation(np.arange(60) % 2)
PIXELS[..., 0] = PIXELS[..., 0] // 2 + 120 * LABELS[:, None, None].astype(np.uint8)
PIXELS[0, 0, 0], PIXELS[1, 0, 0] = 0, 255


def net(classes=2, shape=(6, 6, 3), **settings):
    layers = [cnn.Conv2D(4, 3, activation="relu"), cnn.Flatten(), cnn.Linear(classes)]
    return cnn.Sequential(layers, shape, backend="numpy", seed=1, **settings)


def learnt(images, labels=LABELS, epochs=30, **settings):
    """The accuracy of a model that learns these images by heart."""
    model = net(**settings.pop("model", {}))
    cnn.fit(model, images, labels, epochs=epochs, batch_size=10, schedule=0.1, **settings)
    return model.evaluate(images, labels, layout=settings.get("layout", "NHWC"))[1]


FORMS = {
    "uint8": PIXELS,
    "uint16": PIXELS.astype(np.uint16) * 257,
    "0 to 1": PIXELS.astype(np.float32) / 255,
    "float64": PIXELS / 255,
    "-1 to 1": PIXELS.astype(np.float32) / 127.5 - 1,
    "float16": (PIXELS / 255).astype(np.float16),
    "big-endian": (PIXELS / 255).astype(">f4"),
    "int64": PIXELS.astype(np.int64),
    "large": PIXELS.astype(np.int32) * 1000 - 7,
    "reversed": PIXELS[:, ::-1, ::-1],
    "Fortran": np.asfortranarray(PIXELS),
    "lists": PIXELS.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_learns_images_of_every_type_and_stride(form):
    assert learnt(FORMS[form]) >= 0.95


def test_layouts_are_the_same_images():
    first = as_images(PIXELS)
    assert first is PIXELS
    np.testing.assert_array_equal(as_images(PIXELS.transpose(0, 3, 1, 2), layout="NCHW"), PIXELS)
    assert as_images(PIXELS[..., 0]).shape == (60, 6, 6, 1)
    assert as_images(PIXELS.reshape(60, -1), shape=(6, 6, 3)).shape == PIXELS.shape
    assert as_images(PIXELS[0], shape=(6, 6, 3)).shape == (1, 6, 6, 3)
    assert as_images(PIXELS > 99).dtype == np.uint8
    model = net()
    expected = model.predict(PIXELS)
    for same in (PIXELS.reshape(60, -1), iter([PIXELS[:25], PIXELS[25:]])):
        np.testing.assert_array_equal(model.predict(same), expected)
    np.testing.assert_array_equal(model.predict(PIXELS.transpose(0, 3, 1, 2), layout="NCHW"), expected)
    np.testing.assert_allclose(model.predict(PIXELS[3])[0], expected[3], rtol=1e-4)


@pytest.mark.parametrize("form", ["arrays", "pair", "batches", "split"])
def test_channels_first_are_turned_once_in_whatever_form_images_come(form):
    square = np.random.default_rng(3).integers(0, 256, (8, 3, 3, 3), np.uint8)
    labels, turned = np.arange(8) % 2, square.transpose(0, 2, 3, 1)
    first = {
        "arrays": (square, labels),
        "pair": ((square, labels),),
        "batches": (iter([(square[:5], labels[:5]), (square[5:], labels[5:])]),),
    }
    model = cnn.Sequential([cnn.Flatten(), cnn.Linear(2)], (3, 3, 3), backend="numpy", seed=1)
    if form == "split":
        np.testing.assert_array_equal(cnn.Split.of(square, labels, layout="NCHW").images[:], turned)
    else:
        np.testing.assert_array_equal(model.split_of(*first[form], layout="NCHW").images[:], turned)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["dog", "cat", "dog"]), ("cat", "dog")),
        (np.array(["dog", "cat", "dog"], object), ("cat", "dog")),
        ([b"dog", b"cat", b"dog"], ("cat", "dog")),
        ([7, -2, 7], ("-2", "7")),
        (np.array([7.0, -2.0, 7.0]), ("-2", "7")),
        (np.array([[7], [-2], [7]], np.int8), ("-2", "7")),
        ([True, False, True], ("False", "True")),
        (np.array([[0, 1], [1, 0], [0, 1]]), ("0", "1")),
        (np.array([2**63, 1, 2**63], np.uint64), ("1", str(2**63))),
    ],
)
def test_labels_of_any_kind_get_numbers_and_names(labels, names):
    numbers, found = as_labels(labels)
    assert (numbers.tolist(), numbers.dtype, found) == ([1, 0, 1], np.int64, names)


def test_labels_are_looked_up_by_name_and_else_are_numbers():
    assert as_labels(["b", "a"], ["b", "a"])[0].tolist() == [0, 1]
    assert as_labels([1, 0], ["b", "a"])[0].tolist() == [1, 0]
    assert as_labels([3, 7], ["7", "3"])[0].tolist() == [1, 0]
    assert as_labels([3, 7], ["0", "1"], named=False)[1] == ("3", "7")
    for labels, classes, words in (
        (
            [3, 7],
            ["0", "1"],
            r"labels 3, 7, but 2 classes \(0, 1\); give labels of these classes, or numbers from 0 to 1",
        ),
        (["x"], ["a", "b"], "labels x, but 2 classes"),
        ([0.5, 1], None, "type float64; give whole numbers or texts"),
        ([None, "a"], None, "mixture of NoneType, str"),
        (["a", np.nan], None, "mixture of float, str"),
        ([1, "1"], None, "mixture of int, str"),
        ([True, 2], None, "mixture of bool, int"),
        (np.array([1e300, 2e300]), None, "type float64"),
        (np.ma.masked_equal([0, 1], 1), None, "masked values"),
        ([[1, 1]], None, "do not have exactly one 1"),
        ([[1, 2, 3]], None, r"shape \(1, 3\)"),
    ):
        with pytest.raises(CnnError, match=words):
            as_labels(labels, classes)


def test_a_model_takes_the_names_of_its_first_labels():
    texts = np.array(["red", "blue"])[LABELS]
    model = net()
    cnn.fit(model, PIXELS, texts, epochs=25, schedule=0.1, batch_size=10)
    assert model.classes == ("blue", "red")
    assert model.evaluate(PIXELS, texts)[1] > 0.9
    with pytest.raises(UsageError, match="labels green"):
        model.evaluate(PIXELS[:1], ["green"])


def test_a_data_set_of_arrays():
    texts = np.array(["red", "blue"])[LABELS]
    data = cnn.Dataset.from_arrays(PIXELS[:40], texts[:40], PIXELS[40:], texts[40:], validation=(PIXELS[:5], texts[:5]))
    assert data.classes == ("blue", "red")
    assert repr(data) == "Dataset(arrays: 40 training, 5 validation, 20 test images 6x6x3 uint8, 2 classes)"
    assert repr(data.test) == "Split(20 images 6x6x3 uint8, 2 classes)"
    held = cnn.Dataset.from_arrays(PIXELS, LABELS, classes=["blue", "red"])
    assert held.notes == ("no test images: 12 of 60 held out for testing, seed 0",)
    assert held.test.classes == ("blue", "red")
    model = cnn.architecture("mlp", 2).build(data=data, backend="numpy")
    assert len(cnn.fit(model, data, epochs=1)["val_loss"]) == 1
    with pytest.raises(UsageError, match="labels pink"):
        cnn.Dataset.from_arrays(PIXELS, texts, PIXELS[:1], ["pink"])


def test_shades_mean_the_same_in_every_type():
    model = net()
    cnn.fit(model, PIXELS / 255, LABELS, epochs=2)
    assert model.preprocessing.pixels == "unit"
    expected = model.predict((PIXELS / 255).astype(np.float32))
    np.testing.assert_allclose(model.predict(PIXELS), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(PIXELS.astype(np.uint16) * 257), expected, atol=1e-5)
    other = net()
    cnn.fit(other, PIXELS, LABELS, epochs=1)
    with pytest.raises(UsageError, match="takes pixels from 0 to 255, and these lie between 0 and 1; multiply them"):
        other.predict(PIXELS / 255)
    assert other.predict(PIXELS.astype(float)).tolist() == other.predict(PIXELS).tolist()
    assert len(other.predict(np.zeros((1, 6, 6, 3)))) == 1


def test_fine_shades_survive_a_file_and_16_bits(tmp_path):
    """Differences far below one 255th are learnt and kept: there is no way through 8 bits."""
    fine = 0.5 + LABELS[:, None, None, None] / 20_000 + np.zeros(PIXELS.shape)
    deep = (fine * 65535).astype(np.uint16)
    for images in (fine, deep):
        pre = Preprocessing.standardise(cnn.Split(images, LABELS), 1.0)
        model = net(preprocessing=pre)
        cnn.fit(model, images, LABELS, epochs=5, schedule=0.05)
        assert model.evaluate(images, LABELS)[1] == 1
        cnn.save_model(model, tmp_path / "m.safetensors")
        again = cnn.load_model(tmp_path / "m.safetensors", backend="numpy")
        assert again.preprocessing == model.preprocessing
        assert again.predict(images).tobytes() == model.predict(images).tobytes()


def test_kinds_of_pixels():
    for values, kind, expected in (
        ([0, 255], np.uint8, "uint8"),
        ([0, 1], np.uint16, "uint16"),
        ([0, 1], np.float32, "unit"),
        ([0, 1.01], np.float64, "number"),
        ([-0.1, 0], np.float32, "number"),
    ):
        assert kind_of(np.array(values, kind).reshape(1, 1, 2, 1)) == expected
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="NaN or infinite"):
            cnn.fit(net(), np.full((2, 6, 6, 3), bad), [0, 1], epochs=1)
        with pytest.raises(UsageError, match="NaN or infinite"):
            net().predict(np.full((2, 6, 6, 3), bad))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 3)), r"Images have shape \(2, 3\); give \(N, H, W\)"),
        (np.array(["a"]), "an array of numbers, not of <U1"),
        ([[[1]], [[1, 2]]], "cannot be made an array"),
        (np.zeros((2, 2, 2), complex), "not of complex128"),
    ],
)
def test_what_are_no_images_is_said(images, words):
    with pytest.raises(CnnError, match=words):
        as_images(images)


class Features(dict):
    """As of a data set of Hugging Face."""


class Faces:
    """A data set that gives tables by number, with names of its labels, as Hugging Face's do."""

    class _Label:
        names = ("blue", "red")

    features = Features(image=None, label=_Label())
    column_names = ("image", "label")

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, place):
        from PIL import Image

        return {"image": Image.fromarray(PIXELS[place]), "label": int(LABELS[place])}


class Tensor:
    """What looks like a tensor of PyTorch."""

    def __init__(self, array):
        self._array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return self._array


class Folderlike(Faces):
    """A data set that gives pairs by number and has classes, as torchvision's do, with tensors (C, H, W)."""

    features = column_names = None
    classes = ("blue", "red")

    def __getitem__(self, place):
        return Tensor((PIXELS[place] / 255).astype(np.float32).transpose(2, 0, 1)), int(LABELS[place])


def loader():
    for start in range(0, 60, 16):
        batch = PIXELS[start : start + 16].transpose(0, 3, 1, 2)
        yield Tensor(batch), Tensor(LABELS[start : start + 16])


@pytest.mark.parametrize(
    "source", [Faces(), Folderlike(), loader, (PIXELS, LABELS), [*zip(PIXELS, LABELS, strict=True)]]
)
def test_data_sets_of_other_libraries_and_iterables(source):
    data = cnn.Dataset.from_arrays(source() if source is loader else source, X_test=PIXELS[:9], y_test=LABELS[:9])
    scale = 1 if data.train.images.dtype == np.uint8 else 255
    np.testing.assert_allclose(data.train.images * scale, PIXELS, atol=1e-4)
    assert data.train.labels.tolist() == LABELS.tolist()
    assert data.classes == (("blue", "red") if isinstance(source, Faces) else ("0", "1"))
    assert len(cnn.fit(net(), source() if source is loader else source, epochs=1)) == 1


def test_sources_that_cannot_be_used(monkeypatch):
    for source, words in (
        ({"train": Faces(), "test": Faces()}, "This holds train, test; give one of them"),
        (iter([]), "no images; a generator can be read only once"),
        ([{"a": 1}], "An item has a; name the image"),
        ([1], "must be a pair"),
        (3, "Give images and labels, not a int"),
    ):
        with pytest.raises(CnnError, match=words):
            cnn.Dataset.from_arrays(source)
    monkeypatch.setattr("cnn.data.sources.physical_memory", lambda: 100_000)
    for endless in (
        zip(itertools.cycle(PIXELS), itertools.cycle(LABELS), strict=False),
        itertools.islice(itertools.repeat((np.uint8([[0]]), 0)), 1000),  # what Python needs for each counts, too
    ):
        with pytest.raises(DataError, match="half of this machine's memory, or have no end"):
            cnn.fit(net(), endless, epochs=1)
    monkeypatch.setattr("cnn.data.sources.MOST_EMPTY", 9)
    with pytest.raises(DataError, match="batches without images"):
        cnn.fit(net(), itertools.islice(itertools.repeat((PIXELS[:0], LABELS[:0])), 20), epochs=1)


def test_a_mapped_file_stays_a_file(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", PIXELS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    split = cnn.Split(mapped, LABELS)
    images = split.images
    assert isinstance(images, StoredImages)
    assert repr(split) == "Split(60 images 6x6x3 uint8, in a file)"
    np.testing.assert_array_equal(images[5:9], PIXELS[5:9])
    np.testing.assert_array_equal(images[[3, 1]], PIXELS[[3, 1]])
    np.testing.assert_array_equal(images[-1], PIXELS[-1])
    np.testing.assert_array_equal(images[:, 0], PIXELS[:, 0])
    np.testing.assert_array_equal(np.asarray(images), PIXELS)
    part = split.take([8, 2]).take([1])
    assert isinstance(part.images, StoredImages)
    np.testing.assert_array_equal(part.images[:], PIXELS[[2]])
    again = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(again.images[:], PIXELS[[2]])
    monkeypatch.setattr("cnn.data.stored.BLOCK", 500)  # memory is given back between images
    for make in (Preprocessing.mean_image, Preprocessing.standardise):
        assert make(split) == make(cnn.Split(PIXELS, LABELS))
    results = []
    for source in (split, cnn.Split(PIXELS, LABELS)):
        model = net()
        cnn.fit(model, source, epochs=2, validation=source, augmentation=cnn.Augmentation(True, 1), batch_size=7)
        results.append((model.predict(PIXELS).tobytes(), model.evaluate(source)))
    assert results[0] == results[1]
    stored = pickle.dumps(split)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(DataError, match=r"x\.npy"):
        pickle.loads(stored)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_what_was_read_of_a_file_is_given_back(tmp_path, monkeypatch):
    def mapped():
        [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("RssFile:")]
        return int(line.split()[1]) / 1024

    np.save(tmp_path / "x.npy", np.ones((64, 1024, 1024, 1), np.uint8))
    split = cnn.Split(np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(64) % 2)
    monkeypatch.setattr("cnn.data.stored.BLOCK", 8 << 20)
    model = cnn.Sequential([cnn.Flatten(), cnn.Linear(2)], (1024, 1024, 1), backend="numpy")
    before, most = mapped(), 0
    for batch in range(16):
        model.load_images(split.images, np.arange(4 * batch, 4 * batch + 4))
        most = max(most, mapped())
    assert most - before < 20  # of 64 MB


def test_weights_of_images_and_classes():
    split = cnn.Split(PIXELS, LABELS)
    few = cnn.Split(PIXELS[:4], np.array([0, 0, 0, 1]), ("a", "b"))
    np.testing.assert_allclose(few.weighted("balanced").weights, [2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(few.weighted({"b": 3}).weights, np.array([1, 1, 1, 3]) / 1.5)
    np.testing.assert_allclose(few.weighted({1: 3}).take([3]).weights, [1])
    model = net()
    plain, halves = (net().train_step(PIXELS, LABELS) for _ in range(2))
    assert plain == halves
    # An image that counts for nothing changes no gradient; the other ones count as in a batch without it.
    weights = np.ones(60, np.float32)
    weights[:20] = 0
    model.train_step(PIXELS, LABELS, weights=weights)
    other = net()
    other.train_step(PIXELS[20:], LABELS[20:])
    for one, two in zip(model.parameters, other.parameters, strict=True):
        np.testing.assert_allclose(one.gradient, two.gradient * 40 / 60, atol=1e-6)
    ignored = np.where(LABELS == 1, 0.0, 1.0)
    cnn.fit(model, PIXELS, LABELS, epochs=4, schedule=0.1, sample_weight=ignored)
    assert (model.predict(PIXELS).argmax(axis=1) == 0).all()
    for weight, words in (
        ("even", "give 'balanced'"),
        ([1], "must be 'balanced', or a table"),
        ({"c": 1}, "no class 'c'"),
        ({"0": -1.0}, "at least 0"),
    ):
        with pytest.raises(CnnError, match=words):
            split.weighted(weight)
    with pytest.raises(DataError, match=r"give \(60,\), one per image"):
        cnn.fit(model, PIXELS, LABELS, epochs=1, sample_weight=[1])


def test_fit_takes_a_recipe_a_rate_one_callback_and_shows_a_bar(capsys):
    class Counts(cnn.Callback):
        epochs = 0

        def on_epoch(self, trainer, result):
            self.epochs += 1

    counts, model = Counts(), net()
    recipe = cnn.Recipe(epochs=2, batch_size=30, preprocessing="mean_image")
    history = cnn.fit(model, PIXELS, LABELS, recipe=recipe, schedule=0.05, callbacks=counts, progress=True)
    assert counts.epochs == 2
    assert model.preprocessing.mean.shape == (6, 6, 3)
    assert history["learning_rate"] == [0.05, 0.05]
    assert "120/120" in capsys.readouterr().err
    assert history.table()["epoch"] == [1, 2]
    assert history[0].epoch == history[:1][0].epoch == 1
    assert repr(history).startswith("History(2 epochs: loss ")
    assert "<th>val_loss</th>" in history._repr_html_()
    assert NotebookBar(1).on_end() is None
    for words, settings in (
        ("Give epochs=N", {}),
        ("The recipe is for the loss", {"recipe": cnn.Recipe(loss="MeanSquaredError")}),
        ("recipe must be a cnn.Recipe", {"recipe": "lenet"}),
        ("fit has no setting lr", {"lr": 1, "epochs": 1}),
    ):
        with pytest.raises(UsageError, match=words):
            cnn.fit(net(), PIXELS, LABELS, **settings)
    with pytest.raises(UsageError, match="no column 'loss'"):
        _ = history["loss"]


def test_a_history_becomes_a_frame_only_where_there_is_pandas(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CnnError, match="pandas is not installed"):
        cnn.History().to_pandas()


def test_models_show_themselves():
    model = net()
    assert repr(model) == "Sequential(net: 3 layers, 242 parameters, images 6x6x3, 2 classes, numpy float32)"
    summary = model.summary()
    assert summary.splitlines()[0] == "net on images 6x6x3, 2 classes"
    assert "242 parameters, " in summary
    assert summary.splitlines()[2].split()[:3] == ["conv1", "4x4x4", "112"]
    html = net(classes=2)._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td>conv1</td>" in html
