"""Training from a saved model: a new head for other classes, and layers that stay as they are."""

import numpy as np
import pytest

import cnn
from cnn.cli import main
from cnn.cost import DATA, WEIGHT, count, gradient_bytes
from cnn.layers import BatchNorm, Conv2D, Linear
from cnn.testing import check_gradients


def saved(path, *, classes=None, shape=(28, 28, 1)):
    """A small model in a file."""
    layers = [
        *(Conv2D(4, 5, 2, bias=False), BatchNorm(activation="relu"), Conv2D(6, 3, activation="relu")),
        *(cnn.MaxPool2D(2), cnn.Flatten(), Linear(5, activation="relu", name="hidden"), Linear(3)),
    ]
    pre = cnn.Preprocessing(1 / 100, [0.5])
    model = cnn.Sequential(layers, shape, classes=classes, preprocessing=pre, backend="numpy", seed=4)
    cnn.save_model(model, path)
    return model


def train(tmp_path, *options):
    common = ["--epochs", "1", "--backend", "numpy", "--out", str(tmp_path / "run")]
    return main(["train", "synthetic", "--init", str(tmp_path / "init.safetensors"), *common, *options])


def test_other_classes_get_a_new_head_and_frozen_layers_stay(tmp_path, capsys):
    before = saved(tmp_path / "init.safetensors", classes=["a", "b", "c"])
    assert train(tmp_path, "--freeze", "conv*,batchnorm1") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "with a new linear1 for 10 classes" in told
    assert "conv1, batchnorm1, conv2: 330 of" in told
    after = cnn.load_model(tmp_path / "run", backend="numpy")
    assert after.preprocessing == before.preprocessing
    assert after.classes == cnn.load_dataset("synthetic").classes
    old, new = before.state(), after.state()
    assert new["linear1.weight"].shape == (5, 10)
    changed = {name for name, array in new.items() if array.shape != old[name].shape or (array != old[name]).any()}
    assert changed == {"hidden.weight", "hidden.bias", "linear1.weight", "linear1.bias"}


def test_the_same_classes_keep_their_head_and_a_stopped_run_goes_on(tmp_path):
    before = saved(tmp_path / "init.safetensors", classes=cnn.load_dataset("synthetic").classes[:3])
    layers = [cnn.Flatten(), Linear(10, name="only")]
    model = cnn.Sequential(layers, (28, 28, 1), classes=cnn.load_dataset("synthetic").classes, backend="numpy")
    cnn.save_model(model, tmp_path / "init.safetensors")
    del before
    assert train(tmp_path, "--lr", "1e-12") == 0
    kept = cnn.load_model(tmp_path / "run", backend="numpy").state()["only.weight"]
    np.testing.assert_allclose(kept, model.state()["only.weight"], atol=1e-6)
    assert main(["train", "--out", str(tmp_path / "run"), "--resume", "--epochs", "2"]) == 0


def test_what_cannot_be_started_from_is_one_sentence(tmp_path, capsys):
    saved(tmp_path / "init.safetensors")
    cases = {
        ("--freeze", "conf1"): "did you mean 'conv1'",
        ("--freeze", "maxpool1"): "no layer to freeze named 'maxpool1'",
        ("--model", "lenet"): "--init brings its own network",
    }
    for options, message in cases.items():
        assert train(tmp_path, *options) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "synthetic", "--freeze", "conv1"]) == 2
    assert "name it by --init" in capsys.readouterr().err
    synthetic = cnn.load_dataset("synthetic").classes
    model = cnn.Sequential([cnn.Flatten(), Linear(10)], (28, 28, 1), classes=synthetic, backend="numpy")
    cnn.save_model(model, tmp_path / "init.safetensors")
    assert train(tmp_path, "--freeze", "*") == 2
    assert "are frozen; leave one to be trained" in capsys.readouterr().err
    saved(tmp_path / "init.safetensors", shape=(40, 40, 1))
    assert train(tmp_path) == 2
    assert "hidden.weight of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_frozen_normalisation_is_a_factor_and_an_offset(activation):
    layers = [Conv2D(3, 3), BatchNorm(activation=activation, frozen=True), cnn.Flatten(), Linear(2)]
    model = cnn.Sequential(layers, (5, 5, 2), backend="numpy", precision="float64", seed=1)
    state = model.state()
    for name in state:
        if name.startswith("batchnorm"):
            state[name] = np.random.default_rng(len(name)).uniform(0.5, 2, state[name].shape)
    model.load_state(state)
    images = np.random.default_rng(2).integers(0, 256, (3, 5, 5, 2), np.uint8)
    labels = np.array([0, 1, 1])
    model.train_step(images, labels)
    weight = next(each for each in model.parameters if each.name == "conv1.weight")
    found, step = np.array(weight.gradient), 1e-6

    def loss(shift):
        weight.value[1, 2, 0, 1] += shift
        result, _ = model.evaluate(cnn.Split(images, labels))
        weight.value[1, 2, 0, 1] -= shift
        return result

    assert found[1, 2, 0, 1] == pytest.approx((loss(step) - loss(-step)) / (2 * step), rel=1e-5)
    for name, array in model.state().items():
        if name.startswith("batchnorm"):
            np.testing.assert_array_equal(array, state[name])


def test_nothing_is_computed_below_the_first_layer_that_is_trained():
    layers = [Conv2D(3, 3, frozen=True), BatchNorm(frozen=True), cnn.Flatten(), Linear(2)]
    model = cnn.Sequential(layers, (5, 5, 2), backend="numpy")
    assert model.network.backward_order == [3]
    assert [each.name for group in model.groups for each, _ in group.parts] == ["linear1.weight", "linear1.bias"]
    assert gradient_bytes(model).keys() == {"linear1"}
    layers_backward = {stage.layer for stage in count(model, 2, training=True).stages if stage.phase in (WEIGHT, DATA)}
    assert layers_backward == {"linear1"}


def test_the_mean_of_the_image_alone():
    assert check_gradients(cnn.AvgPool2D(3, 2, 1, count_padding=False), (5, 6, 2), backend="numpy") < 1e-4
    layers = [cnn.AvgPool2D(3, 1, 1, count_padding=False), cnn.Flatten()]
    model = cnn.Sequential(layers, (2, 3, 1), backend="numpy")
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    np.testing.assert_allclose(model.forward(x).reshape(2, 3), [[2, 2.5, 3], [2, 2.5, 3]])
