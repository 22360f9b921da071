"""Mixup and clipped gradients: values worked by hand, weights, recorded passes, and micro-batches."""

from math import exp, log, sqrt

import numpy as np
import pytest
from helpers.ready_backends import ready

import cnn
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Split
from cnn.data.mixup import Mix, Partners
from cnn.errors import UsageError
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear
from cnn.model.sequential import Sequential
from cnn.ops.input import Changes
from cnn.optimizers import SGD
from cnn.system.threads import limit_threads
from cnn.training.gradients import clip
from cnn.training.trainer import Callback, Trainer


def linear(backend="numpy"):
    """Scores are linear in the two pixels of an image; the first weights are zero."""
    preprocessing = cnn.Preprocessing(1.0)
    net = [Flatten(), Linear(2, bias=False, weights="Zeros")]
    return Sequential(net, (1, 2, 1), backend=backend, preprocessing=preprocessing)


PIXELS = np.array([[4.0, 8.0], [12.0, 0.0]], np.float32).reshape(2, 1, 2, 1)
LABELS = np.array([0, 1])


def test_a_mixed_step_is_the_one_worked_by_hand():
    model = linear()
    # Three quarters of the first image (4, 8) and a quarter of the second one (12, 0) are (6, 6).
    partners = Partners(0.75, np.array([1]), Changes())
    model.load_state({"linear1.weight": np.array([[log(3) / 6, 0], [0, 0]], np.float32)})
    loss, correct = model.train_step(PIXELS, LABELS, np.array([0]), partners=partners)
    # The scores are (log 3, 0), the probabilities 3/4 and 1/4: just those of the mixed target.
    assert loss == pytest.approx(-0.75 * log(0.75) - 0.25 * log(0.25), rel=1e-6)
    assert correct == 1
    np.testing.assert_allclose(model.parameters[0].gradient, 0, atol=1e-6)
    weights = np.array([2.0, 1.0], np.float32)
    model.train_step(PIXELS, LABELS, np.array([0]), partners=partners, weights=weights, weight=0.5)
    # Half of 2 * 3/4 times (p - (1, 0)), and half of 1/4 times (p - (0, 1)), for each pixel of 6.
    expected = 6 * (0.75 * np.array([-0.25, 0.25]) + 0.125 * np.array([0.75, -0.75]))
    np.testing.assert_allclose(model.parameters[0].gradient, np.tile(expected, (2, 1)), rtol=1e-6)


def test_shares_are_drawn_from_a_beta_distribution_and_partners_from_the_batch():
    rng = np.random.default_rng(3)
    mixes = [Mix.draw(0.4, 16, rng) for _ in range(2000)]
    assert all(sorted(each.places) == list(range(16)) for each in mixes)
    shares = np.array([each.share for each in mixes])
    assert shares.min() >= 0.5
    # A variance of alpha² / ((2 alpha)² (2 alpha + 1)) about 1/2, whichever of the two parts is taken.
    assert np.square(shares - 0.5).mean() == pytest.approx(1 / (4 * 1.8), rel=0.05)


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_batch(self, trainer):
        self.losses.append(trainer.position.loss)


def trained(backend="numpy", **settings):
    layers = [Conv2D(4, 3, activation="relu"), BatchNorm(), Flatten(), Dropout(0.25), Linear(3)]
    model = Sequential(layers, (8, 8, 1), backend=backend, seed=1)
    rng = np.random.default_rng(0)
    images = Split(rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, 60))
    losses = Losses()
    run = Trainer(model, images, **({"batch_size": 12, "schedule": 0.02, "mixup": 0.3} | settings))
    run.run(2, losses)
    return losses.losses, np.concatenate([each.ravel() for each in model.state().values()])


@pytest.mark.parametrize("backend", ["numpy", "openblas"])
def test_passes_that_are_kept_take_the_share_of_their_own_step(backend):
    model = linear(ready(backend))
    model.load_state({"linear1.weight": np.array([[0.1, 0], [0, 0.2]], np.float32)})
    for share in (0.75, 0.5, 0.9, 0.6, 0.8, 0.7):
        loss, _ = model.train_step(PIXELS, LABELS, np.array([0]), partners=Partners(share, np.array([1]), Changes()))
        scores = 0.1 * (4 * share + 12 * (1 - share)), 0.2 * 8 * share
        expected = log(exp(scores[0]) + exp(scores[1])) - share * scores[0] - (1 - share) * scores[1]
        assert loss == pytest.approx(expected, rel=1e-5)
        wrong = exp(scores[1]) / (exp(scores[0]) + exp(scores[1])) - (1 - share)
        gradient = np.outer([4 * share + 12 * (1 - share), 8 * share], [-wrong, wrong])
        np.testing.assert_allclose(model.parameters[0].gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_compiled_backend_mixes_as_numpy_does():
    expected, weights = trained()
    losses, found = trained(ready("openblas"))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(found, weights, atol=1e-5)


def test_partners_are_those_of_the_whole_batch_and_changed_as_their_own_images_are():
    augmentation = Augmentation(flip=True, pad_crop=1, border="reflect", cutout=2, rotate=5, brightness=0.2)
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    model = Sequential([Flatten(), Linear(2)], (8, 8, 1), backend="numpy")
    chosen = np.array([4, 0, 5, 2])
    changes = augmentation.draw((4, 8, 8, 1), rng)
    mix = Mix(0.7, np.array([2, 3, 1, 0]))
    every = model.load_images(images, chosen, changes).copy()
    partners = mix.of(slice(1, 3), chosen, changes)
    assert partners.order.tolist() == [2, 0]
    np.testing.assert_array_equal(model.load_images(images, partners.order, partners.changes), every[[3, 1]])


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_impossible_values_are_refused(value):
    with pytest.raises(UsageError, match="mixup must be"):
        cnn.Recipe(mixup=value)
    with pytest.raises(UsageError, match="clip_norm must be"):
        cnn.Recipe(clip_norm=value)


def test_gradients_are_clipped_together_to_the_norm_worked_by_hand():
    model = Sequential([Flatten(), Linear(2)], (1, 1, 1), backend="numpy")
    weight, bias = (each.gradient for each in model.parameters)
    weight[...], bias[...] = [[3, 0]], [0, 4]
    assert clip(model, 5.0) == 5
    assert (weight.tolist(), bias.tolist()) == ([[3, 0]], [0, 4])
    assert clip(model, 4.0) == 5
    np.testing.assert_allclose([*weight[0], *bias], [2.4, 0, 0, 3.2], rtol=1e-6)


def test_a_clipped_step_has_the_length_of_the_norm():
    model = linear()
    Trainer(model, Split(PIXELS, LABELS), optimizer=SGD(0.0), schedule=0.5, clip_norm=0.25).run(1)
    step = model.state()["linear1.weight"]
    # Of scores 0 the gradient is half of (4, 8) to one side and of (12, 0) to the other, for each class.
    direction = np.array([[-2, 2], [2, -2]])
    np.testing.assert_allclose(step, 0.5 * 0.25 * direction / sqrt(16), rtol=1e-6)


def test_the_norm_has_the_same_bits_on_any_number_of_threads():
    backend = ready("openblas")
    x = backend.asarray(np.random.default_rng(2).standard_normal(200_001).astype(np.float32))
    found = set()
    for threads in (1, 2, 3):
        with limit_threads(threads):
            found.add(backend.squared_norm(x))
    assert len(found) == 1
    assert found.pop() == pytest.approx(np.square(x.astype(np.float64)).sum(), rel=1e-14)
