"""Copies: of models, runs and their parts, by `copy` and `pickle`, which go on as the original would."""

import copy
import io
import pickle

import joblib
import numpy as np
import pytest
from helpers.ready_backends import ready

from cnn import plugins, registry
from cnn.arrays import Buffers
from cnn.data.dataset import Dataset, Split
from cnn.data.preprocessing import Preprocessing
from cnn.energy.meters import Measured
from cnn.errors import BackendUnavailable, UsageError
from cnn.instruments import private
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear, MaxPool2D
from cnn.layers.layer import Parameter, packed
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD, Adam
from cnn.training.trainer import Trainer

BACKENDS = ("numpy", "mkl", "openblas", "reference")
WAYS = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda each: pickle.loads(pickle.dumps(each)),
    "joblib": lambda each: through_joblib(each),
}


def through_joblib(each):
    file = io.BytesIO()
    joblib.dump(each, file)
    file.seek(0)
    return joblib.load(file)


SPLIT = Split(
    np.random.default_rng(0).integers(0, 256, (12, 6, 6, 2), np.uint8), np.random.default_rng(1).integers(0, 3, 12)
)


def model(backend="numpy"):
    layers = [Conv2D(3, 3, activation="relu"), BatchNorm(), MaxPool2D(2), Flatten(), Dropout(0.5), Linear(3)]
    constants = Preprocessing.mean_image(SPLIT)
    return Sequential(
        layers, (6, 6, 2), name="mine", classes=[*"abc"], preprocessing=constants, backend=backend, seed=3
    )


def losses(net, steps=5):
    """The losses of training steps; recordings start with the third."""
    optimizer = SGD()
    optimizer.attach(net.backend, net.groups)
    found = []
    for _ in range(steps):
        found.append(net.train_step(SPLIT.images, SPLIT.labels)[0])
        optimizer.step(0.05)
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_copied_model_learns_as_the_original_does(name, way):
    net = model(ready(name))
    losses(net)
    net.network.observer = lambda place, direction, run: run()
    copied = WAYS[way](net)
    assert (copied.config(), copied.preprocessing) == (net.config(), net.preprocessing)
    assert copied.backend is net.backend
    before = net.state()
    found = losses(copied)
    assert len(set(found)) == len(found)
    assert all(array.tobytes() == before[key].tobytes() for key, array in net.state().items())
    assert losses(net) == found
    assert copied.predict(SPLIT.images).tobytes() == net.predict(SPLIT.images).tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_run_ends_with_the_bytes_of_the_original(way):
    # A shallow copy shares the model.
    trainer = Trainer(model(), SPLIT, validation=SPLIT, optimizer=Adam(), batch_size=5, patience=9)
    trainer.run(1)
    copied = WAYS[way](trainer)
    if way != "copy":
        trainer.run(3)
        expected = trainer.model.state()
        copied.run(3)
        assert copied.position.step == 9
        assert all(array.tobytes() == expected[key].tobytes() for key, array in copied.model.state().items())
    else:
        assert copied.model is trainer.model
        assert all((copied.optimizer.state[key] == each).all() for key, each in trainer.optimizer.state.items())


@pytest.mark.parametrize("way", WAYS)
def test_the_copy_of_a_built_layer_can_be_built_again(way):
    net = model()
    net.layers[4].rate = 0.25
    layers = [WAYS[way](layer) for layer in net.layers]
    assert [layer.config() for layer in layers] == [layer.config() for layer in net.layers]
    again = Sequential(layers, (6, 6, 2), classes=[*"abc"], backend="numpy")
    assert len(set(losses(again))) == 5
    assert copy.deepcopy(net.network).layers[0].name is None


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_parts_of_a_copied_group_share_its_memory(way):
    backend = registry.create("numpy")
    parts = [Parameter(name, np.full(3, k, np.float32), np.zeros(3, np.float32)) for k, name in enumerate("ab")]
    group = WAYS[way](packed(backend, parts)[0])
    group.value[:] = 7
    group.gradient[:] = 8
    assert [(*part.value, *part.gradient) for part, _ in group.parts] == [(7, 7, 7, 8, 8, 8)] * 2
    assert parts[1].value.tolist() == [1, 1, 1]


def test_the_copy_of_an_optimizer_has_its_settings_and_no_parameters():
    net, optimizer = model(), Adam(0.8, weight_decay=0.1)
    optimizer.attach(net.backend, net.groups)
    for way in WAYS.values():
        copied = way(optimizer)
        assert copied.config() == optimizer.config()
        with pytest.raises(UsageError, match="updates no parameters yet; call `attach` first"):
            copied.step(0.1)


def test_copied_buffers_are_empty():
    buffers = Buffers(registry.create("numpy"))
    buffers.get("x", (2, 3))
    assert copy.deepcopy(buffers).nbytes() == 0


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_is_copied_as_itself_and_pickled_as_its_name(name):
    backend = ready(name)
    assert [way(backend) for way in WAYS.values()] == [backend] * len(WAYS)
    assert len(pickle.dumps(backend)) < 200
    replaced = private(backend, gemm=lambda operation, *arrays, **options: None)
    assert copy.deepcopy(replaced) is replaced
    assert type(replaced) is not type(backend)


def test_options_of_a_pickled_backend_are_kept():
    ready("openblas")
    assert pickle.loads(pickle.dumps(registry.create("openblas", tile_bytes=4096)))._tile_bytes == 4096


NumpyBackend = plugins.load(plugins.BACKENDS, "numpy")


class Gone(NumpyBackend):
    """A backend that another machine lacks."""

    name = "gone"
    here = True

    def __init__(self):
        super().__init__()
        if not self.here:
            raise BackendUnavailable("Backend 'gone' is not here; choose another backend.")


def test_a_model_of_a_backend_that_is_not_there_says_so(register_backend, forget_backends, monkeypatch):
    register_backend(Gone)
    stored = pickle.dumps(model("gone"))
    forget_backends()
    monkeypatch.setattr(Gone, "here", False)
    with pytest.raises(BackendUnavailable, match="'gone' is not here"):
        pickle.loads(stored)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="There is no backend 'gone'"):
        pickle.loads(stored)


def test_a_backend_without_a_name_to_make_it_by_is_not_pickled():
    with pytest.raises(UsageError, match="'numpy' was not made by its name"):
        pickle.dumps(model(NumpyBackend()))


def test_data_and_meters_are_copied():
    data = Dataset("mine", SPLIT, SPLIT, ("a", "b", "c"))
    with Measured([]) as meter:
        assert copy.deepcopy(meter) is meter
        assert "stayed in the process" in pickle.loads(pickle.dumps(meter)).source
    for way in WAYS.values():
        assert way(data).train.images.tobytes() == SPLIT.images.tobytes()
