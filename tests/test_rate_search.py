"""The learning-rate range test: its rates, losses and ends, the rule of its suggestion, and the command."""

import json
from math import log

import numpy as np
import pytest
from PIL import Image

import cnn
from cnn.cli import main
from cnn.data.dataset import Split
from cnn.errors import UsageError
from cnn.layers import Flatten, Linear
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD
from cnn.training.rate_search import DIVERGED, KEEP, RateSearch
from cnn.training.trainer import Callback, Trainer


def model():
    return Sequential([Flatten(), Linear(3, weights="Zeros")], (2, 2, 1), backend="numpy", seed=4)


def split(count=50):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = rng.integers(0, 80, (count, 2, 2, 1), dtype=np.uint8) + (60 * labels).astype(np.uint8)[:, None, None, None]
    return Split(images, labels)


def test_the_steps_are_those_of_training_at_rates_of_one_ratio_and_the_model_stays():
    net = model()
    before = net.state()["linear1.weight"].tobytes(), net.rng.bit_generator.state
    found = cnn.lr_find(net, split(), lowest=0.001, highest=0.1, steps=21, batch_size=10, optimizer=SGD(0.5))
    assert (net.state()["linear1.weight"].tobytes(), net.rng.bit_generator.state) == before
    np.testing.assert_allclose(found.rates, 0.001 * 10 ** (np.arange(21) / 10), rtol=1e-12)
    assert found.losses[0] == pytest.approx(log(3), rel=1e-6)
    assert not found.diverged
    mean = 0.0
    for step, loss in enumerate(found.losses, 1):
        mean = KEEP * mean + (1 - KEEP) * loss
        assert found.smoothed[step - 1] == pytest.approx(mean / (1 - KEEP**step))

    class Losses(Callback):
        losses: list[float] = []  # noqa: RUF012

        def on_batch(self, trainer):
            self.losses.append(trainer.position.loss)

    schedule = cnn.schedules.Exponential(0.001, 10**0.1)
    Trainer(model(), split(), batch_size=10, optimizer=SGD(0.5), schedule=schedule).run(4, Losses())
    # Sums within epochs of five steps.
    sums = np.concatenate([np.cumsum(np.multiply(found.losses[k : k + 5], 10)) for k in range(0, 20, 5)])
    np.testing.assert_allclose(Losses.losses, sums, rtol=1e-6)


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_smoothed_loss():
    found = RateSearch((0.01, 0.02, 0.04, 0.08, 0.16), (0.0,) * 5, (3.0, 2.9, 2.0, 1.8, 9.0), 5, True)
    assert (found.lowest, found.steepest, found.suggestion) == (0.08, 0.04, 0.008)
    rising = RateSearch((0.01, 0.02), (1.0, 2.0), (1.0, 1.5), 2, True)
    assert (rising.lowest, rising.steepest) == (0.01, None)


@pytest.mark.parametrize("highest", [1e5, 1e38])
def test_the_test_ends_where_the_loss_diverges(highest):
    found = cnn.lr_find(model(), split(), lowest=0.01, highest=highest, steps=100, batch_size=10)
    assert found.diverged
    assert 10 < len(found.rates) == len(found.losses) == len(found.smoothed) < 100
    assert np.isfinite(found.smoothed).all()
    assert max(found.smoothed[:-1]) <= DIVERGED * min(found.smoothed[:-1]) or len(found.smoothed) == 11


def test_rates_may_lie_as_far_apart_as_numbers_do():
    found = cnn.lr_find(model(), split(), lowest=5e-324, highest=1e308, steps=12, batch_size=10)
    assert found.rates[0] == 5e-324
    assert np.isfinite(found.rates).all()


def test_weights_decay_by_the_recipes_own_rate():
    # Decoupled decay takes place at the base rate: at a rate of a twentieth of it, a step keeps nearly all of a weight.
    small = {"lowest": 0.05, "highest": 0.050001, "steps": 12, "schedule": 1.0}
    with_decay = cnn.lr_find(model(), split(), optimizer=SGD(0.0, 0.5, lr_outside=True, decoupled=True), **small)
    without = cnn.lr_find(model(), split(), optimizer=SGD(0.0, lr_outside=True), **small)
    np.testing.assert_allclose(with_decay.losses, without.losses, rtol=0.005)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lowest": 1.0, "highest": 0.5}, "lowest is 1.0 and highest 0.5; give two rates, the lower first"),
        ({"lowest": 0.0}, "give two rates, the lower first"),
        ({"steps": 1}, "The number of steps must be a whole number of at least 2"),
        ({"batch_size": 0}, "batch size must be at least 1"),
    ],
)
def test_impossible_ranges_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        cnn.lr_find(model(), split(), **settings)


def test_the_command_prints_a_curve_and_saves_nothing(net, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    words = ["lr-find", "synthetic", "--model", net, "--backend", "numpy", "--steps", "60", "--set", "batch_size=20"]
    assert main([*words, "--png", "curve.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    with Image.open("curve.png") as picture:
        assert picture.width == 1650
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["batch_size"], found["rule"]) == (20, "a tenth of the rate at which the smoothed loss is lowest")
    (said,) = (line for line in lines if line.startswith("Suggested"))
    assert f"--lr {found['suggestion']:.2g}, a tenth of the rate" in said
    plot = [line for line in lines if "|" in line]
    assert len(plot) == 10
    # Over a logarithmic axis: half of the steps lie in the left half.
    assert main([*words, "--lowest", "2", "--highest", "1"]) == 2
