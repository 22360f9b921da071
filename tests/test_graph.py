"""Networks with branches: named layers and inputs, blocks, files, and what is said of those that do not fit."""

import copy
import json
import pickle

import numpy as np
import pytest

from cnn.data.dataset import Split
from cnn.errors import ShapeError, UsageError
from cnn.layers import (
    GELU,
    Add,
    AvgPool2D,
    BatchNorm,
    Branches,
    Concat,
    Context,
    Conv2D,
    GlobalAvgPool2D,
    HardSwish,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    ReLU6,
    Residual,
    SiLU,
)
from cnn.model.architecture import read_architecture
from cnn.model.modelfile import load_model, save_model
from cnn.model.network import Network
from cnn.model.sequential import Sequential
from cnn.registry import create
from cnn.testing import check_gradients

SHAPE = (8, 8, 3)

TOML = """
input = [8, 8, 3]
[[layers]]
type = "Conv2D"
filters = 4
kernel = 3
padding = "same"
name = "stem"
[[layers]]
type = "BatchNorm"
activation = "relu"
[[layers]]
type = "Conv2D"
filters = 4
kernel = 3
padding = "same"
[[layers]]
type = "Add"
inputs = ["conv1", "stem"]
activation = "relu"
[[layers]]
type = "Concat"
inputs = ["add1", "input", "batchnorm1"]
[[layers]]
type = "GlobalAvgPool2D"
[[layers]]
type = "Linear"
units = 5
"""


def layers():
    """A residual block with a shortcut of its own, branches of which one hands on its input, and every activation."""
    return [
        Conv2D(4, 3, padding=1, bias=False),
        BatchNorm(activation="relu"),
        Residual(
            [
                Conv2D(6, 3, 2, 1, bias=False),
                BatchNorm(scale=False),
                LeakyReLU(0.2),
                Conv2D(6, 3, padding=1, bias=False),
                BatchNorm(),
            ],
            shortcut=[Conv2D(6, 1, 2, bias=False), BatchNorm(shift=False)],
            activation="relu",
        ),
        Branches([Conv2D(2, 1), GELU()], [Conv2D(3, 3, padding=1), SiLU()], [MaxPool2D(3, 1, 1)], []),
        Residual([HardSwish(), Conv2D(17, 1), ReLU6()]),
        GlobalAvgPool2D(),
        Linear(5),
    ]


def model(backend="numpy", dtype=np.float32, seed=0):
    return Sequential(layers(), SHAPE, backend=backend, precision=np.dtype(dtype).name, seed=seed)


def images_and_labels(count=6):
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, *SHAPE), np.uint8), rng.integers(0, 5, count)


def test_blocks_are_taken_apart_into_layers_with_names_and_inputs():
    block = Residual([ReLU(), Branches([], [ReLU()])], shortcut=[Conv2D(6, 1)])
    network = Network([Conv2D(3, 1), block, ReLU()], SHAPE)
    names = {node.name: [network.nodes[k].name if k >= 0 else "input" for k in node.inputs] for node in network.nodes}
    assert names == {
        "conv1": ["input"],
        "relu1": ["conv1"],
        "relu2": ["relu1"],
        "concat1": ["relu1", "relu2"],
        "conv2": ["conv1"],
        "add1": ["concat1", "conv2"],
        "relu3": ["add1"],
    }


def test_a_network_in_toml_reads_layers_by_given_and_by_generated_names(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(TOML)
    network = read_architecture(file).network
    assert [node.name for node in network.nodes] == [
        *("stem", "batchnorm1", "conv1", "add1", "concat1", "globalavgpool1", "linear1")
    ]
    assert [node.inputs for node in network.nodes] == [(-1,), (0,), (1,), (2, 0), (3, -1, 1), (4,), (5,)]
    assert network.nodes[4].output_shape == (8, 8, 11)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('["conv1", "stem"]', '["conv1", "stm"]', "add1 reads 'stm', but no layer has that name; did you mean 'stem'?"),
        ('["conv1", "stem"]', '["conv1", "zz"]', "known before it are: input, stem, batchnorm1, conv1"),
        ('["conv1", "stem"]', '["conv1", "linear1"]', "add1 reads linear1, which is not before it"),
        ('["conv1", "stem"]', '["add1", "stem"]', "add1 reads add1, which is not before it"),
        ('["conv1", "stem"]', '["conv1"]', "add1: Add joins two or more inputs, not 1"),
        ('["conv1", "stem"]', "[]", "add1 names no inputs"),
        ('["conv1", "stem"]', '["conv1", "input"]', "add1: Add takes inputs of one shape, not (8, 8, 4) and (8, 8, 3)"),
        ('["conv1", "stem"]', "7", "Add: inputs must be str | list[str] | None, not 7"),
        ('"stem"\n[[layers]]', '"add1"\n[[layers]]', "add2 reads 'stem'"),
        ('name = "stem"', 'name = "input"', "cannot be named 'input'"),
        ('name = "stem"', 'name = "a.b"', "cannot be named 'a.b'"),
        ('name = "stem"', 'name = ""', "cannot be named ''"),
        ('type = "BatchNorm"', 'type = "BatchNorm"\nname = "stem"', "Two layers are named 'stem'"),
        ('kernel = 3\npadding = "same"\n[[', "kernel = 3\n[[", "(6, 6, 4) and (8, 8, 4)"),
        (
            'type = "GlobalAvgPool2D"',
            'type = "GlobalAvgPool2D"\ninputs = ["concat1", "stem"]',
            "globalavgpool1 takes one input, not 2; join them by an Add or a Concat",
        ),
        ('["add1", "input", "batchnorm1"]', '["input", "batchnorm1"]', "No layer reads add1; remove it"),
    ],
)
def test_what_is_wrong_in_a_graph_is_said_with_names_and_numbers(tmp_path, old, new, expected):
    assert old in TOML
    file = tmp_path / "own.toml"
    file.write_text(TOML.replace(old, new))
    with pytest.raises((UsageError, ShapeError)) as caught:
        read_architecture(file).network  # noqa: B018 - the network is made here
    assert expected in str(caught.value)


def test_concat_and_blocks_refuse_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"Concat takes inputs that differ in channels only, not \(8, 8, 3\) and \(4"):
        Network([MaxPool2D(2), Concat(inputs=["input", "maxpool1"])], SHAPE)
    with pytest.raises(UsageError, match="at least one layer"):
        Residual([])
    with pytest.raises(UsageError, match="at least two branches, not 1"):
        Branches([ReLU()])
    with pytest.raises(UsageError, match="made of a list of layers, not of 'ReLU'"):
        Network(["ReLU"], SHAPE)


def test_gradients_of_a_graph_are_those_of_differences():
    check_gradients(model(dtype=np.float64), backend="numpy")


@pytest.mark.parametrize("backend", ["mkl", "openblas", "numpy"])
def test_a_graph_computes_what_reference_computes(backend):
    create(backend)
    expected, found = model("reference"), model(backend)
    found.load_state(expected.state())
    images, labels = images_and_labels()
    for each in (expected, found):
        each.train_step(images, labels)
    for one, other in zip(expected.parameters, found.parameters, strict=True):
        size = np.abs(one.gradient).max()
        np.testing.assert_allclose(other.gradient, one.gradient, rtol=0, atol=2e-4 * size, err_msg=one.name)
    np.testing.assert_allclose(found.predict(images), expected.predict(images), atol=1e-5)


def test_a_graph_is_saved_and_read_with_its_names_and_inputs(tmp_path):
    one = model(seed=3)
    save_model(one, tmp_path / "graph.safetensors")
    again = load_model(tmp_path / "graph.safetensors", backend="numpy")
    assert json.dumps(again.config()) == json.dumps(one.config())
    images, labels = images_and_labels()
    assert again.predict(images).tobytes() == one.predict(images).tobytes()
    assert again.evaluate(Split(images, labels)) == one.evaluate(Split(images, labels))


def test_a_copy_of_a_graph_computes_the_same():
    one = model(seed=3)
    images, labels = images_and_labels()
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert [node.name for node in again.network.nodes] == [node.name for node in one.network.nodes]
        assert again.predict(images).tobytes() == one.predict(images).tobytes()
        assert again.train_step(images, labels) == model(seed=3).train_step(images, labels)


def test_a_chain_is_written_without_names_and_inputs():
    chain = Sequential([AvgPool2D(4), GlobalAvgPool2D(), Linear(2, name="head")], SHAPE, backend="numpy")
    tables = [sorted(layer) for layer in chain.config()["layers"]]
    assert tables == [["kernel", "type"], ["type"], ["name", "type", "units"]]


def test_a_layer_is_part_of_one_network():
    shared = ReLU()
    with pytest.raises(UsageError, match="relu1 is already part of a network; make a new ReLU"):
        Sequential([shared, shared, GlobalAvgPool2D(), Linear(2)], SHAPE, backend="numpy")


def test_more_than_two_inputs_are_added_and_the_last_sum_is_activated():
    def network(activation):
        return Sequential(
            [
                Conv2D(3, 1, name="a"),
                Conv2D(3, 1, name="b"),
                Add(activation, inputs=["a", "b", "input", "b"]),
                GlobalAvgPool2D(),
                Linear(2),
            ],
            SHAPE,
            backend="numpy",
            precision="float64",
        )

    check_gradients(network("tanh"), backend="numpy")
    x = np.random.default_rng(0).standard_normal((3, 2, *SHAPE))
    for activation, expected in ((None, x.sum(axis=0)), ("relu", np.maximum(x.sum(axis=0), 0))):
        layer = Add(activation)
        layer.build(*[SHAPE] * 3, context=Context(create("numpy"), np.float64, np.random.default_rng(0)))
        np.testing.assert_allclose(layer.forward(*x, training=False), expected, rtol=1e-12)
