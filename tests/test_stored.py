"""Networks that store activations and gradients in bfloat16: which of them, in which memory, and what comes out."""

import numpy as np
import pytest
from helpers.ready_backends import ready
from helpers.storing import Storing

from cnn import registry
from cnn.compiled import bfloat16, tileproduct
from cnn.layers import (
    Add,
    AvgPool2D,
    BatchNorm,
    Concat,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    Multiply,
    ReLU,
)
from cnn.measure.benchmark import layer_jobs
from cnn.model import network
from cnn.model.architecture import Architecture, Recipe
from cnn.model.sequential import Sequential
from cnn.model.zoo import architecture
from cnn.precision import BFLOAT16, FLOAT32, SHORT
from cnn.testing import check_case
from cnn.testing.stored import stored_cases


@pytest.fixture(autouse=True)
def even_small_networks(monkeypatch):
    monkeypatch.setattr(network, "LEAST_STORED", 0)


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
LABELS = np.arange(20) % 5


def built(layers, backend=None, precision=BFLOAT16):
    return Sequential(layers, input_shape=(8, 8, 3), backend=backend or Storing(), seed=0, precision=precision)


def stored(layers):
    network = built(layers).network
    return [network.nodes[place].name for place in sorted(network.stored)]


def chain():
    return [
        Conv2D(8, 3, padding=1, activation="relu"),
        MaxPool2D(2),
        Conv2D(8, 3, padding=1),
        ReLU(),
        AvgPool2D(2),
        Flatten(),
        Linear(16, activation="relu"),
        Linear(5),
    ]


def residual():
    return [
        Conv2D(8, 3, padding=1, bias=False, name="stem"),
        BatchNorm(activation="relu", name="norm"),
        Conv2D(8, 3, padding=1, bias=False),
        BatchNorm(),
        Add("relu", inputs=["batchnorm1", "norm"], name="sum"),
        Conv2D(4, 1, inputs="sum"),
        Conv2D(4, 3, padding=1, activation="tanh", inputs="sum"),
        Concat(inputs=["conv2", "conv3"]),
        GlobalAvgPool2D(),
        Linear(5),
    ]


def test_what_layers_on_both_sides_can_store_is_stored():
    assert stored(chain()) == ["conv1", "maxpool1", "conv2", "relu1", "avgpool1", "flatten1"]
    names = ["stem", "norm", "conv1", "batchnorm1", "sum", "conv2", "conv3", "concat1", "globalavgpool1"]
    assert stored(residual()) == names


def test_a_layer_that_cannot_keeps_what_it_is_joined_to_in_float32():
    layers = [Conv2D(8, 3), Conv2D(8, 3), MaxPool2D(2), Flatten(), Dropout(0.5), Linear(5)]
    assert stored(layers) == ["conv1"]
    assert stored([Conv2D(8, 3), ReLU(), LocalResponseNorm(3), Conv2D(8, 3), Flatten(), Linear(5)]) == [
        "conv2",
        "flatten1",
    ]
    grouped = [Conv2D(8, 3), Conv2D(8, 3, groups=2), Conv2D(8, 3, dilation=2, padding=2), Flatten(), Linear(5)]
    assert stored(grouped) == []


def test_the_networks_input_and_output_stay():
    assert stored([MaxPool2D(2), Conv2D(8, 3), Conv2D(5, 2), Flatten()]) == ["conv1"]
    assert stored([Flatten(), Linear(4), Linear(5), Multiply(0.5)]) == []


def test_small_networks_stay(monkeypatch):
    monkeypatch.undo()
    assert not built(chain()).network.stored
    assert not architecture("lenet").network.storable
    assert architecture("cifar10_quick").network.storable


def test_a_layer_with_passes_of_its_own_is_given_float32():
    class Doubled(MaxPool2D):
        def forward(self, x, *, training):
            assert x.dtype == np.float32
            return super().forward(x, training=training)

    assert stored([Conv2D(8, 3), Conv2D(8, 3), Doubled(2), Flatten(), Linear(5)]) == ["conv1"]


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_a_backend_that_stores_none_has_none(backend):
    assert not built(chain(), registry.create(backend)).network.stored
    assert not built(chain(), precision=FLOAT32).network.stored


@pytest.mark.parametrize("layers", [chain, residual])
def test_outputs_and_gradients_of_what_is_stored_are_bfloat16(layers):
    model = built(layers())
    model.train_step(IMAGES, LABELS)
    network = model.network
    for place, output in network.arrays.outputs.items():
        assert (output.dtype == SHORT) == (place in network.stored)
    for place, gradient in network.arrays.gradients.items():
        assert (gradient.dtype == SHORT) == (place in network.stored)
    assert {each.gradient.dtype.name for each in network.parameters} == {"float32"}


@pytest.mark.parametrize("layers", [chain, residual])
def test_training_is_that_of_float32_arrays_within_the_rounding_of_what_is_stored(layers):
    """A stored number is off by 2**-9 of it at most, but another pixel may win a window where two become equal."""
    models = [built(layers(), backend) for backend in (Storing(), registry.create("numpy"))]
    losses = [model.train_step(IMAGES, LABELS)[0] for model in models]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]
    for one, other in zip(*(model.network.parameters for model in models), strict=True):
        error = np.linalg.norm(one.gradient - other.gradient)
        assert error <= 0.1 * np.linalg.norm(other.gradient) + 1e-6, one.name
    scores = [model.predict(IMAGES) for model in models]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)


def test_layers_are_timed_on_what_is_stored():
    small = Architecture("small", chain(), (8, 8, 3), Recipe(), precision=BFLOAT16)
    short = []
    for job in layer_jobs(small, Storing().in_precision(BFLOAT16), 4):
        job.run()
        if job.run.args[0].dtype == SHORT:
            short.append(job.group)
    forward = [f"small {name} forward" for name in ("maxpool1", "conv2", "relu1", "avgpool1", "flatten1", "linear1")]
    names = ("conv1", "maxpool1", "conv2", "relu1", "avgpool1", "flatten1")
    assert sorted(short) == sorted([*forward, *(f"small {name} backward" for name in names)])


@pytest.mark.parametrize("engine", [tileproduct.emulated, lambda: None], ids=["tiles", "pairs"])
@pytest.mark.parametrize("layers", [chain, residual])
def test_networks_on_kernels_do_what_the_truth_does(layers, engine, monkeypatch):
    """From recordings, too, and in a copy for inference."""
    monkeypatch.setattr(bfloat16, "engine", engine)
    monkeypatch.setattr(bfloat16, "in_pairs", lambda: True)
    models = [built(layers(), backend) for backend in (Storing(), ready("openblas"))]
    for _ in range(5):
        losses = [model.train_step(IMAGES, LABELS)[0] for model in models]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert models[1].network.stored == models[0].network.stored != frozenset()
    for one, other in zip(*(model.network.parameters for model in models), strict=True):
        error = np.linalg.norm(one.gradient - other.gradient)
        assert error <= 1e-4 * np.linalg.norm(other.gradient), one.name
    scores = models[1].predict(IMAGES)
    np.testing.assert_allclose(scores, models[0].predict(IMAGES), atol=1e-5)
    copy = models[1].for_inference()
    for _ in range(4):
        assert copy.predict(IMAGES).tobytes() == scores.tobytes()


def test_slots_are_half_as_large():
    half, whole = (
        sum(built(chain(), backend).network.plan(training=True).sizes) for backend in (None, registry.create("numpy"))
    )
    assert 0.5 < half / whole < 0.55


def test_the_truth_of_stored_arrays_keeps_the_contract():
    backend = Storing()
    for case in stored_cases():
        check_case(backend, case, np.float32)
