"""The model as a whole: construction, predictions, accuracy, and the file it is saved in."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.ready_backends import ready

from cnn.data.dataset import Split
from cnn.data.preprocessing import Preprocessing
from cnn.errors import CnnError, FileFormatError, ShapeError, UsageError
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear, MaxPool2D
from cnn.losses import MeanSquaredError
from cnn.model.modelfile import load_model, save_model
from cnn.model.sequential import Sequential
from cnn.precision import PRECISIONS
from cnn.registry import create
from cnn.system.storage import read_arrays, save_arrays


def small(**settings):
    layers = [Conv2D(4, 3, activation="relu"), BatchNorm(), MaxPool2D(2), Flatten(), Dropout(0.5), Linear(3)]
    return Sequential(layers, (8, 8, 2), **{"backend": "numpy", **settings})


def pixels(count, shape=(8, 8, 2)):
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def identity(**settings):
    """A model whose scores are the three pixels of an image."""
    net = Sequential([Flatten(), Linear(3)], (1, 3, 1), backend="numpy", **settings)
    net.load_state({"linear1.weight": np.eye(3, dtype=net.dtype), "linear1.bias": np.zeros(3, net.dtype)})
    return net


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sequential([], (8, 8, 1)), UsageError, "at least one layer"),
        (lambda: Sequential([Conv2D(3, 3)], (8, 8, 1)), ShapeError, r"gives \(6, 6, 3\) for 108 classes"),
        (lambda: Sequential([Flatten(), Linear(3)], (8, 8)), ShapeError, r"\(H, W, C\) .* not \(8, 8\)"),
        (lambda: Sequential([Flatten(), Linear(3)], (8, 0, 1)), ShapeError, r"not \(8, 0, 1\)"),
        (lambda: small(classes=["a", "b"]), ShapeError, r"\(3,\) for 2 classes"),
        (lambda: small(backend="none"), UsageError, "no backend 'none'"),
        (lambda: small(precision="float16"), UsageError, "no precision 'float16'; did you mean 'bfloat16'?"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_images_of_another_size_are_refused_with_both_sizes():
    for use in (small().predict, small().load_images):
        with pytest.raises(ShapeError, match=r"built for images of \(8, 8, 2\), but these are \(9, 8, 2\) uint8"):
            use(pixels(2, (9, 8, 2)))
    with pytest.raises(ShapeError, match=r"but these are .* int16; give pixels as uint8, uint16, float32 or float64"):
        small().load_images(pixels(2).astype(np.int16))
    with pytest.raises(ShapeError, match=r"takes inputs \(N, 8, 8, 2\), not \(2, 9, 8, 2\)"):
        small().forward(np.zeros((2, 9, 8, 2), np.float32))


def test_predictions_are_the_softmax_of_the_forward_pass():
    net, images = small(), pixels(7)
    scores = net.forward(net.load_images(images)).copy()
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    got = net.predict(images, batch_size=3)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    assert net.predict(images[:0]).shape == (0, 3)


def test_loss_and_accuracy_worked_by_hand_do_not_depend_on_the_batch_size():
    # Scores are pixels / 256: 0, 0.5 and 0.25, in this order for every image, so that class 1 is always the answer.
    split = Split(
        np.tile(np.array([0, 128, 64], np.uint8).reshape(1, 1, 3, 1), (5, 1, 1, 1)), np.array([1, 1, 0, 2, 1])
    )
    total = np.log(1 + np.exp(0.5) + np.exp(0.25))
    for batch_size in (1, 2, 5, 100):
        loss, accuracy = identity().evaluate(split, batch_size=batch_size)
        assert loss == pytest.approx(total - (3 * 0.5 + 0 + 0.25) / 5, rel=1e-6)
        assert accuracy == 3 / 5
    # Targets 1 at the label and 0 elsewhere; the mean over three outputs.
    errors = [0.25 + 0.0625, 0.25 + 0.0625, 1 + 0.25 + 0.0625, 0.25 + 0.5625, 0.25 + 0.0625]
    assert identity(loss=MeanSquaredError()).evaluate(split)[0] == pytest.approx(sum(errors) / 15, rel=1e-6)


def test_evaluation_refuses_an_empty_split_and_unknown_labels():
    with pytest.raises(UsageError, match="has no images"):
        small().evaluate(Split(pixels(0), np.zeros(0, np.int64)))
    with pytest.raises(UsageError, match="label 3, but net has only 3 classes"):
        small().evaluate(Split(pixels(2), np.array([0, 3])))


def test_the_first_place_that_is_not_finite_is_named():
    net = small()
    net.forward(net.load_images(pixels(2)))
    assert net.network.first_non_finite() is None
    net.layers[1].gamma.value[2] = np.nan
    assert net.network.first_non_finite() == "the parameter batchnorm1.gamma"
    net.layers[1].gamma.value[2] = net.layers[1].beta.value[2] = 3e38
    net.layers[0].w.value[:] = 1
    with np.errstate(all="ignore"):
        net.forward(net.load_images(pixels(2)))
    assert net.network.first_non_finite() == "the output of batchnorm1"


def test_a_float64_network_computes_in_float64():
    net = small(precision="float64")
    assert {array.dtype for array in net.arrays().values()} == {np.dtype(np.float64)}
    assert net.train_step(pixels(4), np.array([0, 1, 2, 0]))[0] > 0
    assert {parameter.gradient.dtype for parameter in net.parameters} == {np.dtype(np.float64)}
    assert net.predict(pixels(2)).dtype == np.float64
    np.testing.assert_allclose(net.predict(pixels(2)).sum(axis=1), 1, rtol=1e-14)


def test_the_seed_decides_the_weights():
    first, again, other = (small(seed=seed).state() for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["conv1.weight"], other["conv1.weight"])


def test_state_is_a_copy_with_parameters_and_statistics():
    net = small()
    state = net.state()
    assert {name: array.shape for name, array in state.items()} == {
        "conv1.weight": (3, 3, 2, 4),
        "conv1.bias": (4,),
        "batchnorm1.gamma": (4,),
        "batchnorm1.beta": (4,),
        "batchnorm1.running_mean": (4,),
        "batchnorm1.running_variance": (4,),
        "linear1.weight": (36, 3),
        "linear1.bias": (3,),
    }
    kept = net.layers[0].w.value.copy()
    state["conv1.weight"][:] = 7
    assert np.array_equal(net.layers[0].w.value, kept)
    net.load_state(state)
    assert (net.layers[0].w.value == 7).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv1.bias"), "not those of net: conv1.bias"),
        (lambda state: state.update(extra=np.zeros(1)), "not those of net: extra"),
        (lambda state: state.update({"conv1.bias": np.zeros(5, np.float32)}), r"float32 \(5,\), but net .* \(4,\)"),
        (lambda state: state.update({"conv1.bias": np.zeros(4)}), r"float64 \(4,\), but net has float32 \(4,\)"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    net = small()
    state = {name: array + 1 for name, array in net.state().items()}
    before = net.state()
    change(state)
    with pytest.raises(FileFormatError, match=message):
        net.load_state(state)
    assert all(np.array_equal(array, before[name]) for name, array in net.state().items())


@pytest.fixture
def trained():
    """A model with a mean image, class names, its own loss, and running statistics other than the first ones."""
    split = Split(pixels(9), np.arange(9) % 3)
    net = small(
        name="mine",
        classes=["a", "b", "ö"],
        loss=MeanSquaredError(-1, 1),
        preprocessing=Preprocessing.mean_image(split),
    )
    net.train_step(split.images, split.labels)
    return net


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_saved_network_reads_back_to_the_same_bytes_and_predictions(precision, tmp_path, trained):
    net = small(
        precision=precision,
        preprocessing=trained.preprocessing,
        classes=trained.classes,
        loss=trained.loss,
        name="mine",
    )
    net.train_step(pixels(9), np.arange(9) % 3)
    save_model(net, tmp_path / "net")
    again = load_model(str(tmp_path / "net"), backend="numpy")
    assert (again.name, again.classes, again.loss) == (net.name, net.classes, net.loss)
    assert (again.precision, again.dtype) == (net.precision, net.dtype)
    assert again.config() == net.config()
    assert again.preprocessing == net.preprocessing
    assert again.preprocessing.mean.shape == (8, 8, 2)
    for name, array in net.state().items():
        assert again.state()[name].tobytes() == array.tobytes()
    assert again.predict(pixels(5)).tobytes() == net.predict(pixels(5)).tobytes()
    save_model(again, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "net").read_bytes()


def edited(change):
    """Damages a model file by a change to its arrays and table."""

    def damage(path):
        arrays, table = read_arrays(path, "model")
        change(arrays, table)
        save_arrays(path, table.pop("kind"), arrays, table)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "There is no model file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "is damaged"),
        (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "is damaged"),
        (edited(lambda arrays, table: table.update(kind="checkpoint")), r"is not a model file \(checkpoint\)"),
        (edited(lambda arrays, table: table.update(version=9)), "format version 9"),
        (edited(lambda arrays, table: table.pop("layers")), "does not describe a model"),
        (edited(lambda arrays, table: table.update(layers=3)), "does not describe a model"),
        (edited(lambda arrays, table: table["layers"][0].update(type="Conv9D")), "no layer 'Conv9D'"),
        (edited(lambda arrays, table: table["layers"][0].update(filters="4")), "filters must be int"),
        (edited(lambda arrays, table: table["layers"].pop()), "does not describe a model"),
        (edited(lambda arrays, table: table.update(dtype="float33")), "does not describe a model"),
        (edited(lambda arrays, table: table.update(name=3)), "name must be str"),
        (edited(lambda arrays, table: table.update(input=[8.0, 8, 2])), "does not describe a model"),
        (edited(lambda arrays, table: table.update(classes="abc")), "does not describe a model"),
        (edited(lambda arrays, table: table.update(loss=None)), "loss must be a table"),
        (edited(lambda arrays, table: table.update(more=None)), "does not describe a model"),
        (edited(lambda arrays, table: arrays["conv1.weight"].fill(np.nan)), "conv1.weight in .* not finite"),
        (edited(lambda arrays, table: table.update(input=[8, 8])), "does not describe a model"),
        (edited(lambda arrays, table: table.update(preprocessing={})), "preprocessing"),
        (edited(lambda arrays, table: arrays.pop("linear1.bias")), "not those of mine: linear1.bias"),
        (edited(lambda arrays, table: arrays.update(x=np.zeros(2))), "not those of mine: x"),
        (edited(lambda arrays, table: arrays.update({"conv1.bias": np.zeros(4)})), "conv1.bias is stored as float64"),
    ],
)
def test_a_damaged_model_file_is_refused_in_one_sentence(damage, message, tmp_path, trained):
    path = tmp_path / "net"
    save_model(trained, path)
    damage(path)
    with pytest.raises(FileFormatError, match=message) as caught:
        load_model(path, backend="numpy")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_model_that_is_not_finite_is_not_saved(tmp_path):
    net = small()
    net.parameters[0].value.fill(np.inf)
    with pytest.raises(CnnError, match=r"was not saved: conv1\.weight has values that are not finite"):
        save_model(net, tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_backend_that_does_not_exist_is_not_blamed_on_the_file(tmp_path, trained):
    save_model(trained, tmp_path / "net")
    with pytest.raises(UsageError, match="no backend 'none'"):
        load_model(tmp_path / "net", backend="none")
    assert load_model(tmp_path / "net", backend=create("numpy")).backend is create("numpy")


@pytest.mark.parametrize("name", ["numpy", "mkl", "openblas"])
def test_threads_that_share_a_model_get_the_probabilities_of_one(name):
    net = small(backend=ready(name))
    batches = [pixels(size) for size in (1, 3, 3, 8, 5) * 12]
    expected = [net.predict(each) for each in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(net.predict, batches))
    assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]


@pytest.mark.parametrize("size", [0, -1, 64.0, True, "8"])
def test_a_batch_size_that_is_no_whole_number_of_at_least_1_is_refused(size):
    split = Split(pixels(2), np.array([0, 1]))
    for use in (lambda: small().predict(pixels(2), batch_size=size), lambda: small().evaluate(split, batch_size=size)):
        with pytest.raises(UsageError, match=f"whole number of at least 1, not {size!r}"):
            use()


def test_images_that_are_no_array_are_refused():
    with pytest.raises(ShapeError, match=r"as a NumPy array \(N, 8, 8, 2\), not as a list"):
        small().load_images(pixels(2).tolist())
    with pytest.raises(ShapeError, match=r"these are \(9, 8, 2\)"):
        small().predict(pixels(0, (9, 8, 2)))
