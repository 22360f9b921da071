"""ONNX files that models are written to: what is in them, how they are checked, and that they come back the same."""

import json
import sys

import numpy as np
import onnx
import pytest
from helpers.onnx_graphs import runtime
from hypothesis import given, settings
from hypothesis import strategies as st

import cnn
from cnn.cli import main
from cnn.errors import CnnError, UsageError
from cnn.layers import Layer
from cnn.layers.activation import Activation
from cnn.losses import MeanSquaredError
from cnn.model.sequential import Sequential
from cnn.model.zoo import ZOO
from cnn.onnx import export
from cnn.onnx.runtime import Session

SIZES = {"alexnet": 67, "vgg16": 32, "googlenet": 48, "squeezenet": 40, "mobilenet": 32, "resnet18": 32, "resnet50": 32}
"""Image sizes at which the networks for pictures are quick."""


def small(name):
    """A built-in network, on small images if it is for pictures, with an eighth of the filters."""
    architecture = cnn.architecture(name, 10)
    tables = architecture.network.config()
    for table in tables:
        if name in SIZES:
            for key in ("filters", "units", "groups"):
                if table.get(key, 1) % 8 == 0:
                    table[key] //= 8
    height, width, channels = architecture.input_shape
    shape = (SIZES.get(name, height), SIZES.get(name, width), channels)
    layers = [Layer.from_config(table) for table in tables]
    model = Sequential(layers, shape, name=name, loss=architecture.recipe.loss, backend="numpy", seed=2)
    disturb(model)
    return model


def disturb(model):
    """Gives biases and running statistics values of their own."""
    draw = np.random.default_rng(4)
    state = model.state()
    for name, array in state.items():
        kind = name.rpartition(".")[2]
        if kind in ("bias", "beta", "running_mean"):
            array[...] = draw.normal(0, 0.1, array.shape)
        elif kind in ("gamma", "running_variance"):
            array[...] = draw.uniform(0.5, 1.5, array.shape)
    model.load_state(state)


def pixels(model, count=2):
    return np.random.default_rng(3).integers(0, 256, (count, *model.input_shape), np.uint8)


def scores(model, images):
    return np.array(model.forward(model.load_images(images)))


def gradients(model, images):
    """Of every parameter by name, with the same random numbers for each model."""
    model.rng.bit_generator.state = np.random.default_rng(6).bit_generator.state
    model.train_step(images, np.arange(len(images)) % len(model.classes))
    return {each.name: np.array(each.gradient) for each in model.parameters}


def assert_same_network(one, other, exact=1e-5):
    """Scores and gradients agree to rounding; the layers have the same names."""
    images = pixels(one)
    wanted = scores(one, images)
    np.testing.assert_allclose(scores(other, images), wanted, rtol=0, atol=exact * np.abs(wanted).max())
    mine, theirs = gradients(one, images), gradients(other, images)
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        np.testing.assert_allclose(theirs[name], gradient, rtol=0, atol=exact * (np.abs(gradient).max() + 1e-30))


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith("airbench")])
def test_a_built_in_network_comes_back_as_it_was(name, tmp_path):
    one = small(name)
    found = cnn.export_onnx(one, tmp_path / "net.onnx")
    assert found.comparison.difference < 1e-5
    other = cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model
    assert_same_network(one, other)
    assert other.preprocessing == one.preprocessing
    mine, theirs = one.config(), other.config()
    for table in [*mine["layers"], *theirs["layers"]]:
        table.pop("padding", None)  # "same" comes back as numbers
        table.pop("ceil", None)  # which rounds nothing up at some sizes
    assert json.dumps(theirs) == json.dumps(mine)


def test_a_factor_at_the_end_goes_into_the_weights_before_it(tmp_path):
    one = small("airbench94")
    cnn.export_onnx(one, tmp_path / "net.onnx")
    other = cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model
    assert len(other.layers) == len(one.layers) - 1
    images = np.random.default_rng(3).integers(0, 256, (3, *one.input_shape), np.uint8)
    np.testing.assert_allclose(other.predict(images), one.predict(images), atol=1e-5)


def test_every_test_image_gets_the_same_answer(tmp_path):
    data = cnn.load_dataset("mnist-5k")
    model = cnn.architecture("lenet").build(data=data, backend="numpy", seed=1)
    for _ in cnn.fit(model, data.train.take(range(256)), epochs=1):
        pass
    found = export.export_onnx(model, tmp_path / "lenet.onnx", images=data.test.images)
    assert found.comparison.same_answers == len(data.test) == found.comparison.images
    x = data.test.images.transpose(0, 3, 1, 2).astype(np.float32)
    probabilities = runtime(str(tmp_path / "lenet.onnx"), x, "probabilities")
    np.testing.assert_allclose(probabilities, model.predict(data.test.images), atol=1e-6)


def standardised(layers=None, shape=(6, 7, 3)):
    """A small network with every step of preprocessing."""
    layers = layers or [
        cnn.Conv2D(6, 3, bias=False),
        cnn.BatchNorm(activation="relu"),
        cnn.MaxPool2D(2, ceil=True),
        cnn.Flatten(),
        cnn.Linear(4),
    ]
    pre = cnn.Preprocessing(1 / 255, np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.4]))
    model = Sequential(layers, shape, preprocessing=pre, classes=["a", "b", "c", "d"], backend="numpy")
    disturb(model)
    return model


@pytest.mark.parametrize("form", export.INPUTS)
@pytest.mark.parametrize("opset", [13, 17, 18, 19, 20, 21, 22])
def test_each_input_in_each_opset(form, opset, tmp_path):
    model, path = standardised(), tmp_path / "net.onnx"
    found = cnn.export_onnx(model, path, input=form, opset=opset)
    proto = onnx.load(path)
    assert proto.opset_import[0].version == opset == found.opset
    assert proto.ir_version == found.ir_version == {21: 10}.get(opset, proto.ir_version)
    assert [each.op_type for each in proto.graph.node].count("Transpose") == (form == "nhwc-uint8")
    images = pixels(model, 5)  # another batch than it was checked with
    fed = {
        "nchw": images.transpose(0, 3, 1, 2).astype(np.float32),
        "nhwc-uint8": images,
        "preprocessed": model.preprocessing.apply(images).transpose(0, 3, 1, 2),
    }[form]
    np.testing.assert_allclose(runtime(proto, fed, "scores"), scores(model, images), atol=1e-5)
    other = cnn.import_onnx(path, backend="numpy")
    assert other.notes == ()
    assert other.model.preprocessing == model.preprocessing
    assert other.model.classes == ("a", "b", "c", "d")
    np.testing.assert_allclose(scores(other.model, images), scores(model, images), atol=1e-5)


def test_a_mean_image_comes_back(tmp_path):
    pre = cnn.Preprocessing(1 / 64, np.random.default_rng(0).random((5, 5, 2), np.float32))
    model = Sequential([cnn.Flatten(), cnn.Linear(3)], (5, 5, 2), preprocessing=pre, backend="numpy")
    for form in export.INPUTS:
        cnn.export_onnx(model, tmp_path / "net.onnx", input=form)
        assert cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model.preprocessing == pre, form


def test_normalisations_are_folded_on_demand(tmp_path):
    layers = [
        *(cnn.Conv2D(4, 3), cnn.BatchNorm()),
        *(cnn.Conv2D(4, 1, activation="relu"), cnn.BatchNorm()),  # after its activation, it stays
        *(cnn.Flatten(), cnn.Linear(5, bias=False), cnn.BatchNorm(activation="relu"), cnn.Linear(4)),
    ]
    model = standardised(layers)
    found = cnn.export_onnx(model, tmp_path / "net.onnx", fold=True)
    operators = [each.op_type for each in onnx.load(tmp_path / "net.onnx").graph.node]
    assert operators.count("BatchNormalization") == 1
    assert "2 batch normalisations folded" in found.notes[-1]
    other = cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model
    images = pixels(model)
    np.testing.assert_allclose(scores(other, images), scores(model, images), rtol=1e-4, atol=1e-5)


def test_the_file_says_what_it_is(tmp_path):
    model = standardised()
    model.border = (3.0, 9.0)
    cnn.export_onnx(model, tmp_path / "net.onnx", training={"test_accuracy": 0.9})
    stored = {each.key: json.loads(each.value) for each in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert stored["classes"] == ["a", "b", "c", "d"]
    assert stored["preprocessing"]["in_graph"] is True
    assert np.allclose(stored["preprocessing"]["std"], [0.2, 0.3, 0.4])
    assert stored["training"] == {"test_accuracy": 0.9}
    assert cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model.border == (3.0, 9.0)


def test_squared_error_gives_its_own_probabilities(tmp_path):
    layers = [cnn.Flatten(), cnn.Linear(4, activation="tanh")]
    model = Sequential(layers, (3, 3, 1), loss=MeanSquaredError(-0.8, 0.8), backend="numpy")
    images = pixels(model, 9)
    for opset in (13, 21):
        cnn.export_onnx(model, tmp_path / "net.onnx", opset=opset)
        x = images.transpose(0, 3, 1, 2).astype(np.float32)
        found = runtime(str(tmp_path / "net.onnx"), x, "probabilities")
        np.testing.assert_allclose(found, model.predict(images), atol=1e-6)
        assert cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model.loss == model.loss


def test_padding_that_is_rounded_up_is_written_as_two_operators(tmp_path):
    model = standardised([cnn.AvgPool2D(3, 2, 1, ceil=True), cnn.Flatten(), cnn.Linear(4)], (6, 8, 3))
    found = cnn.export_onnx(model, tmp_path / "net.onnx")
    assert "avgpool1 is written as Pad and AveragePool" in found.notes[0]
    other = cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model
    assert other.config()["layers"] == model.config()["layers"]


def test_scores_that_differ_leave_no_file(tmp_path, monkeypatch):
    honest = Session.run
    monkeypatch.setattr(Session, "run", lambda *given: honest(*given) * 1.001)
    with pytest.raises(CnnError, match=r"was not exported: ONNX Runtime's scores differ .* by 0\.001"):
        cnn.export_onnx(standardised(), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx.checker", "onnxruntime"])
def test_a_missing_package_is_named_with_the_cure(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CnnError, match=r"need the package onnx\w*, which cannot be imported .*cnn-blas\[onnx\]"):
        cnn.export_onnx(standardised(), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


class Own(cnn.Layer):
    def shape_after(self, input_shape):
        return input_shape

    def forward(self, x, *, training):
        return x

    def backward(self, dy):
        return dy


def test_what_cannot_be_exported_is_said(tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(UsageError, match="own1 is a Own, for which ONNX has no operator here"):
        cnn.export_onnx(Sequential([Own(), cnn.Flatten(), cnn.Linear(2)], (2, 2, 1), backend="numpy"), path)
    for settings_, message in (
        ({"opset": 12}, "opset must be from 13 to"),
        ({"opset": 999}, "opset must be from 13 to"),
        ({"input": "nchv"}, "did you mean 'nchw'"),
    ):
        with pytest.raises(UsageError, match=message):
            cnn.export_onnx(standardised(), path, **settings_)
    broken = standardised()
    broken.parameters[0].value[...] = np.nan
    with pytest.raises(CnnError, match=r"conv1\.weight has values that are not finite"):
        cnn.export_onnx(broken, path)
    with pytest.raises(CnnError, match="There is no folder"):
        cnn.export_onnx(standardised(), tmp_path / "no" / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    model = standardised()
    cnn.save_model(model, tmp_path / "model.safetensors")
    (tmp_path / "summary.json").write_text('{"test_accuracy": 0.5}')
    arguments = [str(tmp_path / "model.safetensors"), str(tmp_path / "net.onnx"), "--backend", "numpy"]
    assert main(["export", *arguments]) == 0
    assert "the same class for 4 images" in " ".join(capsys.readouterr().out.split())
    assert main(["export", *arguments, "--json", "--input", "nhwc-uint8", "--fold"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["images"], table["same_answers"], table["opset"], table["ir_version"]) == (4, 4, 21, 10)
    assert table["largest_difference"] < 1e-5
    stored = {each.key: each.value for each in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert json.loads(stored["training"]) == {"test_accuracy": 0.5}
    (tmp_path / "summary.json").write_text("{")
    assert main(["export", *arguments]) == 1
    assert "summary.json cannot be read" in capsys.readouterr().err


sides = st.integers(0, 2)
activations = st.sampled_from([None, "relu", "tanh", "sigmoid"])


@st.composite
def chains(draw):
    """Layers that leave the number of channels even and images not empty."""
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.integers(-4, 9))
        if kind <= 0:
            padding = tuple(draw(st.integers(1, 3)) for _ in range(4))
            layers.append(
                cnn.Conv2D(
                    2 * draw(st.integers(1, 3)),
                    (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
                    draw(st.integers(1, 2)),
                    padding,
                    draw(st.booleans()),
                    draw(activations),
                    groups=draw(st.sampled_from([1, 2])),
                    dilation=(draw(st.integers(1, 2)), 1),
                )
            )
        elif kind == 1:
            layers.append(cnn.MaxPool2D(3, draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.booleans())))
        elif kind in (2, 3):
            stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 2))
            padding = padding or "same"
            layers.append(cnn.AvgPool2D(3, stride, padding, draw(st.booleans()), draw(st.booleans())))
        elif kind == 4:
            layers.append(cnn.BatchNorm(0.8, 1e-3, activation=draw(st.sampled_from([None, "relu"]))))
        elif kind == 5:
            layers.append(draw(st.sampled_from(Activation.__subclasses__()))())
        elif kind == 6:
            size = draw(st.integers(1, 3))
            layers.append(cnn.LocalResponseNorm(size, 0.3, 0.6, 1.5, "within" if size % 2 else "across"))
        elif kind == 7:
            layers.append(cnn.Dropout(0.25))
        elif kind == 8:
            layers.append(cnn.Residual([cnn.BatchNorm(), cnn.Tanh()], activation=draw(activations)))
        else:
            branches = [[cnn.Conv2D(2, 1), *map(_copied, draw(st.sampled_from(_TAILS)))] for _ in range(2)]
            layers.append(cnn.Branches(*branches))
    return layers


_TAILS = [[], [cnn.ReLU()], [cnn.BatchNorm()]]


def _copied(layer):
    return Layer.from_config(layer.config())


@st.composite
def networks(draw):
    layers = draw(chains())
    ends = [
        [cnn.Flatten(), cnn.Linear(3)],
        [cnn.Flatten(), cnn.BatchNorm(), cnn.Dropout(0.5), cnn.Linear(5, activation="tanh"), cnn.Linear(3)],
        [cnn.GlobalAvgPool2D(), cnn.Linear(3, bias=False)],
        [cnn.Branches([cnn.Flatten()], [cnn.GlobalAvgPool2D(), cnn.SiLU()]), cnn.Linear(3)],
        [cnn.Conv2D(3, 1), cnn.GlobalAvgPool2D()],
        [cnn.Conv2D(2, 1), cnn.Flatten()],
    ]
    shape = (draw(st.integers(3, 6)), draw(st.integers(3, 6)), 2)
    return Sequential([*layers, *draw(st.sampled_from(ends))], shape, backend="numpy", seed=draw(st.integers(0, 99)))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(networks(), st.sampled_from([13, 21]), st.sampled_from(sorted(export.INPUTS)))
def test_any_network_comes_back(tmp_path_factory, one, opset, form):
    disturb(one)
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    cnn.export_onnx(one, path, opset=opset, input=form)
    other = cnn.import_onnx(path, backend="numpy").model
    images = pixels(one)
    wanted = scores(one, images)
    np.testing.assert_allclose(scores(other, images), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    mine, theirs = gradients(one, images), gradients(other, images)
    for name, gradient in mine.items():
        np.testing.assert_allclose(theirs[name], gradient, rtol=0, atol=2e-5 * (np.abs(gradient).max() + 1e-6))


def test_a_multiplication_goes_into_the_layer_before_it(tmp_path):
    layers = [cnn.Flatten(), cnn.Linear(3), cnn.Multiply(-1.5)]
    one = Sequential(layers, (3, 4, 2), backend="numpy", seed=1)
    cnn.export_onnx(one, tmp_path / "net.onnx")
    other = cnn.import_onnx(tmp_path / "net.onnx", backend="numpy").model
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 2), np.uint8)
    np.testing.assert_allclose(other.predict(images), one.predict(images), rtol=1e-5)
    assert [type(layer).__name__ for layer in other.layers][-1] == "Linear"
