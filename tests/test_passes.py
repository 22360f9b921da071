"""Recorded passes give the same bytes as the layers, and are dropped if they would not."""

import gc
import threading
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

import cnn
from cnn import arrays
from cnn.compiled import losses, recording
from cnn.compiled.recording import KernelRecording
from cnn.errors import UsageError
from cnn.layers import (
    GELU,
    AvgPool2D,
    BatchNorm,
    Branches,
    Concat,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    HardSwish,
    Layer,
    LeakyReLU,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    ReLU,
    Residual,
)
from cnn.losses import MeanSquaredError, SoftmaxCrossEntropy
from cnn.model import sequential
from cnn.model.network import BACKWARD, FORWARD
from cnn.model.passes import SETTLED
from cnn.model.sequential import Sequential
from cnn.model.zoo import SMALL, architecture
from cnn.optimizers import SGD
from cnn.registry import create
from cnn.system.threads import limit_threads

SHAPE, CLASSES = (8, 8, 3), 5
STEPS = SETTLED + 4


def mixed():
    """Repeatable layers with others between them that are not."""
    return [
        Conv2D(4, 3, activation="relu"),
        BatchNorm(),
        MaxPool2D(2, ceil=True),
        LocalResponseNorm(3),
        Dropout(0.3),
        Flatten(),
        Dropout(0.3),
        Linear(7, activation="tanh"),
        Linear(CLASSES),
    ]


def plain():
    return [Conv2D(4, 3), ReLU(), AvgPool2D(2), Flatten(), Linear(7, activation="sigmoid"), Linear(CLASSES)]


def graph():
    """Branches, and outputs with several readers, one of which is not repeated."""
    return [
        Conv2D(4, 3, padding=1, name="stem"),
        Residual([BatchNorm(activation="relu"), Conv2D(4, 3, padding=1), GELU()], activation="relu"),
        Branches([Conv2D(3, 1)], [], [Dropout(0.3)], [MaxPool2D(3, 1, 1), LeakyReLU(0.2)]),
        Concat(inputs=["concat1", "stem", "stem"]),
        GlobalAvgPool2D(),
        Linear(CLASSES),
    ]


def residual():
    """Branches of repeatable layers only."""
    return [
        Conv2D(4, 1),
        Residual([ReLU(), Conv2D(4, 3, padding=1)]),
        Branches([HardSwish()], []),
        Flatten(),
        Linear(5),
    ]


def batches(count, size, shape=SHAPE, classes=CLASSES):
    rng = np.random.default_rng(1)
    return [(rng.integers(0, 256, (size, *shape), np.uint8), rng.integers(0, classes, size)) for _ in range(count)]


def trained(model, data, **options):
    """Results of training steps on the batches, and the final state."""
    optimizer = SGD(0.9)
    optimizer.attach(model.backend, model.groups)
    results = []
    for images, labels in data:
        results.append(model.train_step(images, labels, **options))
        optimizer.step(0.001)
    return results, {name: array.tobytes() for name, array in model.state().items()}


# Results are the same with and without recordings: only the model's own store shows whether there are any.
def by_layers(model):
    """The model, kept from recording."""
    model._passes = Forgetful()
    return model


class Forgetful(dict):
    """Keeps no pass, so that each is the first."""

    def __setitem__(self, key, value):
        pass


def recorded(model):
    """Whether every pass of the model is one that repeats a recording."""
    return bool(model._passes) and all(passes._recorded for passes in model._passes.values())


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("net", SMALL)
def test_networks_of_the_zoo_learn_the_same_from_recordings(net, batch, backend):
    def run(prepare):
        model = prepare(architecture(net).build(backend=backend))
        data = batches(STEPS, batch, model.input_shape, 10)
        steps = trained(model, data)
        return model, steps, [model.predict(images, batch_size=batch).tobytes() for images, _ in data]

    model, *found = run(lambda model: model)
    assert recorded(model)
    assert len(model._passes) == 2
    assert found == list(run(by_layers)[1:])


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), MeanSquaredError()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("options", [{}, {"weight": 0.25}, {"after_layer": lambda place: None}], ids=str)
@pytest.mark.parametrize("layers", [plain, mixed, residual, graph])
def test_what_is_not_repeated_is_called_in_between(layers, options, loss, backend):
    def run(prepare):
        model = prepare(Sequential(layers(), SHAPE, loss=loss, backend=backend))
        return model, trained(model, batches(STEPS, 6), **options)

    model, found = run(lambda model: model)
    assert recorded(model)
    assert found == run(by_layers)[1]


def test_groups_dilation_and_local_response_are_recorded_whole(backend):
    def run(prepare):
        layers = [
            Conv2D(8, 3, padding=1, dilation=2),
            Conv2D(8, 3, groups=8, activation="relu"),
            Conv2D(16, 3, groups=8, padding=1, activation="tanh"),
            LocalResponseNorm(5, 0.1),
            Conv2D(16, 1, groups=4),
            LocalResponseNorm(3, 0.1, region="within"),
            Flatten(),
            Linear(CLASSES),
        ]
        model = prepare(Sequential(layers, SHAPE, backend=backend))
        return model, trained(model, batches(STEPS, 6))

    model, found = run(lambda model: model)
    assert recorded(model)
    assert all(passes._whole for passes in model._passes.values())
    assert found == run(by_layers)[1]


@dataclass(eq=False)
class Counted(ReLU):
    """Counts its forward passes."""

    def build(self, input_shape, *, context):
        super().build(input_shape, context=context)
        self.calls = 0

    def forward(self, x, *, training):
        self.calls += 1
        return super().forward(x, training=training)


def test_layers_are_no_longer_called_once_their_passes_are_recorded(backend):
    # The second convolution takes more temporary space than the first.
    layers = [Conv2D(20, 3), Counted(), Conv2D(2, 3), Flatten(), Linear(CLASSES)]
    model = Sequential(layers, SHAPE, backend=backend)
    data = batches(STEPS, 4)
    trained(model, data)
    assert model.layers[1].calls == SETTLED
    for images, _ in data:
        model.predict(images)
    assert model.layers[1].calls == 2 * SETTLED


@dataclass(eq=False)
class Doubled(ReLU):
    """Doubles in NumPy, which recordings do not see."""

    def forward(self, x, *, training):
        y = super().forward(x, training=training)
        y *= 2
        return y


@dataclass(eq=False)
class Noisy(ReLU):
    """Adds different numbers every time."""

    def forward(self, x, *, training):
        y = super().forward(x, training=training)
        y += self.context.rng.random(y.shape, np.float32)
        return y


@dataclass(eq=False)
class Elsewhere(ReLU):
    """Puts its output in another array every time."""

    def forward(self, x, *, training):
        self._y = super().forward(x, training=training).copy()
        return self._y


@dataclass(eq=False)
class Masked(ReLU):
    """Stores with NumPy where gradients pass; its forward pass does nothing else."""

    def forward(self, x, *, training):
        self._positive = self.buffers.get("positive", x.shape)
        np.copyto(self._positive, x > 0)
        return super().forward(x, training=training)

    def backward(self, dy):
        dx = self.input_gradient_buffer(len(dy))
        self.backend.scale(dy, self._positive, dx)
        return dx


@pytest.mark.parametrize("layer", [Doubled, Noisy, Elsewhere, Masked])
def test_a_layer_that_claims_to_be_repeatable_and_is_not_is_found_out(layer, backend):
    def run(prepare):
        layers = [Conv2D(2, 3), layer(), Flatten(), Linear(CLASSES)]
        model = prepare(Sequential(layers, SHAPE, backend=backend))
        return model, trained(model, batches(STEPS, 4))

    model, found = run(lambda model: model)
    assert not recorded(model)
    assert found == run(by_layers)[1]


@dataclass(frozen=True)
class Smoothed(SoftmaxCrossEntropy):
    """Changes the gradients in NumPy."""

    def evaluate(self, backend, scores, labels, out):
        result = super().evaluate(backend, scores, labels, out)
        if out is not None:
            out *= 0.9
        return result


def test_a_loss_that_claims_to_be_repeatable_and_is_not_is_found_out(backend):
    def run(prepare):
        model = prepare(Sequential(plain(), SHAPE, loss=Smoothed(), backend=backend))
        return model, trained(model, batches(STEPS, 4))

    model, found = run(lambda model: model)
    assert not recorded(model)
    assert found == run(by_layers)[1]


class Stranger(Layer):
    """A layer without a setting for recordings: in NumPy, with its output in new memory each time."""

    def shape_after(self, input_shape):
        return input_shape

    def forward(self, x, *, training):
        self._x = x.copy()
        return np.square(x)

    def backward(self, dy):
        return 2 * self._x * dy


def test_a_layer_that_says_nothing_is_called_every_time(backend):
    def run(prepare):
        model = prepare(Sequential([Conv2D(2, 3), Stranger(), Flatten(), Linear(CLASSES)], SHAPE, backend=backend))
        return model, trained(model, batches(STEPS, 4))

    model, found = run(lambda model: model)
    assert recorded(model)
    assert found == run(by_layers)[1]


def test_batches_of_many_sizes_and_threads_take_turns(backend):
    def run(prepare):
        model = prepare(Sequential(mixed(), SHAPE, backend=backend))
        results = []
        for size in (4, 4, 4, 4, 4, 9, 4, 3, 4, 9, 4, 4, 4, 16, 4, 9, 9, 9, 9, 4, 4, 4, 4):
            data = batches(2, size)
            for threads in (1, 2):
                with limit_threads(threads):
                    results.append([trained(model, data), *(model.predict(each).tobytes() for each, _ in data)])
        return model, results

    model, found = run(lambda model: model)
    assert found == run(by_layers)[1]
    assert any(passes._recorded for passes in model._passes.values())


def test_a_recording_is_forgotten_when_a_buffer_moves(backend):
    model = Sequential(plain(), SHAPE, backend=backend)
    trained(model, batches(STEPS, 4))
    assert recorded(model)
    trained(model, batches(1, 5))
    assert {key[1][0] for key in model._passes} == {5}


def test_each_layer_is_told_of_and_observed_in_its_turn(backend):
    model = Sequential(mixed(), SHAPE, backend=backend)
    told, seen = [], []

    def observe(place, direction, run):
        seen.append((direction, place))
        run()

    model.network.observer = observe
    for images, labels in batches(STEPS, 4):
        seen.clear()
        told.clear()
        model.train_step(images, labels, after_layer=told.append)
    forward, backward = list(range(9)), list(reversed(range(9)))
    assert told == backward
    assert seen == [(FORWARD, place) for place in forward] + [(BACKWARD, place) for place in backward]


@pytest.mark.parametrize("layers", [plain, mixed])
def test_a_model_and_its_arrays_go_with_the_last_reference(layers, backend):
    model = Sequential(layers(), SHAPE, backend=backend)
    data = batches(STEPS, 4)
    trained(model, data)
    trained(model, data, after_layer=lambda place: None)
    for images, _ in data:
        model.predict(images)
    there, array = weakref.ref(model), weakref.ref(model.network.arrays.outputs[0])
    gc.disable()
    try:
        del model
        assert there() is None
        assert array() is None
    finally:
        gc.enable()


def test_a_label_that_is_no_class_is_an_error_in_a_recording_too(backend):
    model = Sequential(plain(), SHAPE, backend=backend)
    data = batches(STEPS, 4)
    trained(model, data)
    images, labels = data[0]
    with pytest.raises(UsageError, match="labels for 5 classes"):
        model.train_step(images, labels + CLASSES)
    assert np.isfinite(model.train_step(images, labels)[0])


def test_where_nan_came_up_first_is_found_after_a_recorded_pass(backend):
    model = Sequential(plain(), SHAPE, backend=backend)
    data = batches(STEPS, 4)
    trained(model, data)
    model.predict(data[0][0][:1])
    model.parameters[-2].value[0, 0] = np.nan
    model.train_step(*data[0])
    assert model.network.first_non_finite() == f"the parameter {model.parameters[-2].name}"


def test_models_in_two_threads_record_each_its_own_kernels(backend):
    def model():
        return Sequential(plain(), SHAPE, backend=backend)

    with limit_threads(1):
        expected = trained(by_layers(model()), batches(20, 4))
        found = [None, None]

        def run(place):
            with limit_threads(1):
                found[place] = trained(model(), batches(20, 4))

        threads = [threading.Thread(target=run, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected, expected]


def test_a_recording_returns_what_its_last_kernel_did_that_returns_anything():
    scores, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 1])
    shares, slopes = np.empty(9, np.float32), np.empty(9, np.float32)
    made = KernelRecording()
    with made.record():
        expected = losses.cross_entropy(scores.reshape(-1), labels, slopes, 0.0, 3)
        losses.softmax(scores.reshape(-1), shares, 3)
    assert made.prepare()
    assert made.repeat() == expected
    scores *= 7
    assert made.repeat() == losses.cross_entropy(scores.reshape(-1), labels, slopes, 0.0, 3)
    np.testing.assert_allclose(shares.reshape(3, 3).sum(axis=1), 1, rtol=1e-6)


def test_a_recording_says_when_a_kernel_finds_no_memory():
    x = np.ones(1, np.float32)
    made = KernelRecording()
    with made.record(), pytest.raises(MemoryError):
        losses.softmax(x, x, 1 << 55)
    assert made.prepare()
    with pytest.raises(MemoryError, match="smaller batch"):
        made.repeat()


def test_a_model_forgets_the_pass_it_has_not_used_for_longest(backend, monkeypatch):
    monkeypatch.setattr(sequential, "MOST_PASSES", 3)
    model = Sequential(plain(), SHAPE, backend=backend)
    for size in (9, 1, 2, 3, 4, 2, 5):
        model.predict(batches(1, size)[0][0])
    assert [key[1][0] for key in model._passes] == [4, 2, 5]


def refuse(calls):
    raise RuntimeError("Failed to materialize symbols")


@pytest.mark.parametrize("fault", [{"MOST": 0}, {"_machine_code": refuse}], ids=lambda fault: next(iter(fault)))
@pytest.mark.parametrize("layers", [plain, mixed])
def test_where_no_more_recordings_can_be_made_the_layers_are_called(layers, fault, backend, monkeypatch):
    for name, value in fault.items():
        monkeypatch.setattr(recording, name, value)
    model, data = Sequential(layers(), SHAPE, backend=backend), batches(STEPS, 4)
    found = trained(model, data)
    assert not any(passes._recorded for passes in model._passes.values())
    assert found == trained(by_layers(Sequential(layers(), SHAPE, backend=backend)), data)


def test_a_recording_counts_while_it_exists():
    gc.collect()
    before, made = len(recording._prepared), KernelRecording()
    assert made.prepare()
    assert len(recording._prepared) == before + 1
    del made
    assert len(recording._prepared) == before


def test_buffers_keep_few_views(monkeypatch):
    monkeypatch.setattr(arrays, "MOST_VIEWS", 3)
    buffers = arrays.Buffers(create("numpy"))
    first = buffers.get("x", (9,))
    for size in range(9):
        buffers.get("x", (size,))[:] = size
    assert len(buffers._views) <= 3
    assert first[0] == 8


def test_a_backend_without_kernels_goes_by_its_layers():
    model = Sequential(plain(), SHAPE, backend="numpy")
    trained(model, batches(STEPS, 4))
    assert not recorded(model)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_another_batch_after_several_of_the_same_is_computed(backend, precision):
    """In float64 NumPy computes, which a recording does not see."""
    rng = np.random.default_rng(0)
    model, truth = (
        cnn.Sequential(
            [cnn.Conv2D(3, 3, activation="relu"), cnn.Flatten(), cnn.Linear(4)],
            (6, 6, 1),
            backend=each,
            precision=precision,
        )
        for each in (backend, "numpy")
    )
    one, other = rng.integers(0, 256, (2, 5, 6, 6, 1), np.uint8)
    for _ in range(SETTLED + 1):
        before = model.predict(one)
    after = model.predict(other)
    assert not np.allclose(before, after)
    assert np.allclose(after, truth.predict(other), atol=1e-5)
