"""Initializers: bounds and deviations of the published formulas, for convolutional and linear weights."""

import numpy as np
import pytest

from cnn.errors import UsageError
from cnn.initializers import Gaussian, Glorot, He, Initializer, Ones, Xavier, Zeros

CONV, LINEAR = (5, 5, 20, 50), (800, 60)
"""Fan-in 500 and fan-out 1250; fan-in 800 and fan-out 60."""


@pytest.mark.parametrize(
    ("initializer", "shape", "limit"),
    [
        (Glorot(), CONV, (6 / 1750) ** 0.5),
        (Glorot(), LINEAR, (6 / 860) ** 0.5),
        (Xavier(), CONV, (3 / 500) ** 0.5),
        (Xavier(), LINEAR, (3 / 800) ** 0.5),
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


@pytest.mark.parametrize("initializer", [Glorot(), Xavier(), He(), Gaussian(0.5)], ids=str)
def test_the_generator_decides_the_draw(initializer):
    first, again, other = (initializer.draw((3, 3, 2, 4), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float64


@pytest.mark.parametrize("initializer", [Zeros(), Ones(), Gaussian(0.5), Glorot(), Xavier(), He()], ids=str)
def test_a_configuration_makes_the_same_initializer(initializer):
    assert Initializer.from_config(initializer.config()) == initializer
    assert Initializer.from_config(initializer) is initializer


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_a_deviation_that_cannot_be_is_refused(std):
    with pytest.raises(UsageError, match="std must be above 0"):
        Gaussian(std)
