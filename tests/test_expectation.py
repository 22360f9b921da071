"""The expected time of a run: found from its own steps, said once, and no byte of the run depends on it."""

import itertools

import numpy as np
import pytest

from cnn.data.dataset import Split
from cnn.errors import Interrupted
from cnn.layers import Flatten, Linear
from cnn.model.sequential import Sequential
from cnn.training.expectation import LEAST_STEPS, SETTLING, Expectation, about
from cnn.training.trainer import Callback, Trainer


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each step takes half a second, the first ones five seconds."""
    times = itertools.chain([0.0, 5.0, 5.0, 10.0, 10.0, 15.0], (15.0 + each / 2 for each in itertools.count()))
    monkeypatch.setattr("cnn.training.trainer.now", lambda: next(times))


def run(checkpoint=None, **settings):
    rng = np.random.default_rng(0)
    images = Split(rng.integers(0, 256, (40, 2, 2, 1), dtype=np.uint8), rng.integers(0, 3, 40))
    model = Sequential([Flatten(), Linear(3)], (2, 2, 1), backend="numpy")
    return Trainer(model, images, batch_size=10, checkpoint=checkpoint, **settings)


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_batch(self, trainer):
        if trainer.position.step == self.step:
            trainer.request_stop("a test")


def test_the_time_left_follows_from_the_steps_after_the_first(tmp_path):
    said = []
    expectation = Expectation(30, lambda text: said.append((text, trainer.position.step)))
    trainer = run()
    trainer.run(30, expectation)
    step = SETTLING + LEAST_STEPS
    assert said == [("about 54 seconds of training to go (20 images/s over 8 steps)", step)]
    # 30 epochs of four steps, of which the first three take ten times as long.
    assert expectation.seconds == 3 * 5 + (120 - 3) / 2
    assert sum(each.seconds for each in trainer.results) == expectation.seconds
    alone = run()
    alone.run(30)
    assert alone.model.state()["linear1.weight"].tobytes() == trainer.model.state()["linear1.weight"].tobytes()


@pytest.mark.parametrize("stop", [5, 7])
def test_a_resumed_run_is_timed_anew(stop, tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path / "run").run(30, StopAt(stop))
    said = []
    resumed = run(tmp_path / "run", patience=None)
    resumed.resume()
    before = 3 * 5 + (stop - 3) / 2
    expectation = Expectation(30, said.append)
    resumed.run(30, expectation)
    assert expectation.seconds == before + (120 - stop) / 2
    assert said == [f"about {(120 - stop - 11) // 2} seconds of training to go (20 images/s over 8 steps)"]


def test_a_run_that_may_stop_early_takes_at_most_so_long():
    said = []
    rng = np.random.default_rng(1)
    held = Split(rng.integers(0, 256, (5, 2, 2, 1), dtype=np.uint8), rng.integers(0, 3, 5))
    run(patience=100, validation=held).run(30, Expectation(30, said.append))
    assert said == ["at most about 54 seconds of training to go (20 images/s over 8 steps)"]


def test_a_run_that_is_over_before_says_nothing():
    expectation = Expectation(2, pytest.fail)
    run().run(2, expectation)
    assert expectation.seconds is None


def test_times_are_said_no_more_exactly_than_they_are_known():
    texts = [about(seconds) for seconds in (0.2, 1, 99, 100, 720, 5400, 9000)]
    assert texts == [
        *("about 1 second", "about 1 second", "about 99 seconds", "about 2 minutes", "about 12 minutes"),
        *("about 90 minutes", "about 2.5 hours"),
    ]
