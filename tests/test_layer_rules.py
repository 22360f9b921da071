"""Rules for every layer: errors with numbers, configurations that read back, and reused memory."""

import json

import numpy as np
import pytest

from cnn.errors import ShapeError, UsageError
from cnn.initializers import Gaussian, He
from cnn.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    Multiply,
    ReLU,
    Sigmoid,
    Tanh,
)
from cnn.model.sequential import Sequential
from cnn.registry import create

LAYERS = [
    (Conv2D(4, 3), {"filters": 4, "kernel": 3}),
    (
        Conv2D(2, (3, 2), (1, 2), (1, 0, 2, 0), False, "tanh", Gaussian(0.5), (1, 2), (3, 0), [[0], [0, 1]]),
        {
            "filters": 2,
            "kernel": [3, 2],
            "stride": [1, 2],
            "padding": [1, 0, 2, 0],
            "bias": False,
            "activation": "tanh",
            "weights": {"type": "Gaussian", "std": 0.5},
            "weight_multipliers": [1, 2],
            "bias_multipliers": [3, 0],
            "connections": [[0], [0, 1]],
        },
    ),
    (
        Conv2D(6, 3, groups=2, dilation=(1, 2)),
        {"filters": 6, "kernel": 3, "groups": 2, "dilation": [1, 2]},
    ),
    (Linear(7, False, "relu", He(), bias_multipliers=(2, 1)), None),
    (MaxPool2D(3, 2, "same", True), {"kernel": 3, "stride": 2, "padding": "same", "ceil": True}),
    (AvgPool2D((2, 3), padding=1), {"kernel": [2, 3], "padding": 1}),
    (BatchNorm(0.5, 1e-3), {"momentum": 0.5, "epsilon": 1e-3}),
    (BatchNorm(scales="Zeros"), {"scales": {"type": "Zeros"}}),
    (LocalResponseNorm(3, 5e-5, 0.5, 2.0, "within"), None),
    (Dropout(0.25), {"rate": 0.25}),
    (Multiply(0.5), {"factor": 0.5}),
    (Flatten(), {}),
    (ReLU(), {}),
    (Tanh(), {}),
    (Sigmoid(), {}),
]


@pytest.mark.parametrize(("layer", "expected"), LAYERS, ids=lambda each: type(each).__name__)
def test_a_configuration_is_json_that_makes_the_same_layer(layer, expected):
    table = json.loads(json.dumps(layer.config()))
    if expected is not None:
        assert table == {"type": type(layer).__name__, **expected}
    again = Layer.from_config(table)
    assert type(again) is type(layer)
    assert json.loads(json.dumps(again.config())) == table


def everything(seed=0, dtype=np.float32):
    """A model with every kind of layer, for images (8, 8, 2)."""
    layers = [
        Conv2D(3, 3, padding=1, activation="relu"),
        LocalResponseNorm(3, 0.1, region="within"),
        MaxPool2D(2),
        BatchNorm(),
        Conv2D(6, 2, groups=3),
        Conv2D(6, 3, groups=6, padding="same", dilation=2),
        Tanh(),
        LocalResponseNorm(3, 0.1),
        AvgPool2D(2, 1),
        Sigmoid(),
        Flatten(),
        Dropout(0.3),
        ReLU(),
        Linear(3),
        Multiply(2.0),
    ]
    return Sequential(layers, (8, 8, 2), backend="numpy", precision=np.dtype(dtype).name, seed=seed)


def images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 2), dtype=np.uint8)


def test_no_memory_is_taken_after_the_first_step(monkeypatch):
    net = everything()
    labels = np.zeros(10, np.int64)
    taken = []
    empty = type(net.backend).empty
    monkeypatch.setattr(type(net.backend), "empty", lambda self, *args: taken.append(args) or empty(self, *args))
    net.train_step(images(10), labels)
    pointers = data_pointers(net)
    held = sum(each.nbytes() for each in all_buffers(net))
    assert taken
    taken.clear()
    for count in (10, 4, 10):
        net.train_step(images(count), labels[:count])
    assert not taken
    assert sum(each.nbytes() for each in all_buffers(net)) == held
    assert data_pointers(net) == pointers


def test_a_layer_returns_the_memory_it_returned_before():
    net = everything()
    x = net.load_images(images(6))
    first = net.forward(x)
    assert first.base is not None
    assert net.forward(x).ctypes.data == first.ctypes.data


def test_a_smaller_batch_after_a_larger_one_gives_the_numbers_it_gives_alone():
    # Batch statistics and dropout depend on the batch and on the random state, which both models share here.
    used, fresh = everything(dtype=np.float64), everything(dtype=np.float64)
    used.train_step(images(10), np.zeros(10, np.int64))
    for each in all_buffers(used):
        for array in each.arrays():
            array.view(np.uint8).fill(255)
    used.load_state(fresh.state())
    used.rng.bit_generator.state = fresh.rng.bit_generator.state
    labels = np.array([0, 2, 1], np.int64)
    assert used.train_step(images(3), labels) == fresh.train_step(images(3), labels)
    for one, other in zip(used.parameters, fresh.parameters, strict=True):
        np.testing.assert_array_equal(one.gradient, other.gradient)
    np.testing.assert_array_equal(used.predict(images(3)), fresh.predict(images(3)))


def test_the_last_images_of_a_prediction_do_not_depend_on_the_batch_size():
    net = everything(dtype=np.float64)
    np.testing.assert_allclose(net.predict(images(7), batch_size=4), net.predict(images(7)), rtol=1e-12)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([Conv2D(4, 9)], ["conv1", "(9, 9)", "(8, 8)"]),
        ([Conv2D(4, 3), Conv2D(4, 3, padding="wide")], ["conv2", "'wide'"]),
        ([Flatten(), Conv2D(4, 3)], ["conv1", "(128,)", "Flatten"]),
        ([MaxPool2D(2), MaxPool2D(5)], ["maxpool2", "(5, 5)", "(4, 4)"]),
        ([AvgPool2D(2, padding=2)], ["avgpool1", "(2, 2, 2, 2)", "(2, 2)"]),
        ([Linear(3)], ["linear1", "(8, 8, 2)", "Flatten"]),
        ([Flatten(), LocalResponseNorm()], ["localresponsenorm1", "(128,)"]),
        ([Conv2D(2, 3, connections=[[0], [2]])], ["conv1", "[2]", "0 to 1"]),
        ([Conv2D(2, 3, connections=[[0], []])], ["conv1", "[]", "0 to 1"]),
        ([Conv2D(6, 3, groups=3)], ["conv1", "3 groups", "2 channels and 6 filters"]),
        ([Conv2D(4, 3, dilation=4)], ["conv1", "(3, 3) with dilation (4, 4)", "(8, 8)"]),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_the_numbers(layers, expected):
    with pytest.raises(ShapeError) as caught:
        Sequential([*layers, Flatten(), Linear(3)], (8, 8, 2), backend="numpy")
    assert str(caught.value).startswith(expected[0] + ": ")
    assert all(part in str(caught.value) for part in expected)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Conv2D(0, 3), "0"),
        (lambda: Conv2D(2, (1, 2, 3)), "(1, 2, 3)"),
        (lambda: Conv2D(2, 3, stride=(1, 2, 3)), "(1, 2, 3)"),
        (lambda: Conv2D(2, 3, connections=[[0]]), "1 filters"),
        (lambda: Conv2D(4, 3, groups=3), "4 filters cannot be divided into 3 groups"),
        (lambda: Conv2D(4, 3, groups=0), "0 groups"),
        (lambda: Conv2D(2, 3, groups=2, connections=[[0], [1]]), "groups (2)"),
        (lambda: Conv2D(2, 3, dilation=0), "dilation (0, 0)"),
        (lambda: Conv2D(2, 3, dilation=(1, 2, 3)), "(1, 2, 3)"),
        (lambda: Conv2D(2, 3, activation="gelu"), "'gelu'"),
        (lambda: Linear(0), "0"),
        (lambda: Linear(2, weight_multipliers=(1, -1)), "-1"),
        (lambda: Linear(2, bias_multipliers=(1, 2, 3)), "(1, 2, 3)"),
        (lambda: Linear(2, weights="Uniform"), "'Uniform'"),
        (lambda: Multiply(float("nan")), "nan"),
        (lambda: BatchNorm(scales=He()), "not He"),
        (lambda: BatchNorm(scale=False, scales="Zeros"), "are not trained are 1, not Zeros"),
        (lambda: Dropout(1.0), "1.0"),
        (lambda: Dropout(-0.1), "-0.1"),
        (lambda: BatchNorm(1.0), "1.0"),
        (lambda: BatchNorm(epsilon=0), "epsilon"),
        (lambda: LocalResponseNorm(4, region="within"), "4"),
        (lambda: LocalResponseNorm(0), "0"),
        (lambda: LocalResponseNorm(region="all"), "'all'"),
        (lambda: LocalResponseNorm(k=0), "k (0)"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_value(make, expected):
    with pytest.raises(UsageError) as caught:
        make()
    assert expected in str(caught.value)


def test_max_pooling_backward_asks_for_a_forward_pass_in_training():
    net = everything()
    pool = net.layers[2]
    net.forward(net.load_images(images(2)))
    with pytest.raises(ShapeError, match="training=True"):
        pool.backward(create("numpy").zeros((2, 4, 4, 3)))


def all_buffers(net):
    return [net.buffers, net.context.scratch, *(layer.buffers for layer in net.layers)]


def data_pointers(net):
    return [array.ctypes.data for each in all_buffers(net) for array in each.arrays()]
