"""The training loop: it learns, gives the same bytes again, stops where it should, and reports what happened."""

import struct
import sys
from dataclasses import dataclass
from itertools import chain
from math import log

import numpy as np
import pytest
from helpers.ready_backends import ready

import cnn
from cnn.compiled.algorithms import Chooser
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Split, load_dataset
from cnn.errors import CnnError, NonFiniteError, UsageError
from cnn.initializers import Gaussian, Ones
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Layer, Linear, MaxPool2D
from cnn.model.architecture import Recipe
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD, Adam
from cnn.schedules import Constant, Step
from cnn.testing.gradients import check_gradients
from cnn.training.fitting import fit
from cnn.training.trainer import Callback, Trainer


def net(seed=0, backend="numpy"):
    layers = [Conv2D(4, 3, activation="relu"), BatchNorm(), MaxPool2D(2), Flatten(), Dropout(0.25), Linear(3)]
    return Sequential(layers, (8, 8, 1), backend=backend, seed=seed)


def linear(classes=2):
    """Scores are linear in the four pixels of an image; the first weights are zero."""
    return Sequential([Flatten(), Linear(classes, weights="Zeros")], (2, 2, 1), backend="numpy")


def split(count, shape=(8, 8, 1), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, classes, count))


def weights(model):
    return b"".join(array.tobytes() for _, array in sorted(model.state().items()))


def test_a_small_network_learns_the_synthetic_patterns():
    data = load_dataset("synthetic")
    layers = [Conv2D(8, 5, stride=2, activation="relu"), MaxPool2D(2), Flatten(), Linear(10)]
    model = Sequential(layers, data.shape, backend="numpy")
    assert model.evaluate(data.test)[1] < 0.3
    results = fit(model, data.train, epochs=6, schedule=Constant(0.05))
    assert [result.epoch for result in results] == [1, 2, 3, 4, 5, 6]
    assert results[-1].train_loss < 0.3 * results[0].train_loss
    assert model.evaluate(data.test)[1] > 0.9


@dataclass(eq=False)
class Gain(Layer):
    """A user's own layer: every pixel times a trained factor of its position."""

    def shape_after(self, input_shape):
        return input_shape

    def create(self):
        self.factor = self.add_parameter("factor", self.input_shape, Ones(), (1.0, 1.0))

    def forward(self, x, *, training):
        self._x = x
        return x * self.factor.value

    def backward(self, dy):
        self.factor.gradient[...] = (dy * self._x).sum(axis=0)
        return dy * self.factor.value


def test_a_users_own_first_layer_that_defines_only_forward_and_backward_learns():
    assert check_gradients(Gain(), (2, 2, 1), backend="numpy") <= 1

    def scores(dtype):
        # Only the first layer learns.
        last = Linear(2, False, weights=Gaussian(0.5), weight_multipliers=(0.0, 0.0))
        return Sequential([Gain(), Flatten(), last], (2, 2, 1), backend="numpy", precision=np.dtype(dtype).name)

    assert check_gradients(scores(np.float64), batch=4) <= 1
    model, data = scores(np.float32), split(60, (2, 2, 1), 2)
    before = model.state()
    results = fit(model, data, epochs=5, optimizer=SGD(0.0), schedule=Constant(0.5))
    assert results[-1].train_loss < results[0].train_loss
    after = model.state()
    assert (after["gain1.factor"] != before["gain1.factor"]).all()
    np.testing.assert_array_equal(after["linear1.weight"], before["linear1.weight"])


@pytest.mark.parametrize("backend", ["numpy", "mkl"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(backend):
    ready(backend)
    found = []
    for seed in (1, 1, 2):
        model = net(seed, backend)
        settings = {"batch_size": 16, "augmentation": Augmentation(True, 1), "optimizer": Adam()}
        results = fit(model, split(50), epochs=2, validation=split(20, seed=1), **settings)
        measured = [(each.train_loss, each.train_accuracy, each.val_loss, each.val_accuracy) for each in results]
        found.append((weights(model), measured))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]


def test_the_results_of_an_epoch_are_those_worked_by_hand():
    # A learning rate of 1e-30 leaves the zero weights as good as they are: all scores 0, every probability 1/4, and
    # class 0 the answer throughout.
    data = Split(np.ones((5, 2, 2, 1), np.uint8), np.array([0, 1, 0, 3, 2]))
    held = Split(np.ones((4, 2, 2, 1), np.uint8), np.array([0, 0, 0, 3]))
    (result,) = fit(linear(4), data, epochs=1, validation=held, batch_size=2, schedule=Constant(1e-30))
    assert result.epoch == 1
    assert result.train_loss == pytest.approx(log(4), rel=1e-6)
    assert result.train_accuracy == 2 / 5
    assert result.val_loss == pytest.approx(log(4), rel=1e-6)
    assert result.val_accuracy == 3 / 4
    assert result.learning_rate == 1e-30
    assert result.images_per_second == pytest.approx(5 / result.seconds)
    assert result.row()["train_accuracy"] == 2 / 5


def test_without_validation_its_figures_are_none_and_the_rate_is_that_of_the_last_step():
    results = fit(net(), split(10), epochs=2, batch_size=4, schedule=Step(0.01, 2))
    assert [(each.val_loss, each.val_accuracy) for each in results] == [(None, None)] * 2
    assert [each.learning_rate for each in results] == pytest.approx([1e-3, 1e-4])


def test_one_step_of_plain_descent_worked_by_hand():
    # Scores 0, probabilities 1/2: the gradient of the mean loss is 1/2 - 1 for the right class, times pixel / 256.
    model = linear()
    data = Split(np.array([0, 64, 128, 255], np.uint8).reshape(1, 2, 2, 1), np.array([1]))
    fit(model, data, epochs=1, optimizer=SGD(0.0), schedule=Constant(0.1))
    steps = 0.1 * 0.5 * np.array([0, 64, 128, 255]) / 256
    np.testing.assert_allclose(model.state()["linear1.weight"], np.stack([-steps, steps], axis=1), rtol=1e-6)
    np.testing.assert_allclose(model.state()["linear1.bias"], [-0.05, 0.05], rtol=1e-6)


def test_every_image_is_seen_once_an_epoch_in_another_order(monkeypatch):
    data = Split(
        np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8), np.arange(10) % 2
    )
    model, seen = linear(), []
    step = model.train_step

    def record(images, labels, order, *rest, **more):
        seen.append(images[order, 0, 0, 0].tolist())
        return step(images, labels, order, *rest, **more)

    monkeypatch.setattr(model, "train_step", record)
    fit(model, data, epochs=2, batch_size=4)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    epochs = [list(chain(*seen[:3])), list(chain(*seen[3:]))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def test_one_recipe_serves_several_runs_at_the_same_time():
    recipe = Recipe(optimizer=Adam(weight_decay=1e-3), schedule=Step(0.01, 2), augmentation=Augmentation(True, 1))
    optimizer, schedule = dict(vars(recipe.optimizer)), dict(vars(recipe.schedule))

    def trainer(seed):
        settings = {"schedule": recipe.schedule, "augmentation": recipe.augmentation, "batch_size": 16}
        return Trainer(net(seed), split(50), optimizer=recipe.optimizer, **settings)

    alone, first = trainer(1), trainer(1)
    alone.run(2)
    first.run(1)
    second = trainer(2)
    second.run(1)
    first.run(2)
    assert weights(first.model) == weights(alone.model)
    assert weights(second.model) != weights(alone.model)
    assert (vars(recipe.optimizer), vars(recipe.schedule)) == (optimizer, schedule)


def test_what_is_not_the_model_or_its_images_is_named():
    with pytest.raises(TypeError, match="positional argument"):
        Trainer(net(), split(4), split(4))


class Log(Callback):
    def __init__(self, name, events):
        self.name, self.events = name, events

    def on_batch(self, trainer):
        self.events.append((self.name, trainer.position.epoch, trainer.position.batch, trainer.position.step))

    def on_epoch(self, trainer, result):
        assert (result.val_loss is None) == (trainer.validation is None)
        self.events.append((self.name, f"epoch {result.epoch}"))


def named(split, *classes):
    return Split(split.images, split.labels, classes)


def test_labels_count_in_the_models_classes_by_name():
    data = named(split(30), "cat", "dog", "zebra")
    model = net()
    first = Trainer(model, data)
    assert first.train is data
    assert model.classes == ("cat", "dog", "zebra")
    turned = named(Split(data.images, 2 - data.labels), "zebra", "dog", "cat")
    assert model.evaluate(turned) == model.evaluate(data) == model.evaluate(Split(data.images, data.labels))
    pair = turned.take(np.flatnonzero(turned.labels != 0))
    trainer = Trainer(model, turned, validation=pair)
    np.testing.assert_array_equal(trainer.train.labels, data.labels)
    assert set(trainer.validation.labels) == {0, 1}
    strange = named(data, "ant", "cat", "dog")
    for use in (model.evaluate, lambda images: fit(model, images, epochs=1)):
        with pytest.raises(UsageError, match="images of ant, but the model's classes are cat, dog, zebra; leave"):
            use(strange)
    assert model.evaluate(strange.take(np.flatnonzero(strange.labels)))


def test_callbacks_are_told_of_each_step_and_epoch_in_turn():
    events = []
    fit(net(), split(10), epochs=2, batch_size=5, callbacks=[Log("a", events), Log("b", events)])
    expected = [(0, 1, 1), (0, 2, 2), "epoch 1", (1, 1, 3), (1, 2, 4), "epoch 2"]
    pairs = [(name, event) if isinstance(event, str) else (name, *event) for event in expected for name in "ab"]
    assert events == pairs


def opposites():
    """Training images whose labels are wrong for the validation images, so that each epoch makes those worse."""
    images = np.full((8, 2, 2, 1), 255, np.uint8)
    return Split(images, np.ones(8, np.int64)), Split(images, np.zeros(8, np.int64))


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_stops_the_run_and_brings_the_best_weights_back(patience):
    train, validation = opposites()
    after = []

    class Keep(Callback):
        def on_epoch(self, trainer, result):
            after.append(weights(trainer.model))

    model = linear()
    results = fit(model, train, epochs=50, validation=validation, patience=patience, callbacks=[Keep()])
    assert len(results) == 1 + patience
    losses = [each.val_loss for each in results]
    assert losses == sorted(losses)
    assert weights(model) == after[0]
    assert len(set(after)) == len(after)
    assert model.evaluate(validation)[0] == losses[0]


def test_a_run_whose_validation_improves_goes_on_to_its_end_and_keeps_the_last_weights():
    train, _ = opposites()
    model, plain = linear(), linear()
    assert len(fit(model, train, epochs=6, validation=train, patience=1)) == 6
    fit(plain, train, epochs=6)
    assert weights(model) == weights(plain)


def test_a_rate_that_is_too_high_is_an_error_with_the_place_and_leaves_the_checkpoint(tmp_path):
    trainer = Trainer(net(), split(50), batch_size=16, schedule=Constant(0.01), checkpoint=tmp_path / "run")
    trainer.run(1)
    kept = (tmp_path / "run").read_bytes()
    trainer.schedule = Constant(1e30)
    with pytest.raises(
        NonFiniteError, match=r"at step \d+ \(epoch 2\), first in the \w+.* (conv1|batchnorm1|linear1)"
    ) as caught:
        trainer.run(5)
    assert "lower the learning rate, now 1e+30" in str(caught.value)
    assert (tmp_path / "run").read_bytes() == kept


@pytest.mark.parametrize("every", [None, 1])
def test_weights_that_overflow_in_the_last_step_reach_no_checkpoint_and_end_in_an_error(every, tmp_path):
    # The loss of the only step is fine; the step itself sends the weights to infinity.
    data = Split(np.full((4, 2, 2, 1), 255, np.uint8), np.zeros(4, np.int64))
    trainer = Trainer(
        linear(),
        data,
        optimizer=SGD(0.0),
        schedule=Constant(1e300),
        checkpoint=tmp_path / "run",
        checkpoint_every=every,
    )
    with pytest.raises(NonFiniteError, match=r"linear1\.weight became infinite or NaN at step 1 \(epoch 1\)"):
        trainer.run(1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, not 0"),
        ({"patience": 0, "validation": split(4)}, "patience must be at least 1, not 0"),
        ({"patience": 1}, "needs a validation split"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1 step, not 0"),
        ({"validation": split(9, classes=9)}, "label 8, but net has only 3 classes"),
        ({"epochs": 0}, "epochs must be a number above 0 and at most 1,000,000, not 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        fit(net(), split(10), **{"epochs": 1, **settings})


def test_training_data_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="has no images"):
        fit(net(), split(0), epochs=1)
    with pytest.raises(UsageError, match="label 8, but net has only 3 classes"):
        fit(net(), split(90, classes=9), epochs=1)


@pytest.mark.parametrize("name", ["openblas", "mkl"])
def test_timing_algorithms_is_announced_and_is_no_part_of_an_epoch(name, tmp_path, monkeypatch, capsys):
    backend, clock = ready(name), [0.0]
    capsys.readouterr()

    def tick():
        clock[0] += 1.0
        return clock[0]

    def best_times(candidates, *, cold):
        assert not cold
        clock[0] += 1000.0
        return dict.fromkeys(candidates, 0.001)

    monkeypatch.delenv("CNN_ALGORITHM")
    monkeypatch.delenv("CNN_DETERMINISTIC", raising=False)
    monkeypatch.setattr(backend, "_chooser", Chooser("test", tmp_path))
    monkeypatch.setattr(backend, "_chosen", {})
    monkeypatch.setattr("cnn.compiled.algorithms._best_times", best_times)
    monkeypatch.setattr("cnn.training.trainer.now", tick)
    model = net(backend=backend)
    results = fit(model, split(50), epochs=2, batch_size=16, validation=split(20, seed=1))
    assert clock[0] > 1000
    assert [each.seconds for each in results] == [4.0, 4.0]
    assert capsys.readouterr().err == "timing algorithms, once per shape\n"
    # All choices are made now: without anything to time, a run from the same seed gives the same bytes.
    straight = net(backend=backend)
    monkeypatch.setattr("cnn.training.trainer.rehearse", lambda *_: None)
    assert [each.train_loss for each in fit(straight, split(50), epochs=2, batch_size=16)] == [
        each.train_loss for each in results
    ]
    assert weights(straight) == weights(model)


class TestTensorBoard:
    def test_each_epoch_is_a_point_of_each_curve(self, tmp_path):
        from tensorboardX.proto.event_pb2 import Event

        rng = np.random.default_rng(0)
        split = cnn.Split(rng.integers(0, 256, (20, 4, 4, 1), np.uint8), rng.integers(0, 2, 20))
        model = cnn.Sequential([cnn.Flatten(), cnn.Linear(2)], (4, 4, 1), backend="numpy")
        results = cnn.fit(model, split, epochs=2, validation=split, callbacks=[cnn.TensorBoard(tmp_path / "events")])
        (file,) = (tmp_path / "events").iterdir()
        content, found = file.read_bytes(), []
        while content:
            # A record: its length, the checksum of that, the event, and its checksum.
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(each.tag, event.step, each.simple_value) for each in event.summary.value]
            content = content[16 + length :]
        losses = [(step, value) for tag, step, value in found if tag == "loss/validation"]
        assert losses == [(each.epoch, pytest.approx(each.val_loss)) for each in results]
        assert len({tag for tag, _, _ in found}) == 6

    def test_without_the_package_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        with pytest.raises(CnnError, match=r"pip install 'cnn-blas\[tensorboard\]'"):
            cnn.TensorBoard(tmp_path)
