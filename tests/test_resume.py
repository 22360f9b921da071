"""A run that is stopped, even killed, and continued ends with the same bytes as one that never stopped."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Dataset, Split
from cnn.data.preprocessing import Preprocessing
from cnn.errors import FileFormatError, Interrupted, UsageError
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear, MaxPool2D
from cnn.model.modelfile import save_model
from cnn.model.sequential import Sequential
from cnn.model.zoo import architecture
from cnn.optimizers import EMA, SGD, Adam, Lookahead, Multiplier, RMSprop
from cnn.schedules import Constant, Step, Triangular
from cnn.system.storage import read_arrays, save_arrays
from cnn.training.checkpoint import KIND, SINCE
from cnn.training.fitting import FROM_RECIPE
from cnn.training.trainer import Callback, Trainer

EPOCHS, IMAGES, BATCH = 4, 50, 16
STEPS = 4
"""Steps an epoch: three batches of 16 and one of 2."""


def split(count, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, count))


def noisy(image, rng):
    """A user's own change to an image."""
    return image // 2 + rng.integers(0, 128, image.shape, np.uint8)


def trainer(checkpoint=None, *, seed=0, net=None, images=IMAGES, **settings):
    """A run with everything that has a state: dropout, batch statistics, augmentation, momentum, a falling rate."""
    layers = [Conv2D(4, 3, activation="relu"), BatchNorm(), MaxPool2D(2), Flatten(), Dropout(0.25), Linear(3)]
    model = Sequential(layers, (8, 8, 1), backend="numpy", seed=seed, **(net or {}))
    defaults = {
        "validation": split(20, seed=1),
        "optimizer": SGD(0.9, 5e-4),
        "schedule": Step(0.02, 6),
        "batch_size": BATCH,
        "augmentation": Augmentation(
            *(True, 1, 0.5, "reflect", True), cutout=2, rotate=9, brightness=0.2, transform=noisy
        ),
        "checkpoint": checkpoint,
    }
    return Trainer(model, split(images), **(defaults | settings))


def weights(run):
    return b"".join(array.tobytes() for _, array in sorted(run.model.state().items()))


def measured(results):
    return [(r.epoch, r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy, r.learning_rate) for r in results]


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_batch(self, trainer):
        if trainer.position.step == self.step:
            trainer.request_stop("a test")


@pytest.mark.parametrize(
    "optimizer", [SGD(0.9, 5e-4), SGD(0.5, nesterov=True), RMSprop(), Adam(weight_decay=1e-3)], ids=str
)
@pytest.mark.parametrize("stop", [1, STEPS, STEPS + 2, 2 * STEPS, 4 * STEPS], ids="step {}".format)
def test_a_stopped_run_continues_to_the_same_bytes(optimizer, stop, tmp_path):
    straight = trainer(optimizer=optimizer)
    expected = straight.run(EPOCHS)
    stopped = trainer(tmp_path / "run", optimizer=optimizer)
    with pytest.raises(Interrupted, match=f"Stopped by a test at step {stop}; its state is saved in .*run"):
        stopped.run(EPOCHS, [StopAt(stop)])
    # Other first weights and another random state: all must come from the checkpoint.
    resumed = trainer(tmp_path / "run", optimizer=optimizer, seed=99)
    resumed.resume()
    assert resumed.position.step == stop
    results = resumed.run(EPOCHS)
    assert weights(resumed) == weights(straight)
    assert measured(results) == measured(expected)[(stop - 1) // STEPS :]


def test_a_run_can_be_stopped_at_every_step_and_still_end_with_the_same_bytes(tmp_path):
    straight = trainer()
    straight.run(2)
    for stop in range(1, 2 * STEPS + 1):
        run = trainer(tmp_path / "run", seed=stop - 1)
        if stop > 1:
            run.resume()
        with pytest.raises(Interrupted):
            run.run(2, [StopAt(stop)])
    last = trainer(tmp_path / "run")
    last.resume()
    last.run(2)
    assert weights(last) == weights(straight)


def test_early_stopping_goes_on_counting_and_remembers_the_best_weights(tmp_path):
    # The labels are random, so learning the training images soon makes the others worse.
    settings = {"schedule": Constant(0.3), "optimizer": Adam(), "patience": 3}
    straight = trainer(**settings)
    expected = straight.run(40)
    assert len(expected) < 40
    best = min(expected, key=lambda result: result.val_loss).epoch
    assert len(expected) == best + 3
    stopped = trainer(tmp_path / "run", **settings)
    with pytest.raises(Interrupted):
        stopped.run(40, [StopAt((best + 1) * STEPS + 1)])
    resumed = trainer(tmp_path / "run", **settings)
    resumed.resume()
    results = resumed.run(40)
    assert results[-1].epoch == len(expected)
    assert weights(resumed) == weights(straight)
    assert resumed.model.evaluate(split(20, seed=1))[0] == expected[best - 1].val_loss


def test_a_checkpoint_that_lacks_what_came_later_goes_on(tmp_path):
    straight = trainer()
    straight.run(2)
    path = tmp_path / "run"
    trainer(path).run(1)
    arrays, table = read_arrays(path, KIND)
    for name in SINCE:
        del table["settings"][name]
    del table["position"]["energy"], table["results"]
    save_arrays(path, KIND, arrays, table)
    later = trainer(path)
    later.resume()
    later.run(2)
    assert weights(later) == weights(straight)


def test_a_finished_run_can_be_prolonged(tmp_path):
    straight = trainer()
    straight.run(3)
    trainer(tmp_path / "run").run(1)
    longer = trainer(str(tmp_path / "run"), seed=5)
    longer.resume()
    assert [result.epoch for result in longer.run(3)] == [2, 3]
    assert weights(longer) == weights(straight)
    assert longer.run(3) == []


@pytest.mark.parametrize(
    ("every", "expected"), [(None, [4, 8]), (1, [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]), (3, [3, 4, 6, 8])]
)
def test_the_checkpoint_is_written_as_often_as_asked(every, expected, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("cnn.training.trainer.write_checkpoint", lambda run, path: saved.append(run.position.step))
    trainer(tmp_path / "run", checkpoint_every=every).run(2)
    assert saved == expected


def test_without_a_checkpoint_nothing_is_saved_and_nothing_can_be_resumed(tmp_path):
    run = trainer()
    with pytest.raises(Interrupted, match="at step 2; nothing was saved"):
        run.run(1, [StopAt(2)])
    with pytest.raises(UsageError, match="no checkpoint to resume from"):
        run.resume()
    with pytest.raises(FileFormatError, match="There is no checkpoint file"):
        trainer(tmp_path / "run").resume()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"optimizer": SGD(0.8, 5e-4)}, "optimizer"),
        ({"optimizer": Adam()}, "optimizer"),
        ({"schedule": Constant(0.02)}, "schedule"),
        ({"batch_size": 17}, "batch size"),
        ({"augmentation": Augmentation(True, 2)}, "augmentation"),
        ({"mixup": 0.2}, "mixup"),
        ({"clip_norm": 1.0}, "largest norm"),
        ({"images": 51}, "training images"),
        ({"validation": split(20, seed=2)}, "validation images"),
        ({"validation": None}, "validation images"),
        ({"net": {"name": "other"}}, "net"),
        ({"net": {"preprocessing": Preprocessing(1 / 255)}}, "preprocessing"),
        ({"net": {"preprocessing": Preprocessing(mean=np.array([0.5]))}}, "preprocessing"),
    ],
)
def test_a_checkpoint_of_a_run_with_other_settings_is_refused_by_the_settings_name(settings, name, tmp_path):
    trainer(tmp_path / "run").run(1)
    other = trainer(tmp_path / "run", **settings)
    before = weights(other)
    with pytest.raises(
        UsageError, match=rf"run was saved with other settings \({name}: .*\); resume with the settings it was"
    ):
        other.resume()
    assert weights(other) == before


def changed(**values):
    """Changes fields of a table below the header, named by the path to them."""

    def damage(arrays, table):
        for place, value in values.items():
            *folders, name = place.split("__")
            inner = table
            for each in folders:
                inner = inner[int(each) if each.isdecimal() else each]
            if value is None:
                del inner[name]
            else:
                inner[name] = value

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        changed(settings=[]),
        changed(settings=None),
        changed(settings__schedule=None),
        changed(position=3),
        changed(position__epoch="1"),
        changed(position__epoch=1.0),
        changed(position__epoch=-1),
        changed(position__batch=99),
        changed(position__batch=1),
        changed(position__step=7),
        changed(position__seen=0),
        changed(position__correct=40),
        changed(position__seconds=0.0),
        changed(position__seconds=float("nan")),
        changed(position__loss=float("inf")),
        changed(position__stale=5),
        changed(position__best_loss=float("nan")),
        changed(position__energy="joules"),
        changed(position__energy__kind="guessed"),
        changed(position__energy__joules=[1]),
        changed(position__more=1),
        changed(optimizer_time=0),
        changed(optimizer_time="6"),
        changed(random_state={}),
        changed(random_state__state=7),
        changed(random_state__bit_generator="MT19937"),
        changed(results=7),
        changed(results=[1]),
        changed(results__0__epoch=2),
        changed(results__0__seconds="long"),
        changed(results__0__train_loss=float("nan")),
        changed(results__0__joules=None),
        changed(results__0__joules=-1.0),
        changed(results__0__train_accuracy=1.5),
        changed(results__0__images_per_second=0),
        changed(results__0__val_loss=10**400),
        changed(version="2"),
        lambda arrays, table: arrays.update(order=arrays["order"][:5]),
        lambda arrays, table: arrays.update(order=np.zeros_like(arrays["order"])),
        lambda arrays, table: arrays.update(order=arrays["order"].astype(np.int32)),
        lambda arrays, table: arrays.pop("order"),
        lambda arrays, table: arrays.update(odd=np.zeros(3)),
        lambda arrays, table: arrays["model.linear1.weight"].fill(np.nan),
        lambda arrays, table: arrays.pop("model.linear1.weight"),
        lambda arrays, table: arrays.pop("optimizer.parameters.velocity", arrays.popitem()),
        lambda arrays, table: arrays.update({"best.linear1.weight": np.zeros((36, 3), np.float32)}),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_in_one_sentence_and_nothing_is_changed(damage, half_way, tmp_path):
    arrays, table = read_arrays(half_way, KIND)
    damage(arrays, table)
    save_arrays(tmp_path / "run", KIND, arrays, table)
    run = trainer(tmp_path / "run", seed=3)
    before = weights(run), run.model.rng.bit_generator.state
    with pytest.raises(FileFormatError) as caught:
        run.resume()
    assert "\n" not in str(caught.value)
    assert (weights(run), run.model.rng.bit_generator.state) == before
    assert run.position.step == 0


@pytest.fixture(scope="module")
def half_way(tmp_path_factory):
    """A checkpoint in the middle of the second epoch."""
    path = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(Interrupted):
        trainer(path).run(2, [StopAt(STEPS + 2)])
    return path


@pytest.mark.parametrize("length", [0, 7, 100, 2000, -1])
def test_a_damaged_checkpoint_is_refused(length, tmp_path):
    path = tmp_path / "run"
    trainer(path).run(1)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileFormatError, match="is damaged or not a checkpoint file"):
        trainer(path).resume()


def test_a_model_file_or_one_of_another_number_type_is_no_checkpoint(tmp_path):
    path = tmp_path / "run"
    run = trainer(path)
    run.run(1)
    with pytest.raises(UsageError, match=r"other settings \(precision: "):
        trainer(path, net={"precision": "float64"}).resume()
    save_model(run.model, path)
    with pytest.raises(FileFormatError, match=r"is not a checkpoint file \(model\)"):
        trainer(path).resume()


def train_for_the_kill_test(folder):
    """Trains to the end, resuming where the last process was killed; slowly, so that most kills hit the training."""
    path = os.path.join(folder, "run")
    run = trainer(path, checkpoint_every=1)
    if os.path.exists(path):
        run.resume()
    print("ready", flush=True)

    class Slow(Callback):
        def on_batch(self, trainer):
            time.sleep(0.005)

    run.run(EPOCHS * 8, [Slow()])
    save_model(run.model, os.path.join(folder, "model"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    straight = trainer()
    straight.run(EPOCHS * 8)
    save_model(straight.model, tmp_path / "straight")
    rng, kills = np.random.default_rng(11), 0
    while not (tmp_path / "model").exists():
        command = [sys.executable, __file__, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(rng.uniform(0.05, 0.6) if kills < 5 else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills >= 2
    assert (tmp_path / "model").read_bytes() == (tmp_path / "straight").read_bytes()


AIRBENCH = 3.4
"""Epochs of three steps, 11 in all: the slow weights follow twice, and a bias of the first layer freezes after nine."""


def airbench(checkpoint, seed=8):
    """A run of airbench94 by its own recipe, on few images in small batches."""
    described = architecture("airbench94")
    recipe = described.recipe.changed({"batch_size": 4})
    rng = np.random.default_rng(4)
    images = Split(rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12) % 10)
    data = Dataset("few", images, images, tuple("abcdefghij"))
    model = replace(described, recipe=recipe).build(data=data, backend="numpy", seed=seed)
    parts = {name: getattr(recipe, name) for name in FROM_RECIPE}
    return Trainer(model, images, checkpoint=checkpoint, checkpoint_every=1, **parts)


def kill_airbench(folder, step):
    """Trains until the process kills itself, after the step of this number and before that is saved."""

    class Kill(Callback):
        def on_batch(self, trainer):
            if trainer.position.step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    airbench(os.path.join(folder, "run")).run(AIRBENCH, Kill())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_airbench94_that_is_killed_ends_with_the_same_bytes(tmp_path):
    straight = airbench(tmp_path / "straight")
    straight.run(AIRBENCH)
    done = subprocess.run([sys.executable, __file__, str(tmp_path), "8"], check=False)
    assert done.returncode == -signal.SIGKILL
    # Other first weights: all must come from the checkpoint.
    resumed = airbench(tmp_path / "run", seed=1)
    resumed.resume()
    assert (resumed.position.step, resumed.position.steps) == (7, 11)
    resumed.run(AIRBENCH)
    assert weights(resumed) == weights(straight)
    assert measured(resumed.results) == measured(straight.results)


if __name__ == "__main__":
    train_for_the_kill_test(sys.argv[1]) if len(sys.argv) == 2 else kill_airbench(sys.argv[1], int(sys.argv[2]))


@pytest.mark.parametrize("slow", [Lookahead(3, 0.8, 3.0), EMA(0.9)], ids=str)
@pytest.mark.parametrize("step", [1, 5, 8, 14])
def test_a_fraction_of_an_epoch_with_slow_weights_and_multipliers_continues_to_the_same_bytes(slow, step, tmp_path):
    settings = {
        "slow_weights": slow,
        "schedule": Triangular(0.05, 0.23, 0.2, 0.07),
        "multipliers": [Multiplier("batchnorm*", lr=4.0), Multiplier("conv*", epochs=2)],
        "optimizer": SGD(0.85, 1e-3, nesterov=True, lr_outside=True, decoupled=True),
    }
    whole = trainer(tmp_path / "whole", **settings)
    whole.run(3.4)
    assert whole.position.step == 14
    assert [each.epoch for each in whole.results] == [1, 2, 3, 4]
    stopped = trainer(tmp_path / "part", **settings)
    with pytest.raises(Interrupted):
        stopped.run(3.4, StopAt(step))
    resumed = trainer(tmp_path / "part", seed=7, **settings)
    resumed.resume()
    resumed.run(3.4)
    assert weights(resumed) == weights(whole)
    assert measured(resumed.results) == measured(whole.results)
    # The run ends with the slow weights.
    assert all(np.array_equal(array, resumed.slow_weights._fast[name]) for name, array in resumed.slow_state.items())
    finished = trainer(tmp_path / "part", **settings)
    finished.resume()
    assert len(finished.run(3.4)) == 0
    with pytest.raises(UsageError, match="was begun for 14 steps"):
        finished.run(5)


@pytest.mark.parametrize("step", [2, 5])
def test_mixed_images_and_clipped_gradients_continue_to_the_same_bytes(step, tmp_path):
    settings = {"mixup": 0.4, "clip_norm": 0.5}
    straight, plain = trainer(**settings), trainer()
    straight.run(2)
    with pytest.raises(Interrupted):
        trainer(tmp_path / "run", **settings).run(2, StopAt(step))
    resumed = trainer(tmp_path / "run", seed=7, **settings)
    resumed.resume()
    resumed.run(2)
    assert weights(resumed) == weights(straight)
    plain.run(2)
    assert weights(plain) != weights(straight)


def test_weights_freeze_where_the_recipe_says():
    run = trainer(multipliers=[Multiplier("conv*.weight", epochs=2)])
    frozen = []

    class Watch(Callback):
        def on_epoch(self, trainer, result):
            frozen.append(trainer.model.state()["conv1.weight"].tobytes())

    run.run(4, Watch())
    assert frozen[0] != frozen[1] == frozen[2] == frozen[3]
