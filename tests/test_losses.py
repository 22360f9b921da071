"""Losses: values and gradients worked by hand or in exact arithmetic, and scores no exponential can hold."""

from math import exp, log

import numpy as np
import pytest

from cnn.errors import UsageError
from cnn.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from cnn.registry import create


def evaluated(loss, scores, labels, dtype=np.float64):
    """(summed loss, correct answers, gradient of the mean loss)."""
    scores = np.array(scores, dtype)
    out = np.full_like(scores, np.nan)
    value, correct = loss.evaluate(create("numpy"), scores, np.array(labels, np.int64), out)
    return value, correct, out


def shares(loss, scores, dtype=np.float32):
    scores = np.array(scores, dtype)
    out = np.full_like(scores, np.nan)
    loss.probabilities(create("numpy"), scores, out)
    return out


def test_cross_entropy_of_two_images_worked_by_hand():
    value, correct, gradients = evaluated(SoftmaxCrossEntropy(), [[0, 0, 0, 0], [log(5), 0, 0, 0]], [2, 0])
    # Probabilities 1/4 each, and 5/8, 1/8, 1/8, 1/8.
    assert value == pytest.approx(log(4) + log(8 / 5), rel=1e-14)
    assert correct == 1
    expected = np.array([[2, 2, -6, 2], [-3, 1, 1, 1]]) / 16
    np.testing.assert_allclose(gradients, expected, rtol=1e-14)


def test_smoothed_labels_worked_by_hand():
    value, correct, gradients = evaluated(SoftmaxCrossEntropy(0.2), [[0, 0, 0, 0], [log(5), 0, 0, 0]], [2, 0])
    # Targets are 0.85 at the label and 0.05 elsewhere: the second loss is log 8 - 0.85 * log 5.
    assert value == pytest.approx(log(4) + log(8) - 0.85 * log(5), rel=1e-14)
    assert correct == 1
    expected = np.array([[0.2, 0.2, -0.6, 0.2], [5 / 8 - 0.85, 0.075, 0.075, 0.075]]) / 2
    np.testing.assert_allclose(gradients, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_is_exact_for_scores_of_ten_thousand(dtype):
    value, correct, gradients = evaluated(
        SoftmaxCrossEntropy(), [[1e4, -1e4, 0], [1e4, -1e4, 0], [-1e4, -1e4, -1e4]], [0, 1, 2], dtype
    )
    assert value == pytest.approx(0 + 20_000 + log(3), rel=1e-6)
    assert correct == 1
    np.testing.assert_allclose(gradients * 3, [[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], atol=1e-6)


def test_cross_entropy_does_not_change_when_all_scores_move():
    scores = np.random.default_rng(1).normal(size=(5, 4))
    first = evaluated(SoftmaxCrossEntropy(), scores, [0, 1, 2, 3, 0])
    moved = evaluated(SoftmaxCrossEntropy(), scores + 64, [0, 1, 2, 3, 0])
    assert moved[0] == pytest.approx(first[0], rel=1e-12)
    np.testing.assert_allclose(moved[2], first[2], atol=1e-14)


def test_squared_error_of_two_images_worked_by_hand():
    value, correct, gradients = evaluated(MeanSquaredError(-1, 1), [[0, 2], [-1, 1]], [0, 1])
    # Targets (1, -1) and (-1, 1): errors (-1, 3) and (0, 0), the mean over two outputs.
    assert value == pytest.approx((1 + 9) / 2)
    assert correct == 1
    np.testing.assert_allclose(gradients, [[2 * -1 / 4, 2 * 3 / 4], [0, 0]])


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), MeanSquaredError(-0.8, 0.8)], ids=str)
def test_the_gradient_is_the_slope_of_the_mean_loss(loss):
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=(3, 4)), [1, 3, 0]
    gradients = evaluated(loss, scores, labels)[2]
    for at in np.ndindex(3, 4):
        step = np.zeros((3, 4))
        step[at] = 1e-6
        difference = evaluated(loss, scores + step, labels)[0] - evaluated(loss, scores - step, labels)[0]
        assert gradients[at] == pytest.approx(difference / 2e-6 / 3, abs=1e-8)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), MeanSquaredError()], ids=str)
def test_scores_and_labels_are_not_changed_and_no_gradient_is_needed(loss):
    scores, labels = np.array([[0.5, 1.0], [2.0, 0.0]]), np.array([0, 0])
    kept = scores.copy()
    with_gradient = evaluated(loss, scores, labels)[:2]
    assert loss.evaluate(create("numpy"), scores, labels, None) == with_gradient
    assert np.array_equal(scores, kept)
    assert labels.tolist() == [0, 0]


def test_the_first_of_equal_scores_is_the_answer():
    assert evaluated(SoftmaxCrossEntropy(), [[1, 1], [1, 1]], [0, 1])[1] == 1


def test_softmax_worked_by_hand():
    got = shares(SoftmaxCrossEntropy(), [[0, log(2), log(5)]], np.float64)
    np.testing.assert_allclose(got, [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-14)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1e4, -1e4, 0], [1, 0, 0]),
        ([3e38, 3e38, -3e38], [0.5, 0.5, 0]),
        ([-1e30, -1e30, -1e30], [1 / 3, 1 / 3, 1 / 3]),
        ([0, -80, 0], [0.5, exp(-80) / 2, 0.5]),
    ],
)
# The difference of the largest and smallest float32 overflows to minus infinity, whose exponential is the right 0.
@pytest.mark.filterwarnings("ignore:overflow encountered in subtract")
def test_softmax_of_extreme_scores(scores, expected):
    np.testing.assert_allclose(shares(SoftmaxCrossEntropy(), [scores])[0], expected, rtol=1e-5)


def test_target_probabilities_worked_by_hand():
    # Heights 0, 0.75, 1.5, 3.75 and 0 (below the low target); the second row is lifted by 1 until 0 reaches 1.
    got = shares(MeanSquaredError(-0.5, 1), [[-0.5, 0.25, 1, 3.25, -3], [0, -1, -2, -1.5, 0]], np.float64)
    np.testing.assert_allclose(
        got, [[0, 0.125, 0.25, 0.625, 0], [0.375, 0.125, 0, 0, 0.375]] / np.array([[1], [0.875]])
    )


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), MeanSquaredError(-0.8, 0.8)], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_probabilities_sum_to_one_and_the_largest_score_keeps_the_largest_share(loss, size):
    scores = size * np.random.default_rng(3).normal(size=(200, 10)).astype(np.float32)
    got = shares(loss, scores)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    assert got.min() >= 0
    rows = np.arange(200)
    assert (got[rows, scores.argmax(axis=1)] == got.max(axis=1)).all()
    if isinstance(loss, MeanSquaredError):
        assert (got.argmax(axis=1) == scores.argmax(axis=1)).all()


@pytest.mark.parametrize("scores", [[-0.8, -1, -0.9, -2], [-3, -2, -3, -3], [0.9, 1, 0.95, 0.8]])
def test_the_largest_score_wins_beyond_the_targets_too(scores):
    got = shares(MeanSquaredError(-0.8, 0.8), [scores])
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    assert got[0].argmax() == np.argmax(scores)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), MeanSquaredError(-0.8, 0.8)], ids=str)
def test_a_configuration_makes_the_same_loss(loss):
    assert Loss.from_config(loss.config()) == loss


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_targets_that_cannot_be_are_refused(low, high):
    with pytest.raises(UsageError, match=r"low .* must be below high"):
        MeanSquaredError(low, high)
