"""Initializers: bounds and deviations of the published formulas, for convolutional and linear weights."""

import pickle

import numpy as np
import pytest

from cnn.data.dataset import Split
from cnn.data.preprocessing import Preprocessing
from cnn.errors import UsageError
from cnn.initializers import (
    Dirac,
    Gaussian,
    Glorot,
    He,
    Initializer,
    Ones,
    PyTorch,
    Whitening,
    Xavier,
    Zeros,
)
from cnn.layers import Conv2D, Flatten, Linear
from cnn.model.sequential import Sequential

CONV, LINEAR = (5, 5, 20, 50), (800, 60)
"""Fan-in 500 and fan-out 1250; fan-in 800 and fan-out 60."""


@pytest.mark.parametrize(
    ("initializer", "shape", "limit"),
    [
        (Glorot(), CONV, (6 / 1750) ** 0.5),
        (Glorot(), LINEAR, (6 / 860) ** 0.5),
        (Xavier(), CONV, (3 / 500) ** 0.5),
        (Xavier(), LINEAR, (3 / 800) ** 0.5),
        (PyTorch(), CONV, (1 / 500) ** 0.5),
    ],
)
def test_uniform_draws_fill_the_published_range(initializer, shape, limit):
    w = initializer.draw(shape, np.random.default_rng(0))
    assert w.shape == shape
    assert 0.999 * limit < w.max() <= limit
    assert -limit <= w.min() < -0.999 * limit
    # A uniform draw has a deviation of limit / sqrt(3).
    assert w.std() == pytest.approx(limit / 3**0.5, rel=0.02)
    assert abs(w.mean()) < 0.02 * limit


@pytest.mark.parametrize(
    ("initializer", "shape", "deviation"),
    [
        (He(), CONV, (2 / 500) ** 0.5),
        (He(), LINEAR, (2 / 800) ** 0.5),
        (Gaussian(0.01), CONV, 0.01),
        (Gaussian(1e-4), LINEAR, 1e-4),
    ],
)
def test_normal_draws_have_the_published_deviation(initializer, shape, deviation):
    w = initializer.draw(shape, np.random.default_rng(0))
    assert w.shape == shape
    assert w.std() == pytest.approx(deviation, rel=0.02)
    assert abs(w.mean()) < 0.03 * deviation
    # 68.27 % of a normal distribution lie within one deviation.
    assert np.mean(np.abs(w) < deviation) == pytest.approx(0.6827, abs=0.01)


def test_groups_have_the_fans_of_one_group():
    """100 groups of 5 channels and 40 filters: fan-in 125, fan-out 1000."""
    w = Glorot().draw_groups((5, 5, 5, 4000), 100, np.random.default_rng(0))
    assert w.shape == (5, 5, 5, 4000)
    assert 0.999 < np.abs(w).max() / (6 / 1125) ** 0.5 <= 1
    assert len(np.unique(w[0, 0, 0])) == 4000


def test_constants_are_constant():
    rng = np.random.default_rng(0)
    assert not Zeros().draw((3, 4), rng).any()
    assert (Ones().draw((3, 4), rng) == 1).all()


@pytest.mark.parametrize("initializer", [Glorot(), Xavier(), He(), Gaussian(0.5), PyTorch(), Whitening()], ids=str)
def test_the_generator_decides_the_draw(initializer):
    first, again, other = (initializer.draw((3, 3, 2, 4), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float64


CONFIGURED = [Zeros(), Ones(), Gaussian(0.5), Glorot(), Xavier(), He(), PyTorch(), Dirac(He()), Whitening(0.1, 7)]


@pytest.mark.parametrize("initializer", CONFIGURED, ids=str)
def test_a_configuration_makes_the_same_initializer(initializer):
    assert Initializer.from_config(initializer.config()) == initializer
    assert Initializer.from_config(initializer) is initializer


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_a_deviation_that_cannot_be_is_refused(std):
    with pytest.raises(UsageError, match="std must be above 0"):
        Gaussian(std)


def test_dirac_passes_channels_on_and_draws_the_rest():
    w = Dirac(Gaussian(0.5)).draw((3, 3, 4, 6), np.random.default_rng(0))
    drawn = Gaussian(0.5).draw((3, 3, 4, 6), np.random.default_rng(0))
    np.testing.assert_array_equal(w[1, 1, :, :4], np.eye(4))
    assert np.abs(w[..., :4]).sum() == 4
    np.testing.assert_array_equal(w[..., 4:], drawn[..., 4:])
    np.testing.assert_array_equal(Dirac().draw((5, 5), np.random.default_rng(0)), np.eye(5))
    np.testing.assert_array_equal(Dirac().draw((1, 3, 4, 2), np.random.default_rng(0))[0, 1], np.eye(4)[:, :2])
    with pytest.raises(UsageError, match="rest cannot be Whitening"):
        Dirac(Whitening())


def whitened(pixels, filters=4, **settings):
    """A model of one channel whose first convolution has kernels of two pixels side by side, and its weights."""
    layers = [Conv2D(filters, (1, 2), weights=Whitening(**settings)), Flatten(), Linear(2)]
    model = Sequential(layers, pixels.shape[1:], preprocessing=Preprocessing(1.0), backend="numpy", seed=3)
    return model, model.parameters[0].value[0, :, 0, :]


def test_whitening_has_the_eigenvectors_worked_by_hand():
    # Patches (3, 1) and (1, 3): moments ((5, 3), (3, 5)), eigenvalue 8 of (1, 1) and 2 of (1, -1), over sqrt(2).
    images = np.array([[[[3], [1]]], [[[1], [3]]]], np.uint8)
    model, weights = whitened(images, epsilon=1.0)
    assert abs(weights).max() > 0.1  # of white noise, until it knows the images
    model.get_to_know(Split(images, np.array([0, 1])))
    long, short = 1 / 18**0.5, 1 / 6**0.5
    by_hand = np.array([[long, short], [long, -short]])
    # Either sign will do for the second, whose elements are as large as each other.
    np.testing.assert_allclose(weights[:, 0], by_hand[:, 0], rtol=1e-6)
    np.testing.assert_allclose(np.abs(weights[:, 1]), short, rtol=1e-6)
    assert weights[0, 1] == pytest.approx(-weights[1, 1])
    np.testing.assert_array_equal(weights[:, 2:], -weights[:, :2])


def test_whitened_patches_are_uncorrelated_and_only_the_first_images_count():
    images = np.random.default_rng(0).integers(0, 9, (150, 5, 6, 1), np.uint8).cumsum(axis=2, dtype=np.uint8)
    model, weights = whitened(images[:100], epsilon=0.0, images=100)
    model.get_to_know(Split(images[:100], np.arange(100) % 2))
    scores = model.network.layers[0].forward(model.load_images(images[:100]), training=False)[..., :2].reshape(-1, 2)
    np.testing.assert_allclose(scores.T @ scores / len(scores), np.eye(2), atol=1e-4)
    again, others = whitened(images, epsilon=0.0, images=100)
    again.get_to_know(Split(images, np.arange(150) % 2))
    assert others.tobytes() == weights.tobytes()


def test_whitening_happens_once_and_never_to_weights_that_were_loaded():
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 6, 1), np.uint8)
    split = Split(images, np.arange(30) % 2)
    model, weights = whitened(images)
    loaded, others = whitened(images)
    fresh = pickle.loads(pickle.dumps(model))
    loaded.load_state(model.state())
    before = others.copy()
    for each in (model, loaded, fresh):
        each.get_to_know(split)
    assert others.tobytes() == before.tobytes()
    assert fresh.parameters[0].value.tobytes() == weights.tobytes() != before.tobytes()
    weights *= 2
    kept = weights.copy()
    model.get_to_know(split)
    assert weights.tobytes() == kept.tobytes()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Conv2D(5, 2, weights=Whitening())], "an even number of at most 8"),
        (
            [Conv2D(10, 2, weights=Whitening())],
            "of 2x2x1 elements, not 10; give an even number of at most 8, or images in",
        ),
        ([Conv2D(2, 1), Conv2D(2, 2, weights=Whitening())], "conv2 cannot have the weights Whitening"),
        ([Conv2D(2, 1), Flatten(), Linear(4, weights=Whitening())], "linear1 cannot have the weights Whitening"),
    ],
)
def test_whitening_is_refused_where_it_has_no_meaning(layers, message):
    with pytest.raises(UsageError, match=message):
        Sequential([*layers, Flatten(), Linear(2)] if len(layers) < 3 else [*layers, Linear(2)], (4, 4, 1))
