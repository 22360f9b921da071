"""Copies for inference: the same scores, weights that nobody can change, and what is made of them only once."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
from helpers.ready_backends import ready

import cnn
from cnn.arrays import Buffers
from cnn.errors import UsageError
from cnn.layers import BatchNorm, Conv2D, Flatten, Linear, MaxPool2D
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD
from cnn.registry import create

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
LABELS = np.arange(9) % 4
PRECISIONS = ("float32", "bfloat16", "float64")


def built(backend, precision="float32"):
    layers = [
        Conv2D(8, 3, padding=1, bias=False),
        BatchNorm(activation="relu"),
        Conv2D(16, 3, padding=1, activation="relu"),
        MaxPool2D(4),
        Flatten(),
        Linear(12),
        BatchNorm(),
        Linear(4),
    ]
    model = Sequential(layers, (16, 16, 3), backend=backend, precision=precision)
    optimizer = SGD(0.9)
    optimizer.attach(model.backend, model.groups, 0.1)
    for _ in range(2):  # so that statistics are not those of the start
        model.train_step(IMAGES, LABELS)
        optimizer.step(0.1)
    return model


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("algorithm", ["auto", "winograd2", "winograd4", "direct"])
@pytest.mark.parametrize("name", ["numpy", "openblas"])
def test_the_scores_are_the_models(name, precision, algorithm, monkeypatch):
    monkeypatch.setenv("CNN_ALGORITHM", algorithm)
    model = built(ready(name), precision)
    copy = model.for_inference()
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2, "float64": 1e-12}[precision]
    for count in (1, 9, 1, 9, 1, 1):  # by layers, recorded, checked and repeated, for one image and for several
        np.testing.assert_allclose(copy.predict(IMAGES[:count]), model.predict(IMAGES[:count]), atol=tolerance)
    loss, accuracy = copy.evaluate(cnn.Split(IMAGES, LABELS))
    assert (loss, accuracy) == pytest.approx(model.evaluate(cnn.Split(IMAGES, LABELS)), rel=50 * tolerance)


def test_what_is_made_of_weights_is_made_once():
    """A change of the arrays behind a copy's back is seen by the model, and not by the copy's folded weights."""
    model = built(create("numpy"))
    copy = model.for_inference()
    before = [each.predict(IMAGES) for each in (model, copy)]
    for each in (model, copy):
        each.network.parameters[0].value[...] *= -1
    after = [each.predict(IMAGES) for each in (model, copy)]
    assert np.abs(before[0] - after[0]).max() > 1e-3
    assert before[1].tobytes() == after[1].tobytes()


def test_nothing_changes_a_copy():
    copy = built(create("numpy")).for_inference()
    kept = copy.predict(IMAGES)
    for change in (
        lambda: copy.train_step(IMAGES, LABELS),
        lambda: copy.load_state(copy.state()),
        lambda: [*cnn.fit(copy, cnn.Split(IMAGES / 255, LABELS), epochs=1)],
        lambda: copy.get_to_know(cnn.Split(IMAGES / 255, LABELS)),
        lambda: copy.forward(copy.load_images(IMAGES), training=True),
    ):
        with pytest.raises(UsageError, match="is a copy for inference, whose weights stay as they are"):
            change()
    for array in (copy.parameters[0].value, *copy.arrays().values()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert copy.predict(IMAGES).tobytes() == kept.tobytes()


def test_the_model_goes_on_and_its_copy_stays():
    model = built(create("numpy"))
    copy = model.for_inference()
    kept = copy.predict(IMAGES)
    [*cnn.fit(model, cnn.Split(IMAGES, LABELS), epochs=2, schedule=cnn.schedules.Constant(0.1))]
    assert np.abs(model.predict(IMAGES) - kept).max() > 1e-3
    assert copy.predict(IMAGES).tobytes() == kept.tobytes()
    assert not model.context.scratch.constants


@pytest.mark.parametrize("again", [deepcopy, lambda copy: pickle.loads(pickle.dumps(copy))], ids=["copy", "pickle"])
def test_a_copy_of_a_copy_is_one(again):
    copy = built(create("numpy")).for_inference()
    other = again(copy)
    assert other.only_classifies
    assert other.predict(IMAGES).tobytes() == copy.predict(IMAGES).tobytes()
    with pytest.raises(UsageError, match="copy for inference"):
        other.train_step(IMAGES, LABELS)


def test_a_pickle_of_a_version_without_copies_for_inference_is_read():
    model = built(create("numpy"))
    kept, state = model.predict(IMAGES), deepcopy(model.__getstate__())
    del state["only_classifies"]
    read = Sequential.__new__(Sequential)
    read.__setstate__(state)
    assert read.predict(IMAGES).tobytes() == kept.tobytes()
    read.train_step(IMAGES, LABELS)


def test_an_interrupted_pass_leaves_nothing_that_is_made_in_part(monkeypatch):
    model = built(create("numpy"))
    copy, kind = model.for_inference(), type(model.backend)

    def interrupted(*arrays, **numbers):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind, "batch_norm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy.predict(IMAGES)
    np.testing.assert_allclose(copy.predict(IMAGES), model.predict(IMAGES), atol=1e-5)


def test_a_copy_is_saved_as_any_model(tmp_path):
    copy = built(create("numpy")).for_inference()
    cnn.save_model(copy, tmp_path / "copy.safetensors")
    read = cnn.load_model(tmp_path / "copy.safetensors", backend="numpy")
    np.testing.assert_allclose(read.predict(IMAGES), copy.predict(IMAGES), rtol=1e-6)
    read.train_step(IMAGES, LABELS)


def test_buffers_make_what_changes_anew_and_what_does_not_once():
    moved = []
    buffers = Buffers(create("numpy"), on_move=lambda: moved.append(True))
    source, calls = np.arange(6, dtype=np.float32), []

    def doubled(out):
        calls.append(out)
        np.multiply(source, 2, out=out)

    for _ in range(2):
        buffers.made_of(source, "doubled", (6,), None, doubled)
    assert len(calls) == 2
    buffers.constants.add(source.ctypes.data)
    first, second = (buffers.made_of(source, "doubled", (6,), None, doubled) for _ in range(2))
    assert len(calls) == 3
    assert first is second
    assert buffers.keeps(first)
    of_that = buffers.made_of(first, "copied", (6,), None, lambda out: np.copyto(out, first))
    assert of_that.tolist() == [0, 2, 4, 6, 8, 10]
    size, address = buffers.nbytes(), of_that.ctypes.data
    buffers.forget(source)
    assert buffers.nbytes() == size - 2 * first.nbytes
    assert moved
    assert not {first.ctypes.data, address} & buffers.constants
    buffers.made_of(source, "doubled", (6,), None, doubled)
    assert len(calls) == 4


def test_interrupted_forgetting_leaves_nothing_that_seems_to_be_made():
    def interrupted():
        raise KeyboardInterrupt

    buffers, source = Buffers(create("numpy"), on_move=interrupted), np.arange(6, dtype=np.float32)
    buffers.constants.add(source.ctypes.data)

    def made():
        return buffers.made_of(source, "copied", (6,), None, lambda out: np.copyto(out, source))

    first = made()
    with pytest.raises(KeyboardInterrupt):
        buffers.forget(source)
    assert buffers.constants == {source.ctypes.data}
    assert np.may_share_memory(buffers.arrays()[0], first)  # recordings that are still there may name it
    first[...] = 0
    assert made().tolist() == [0, 1, 2, 3, 4, 5]
