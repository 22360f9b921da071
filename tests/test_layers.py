"""What each layer computes, against values worked by hand or by SciPy."""

import numpy as np
import pytest
from scipy.signal import correlate2d

from cnn.layers import (
    AvgPool2D,
    BatchNorm,
    Context,
    Conv2D,
    Dropout,
    Flatten,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Tanh,
)
from cnn.optimizers import SGD
from cnn.registry import create

RAMP = np.arange(1.0, 17).reshape(1, 4, 4, 1)


def built(layer, shape, *, seed=0, dtype=np.float64):
    """The layer, ready for images of `shape`, on the simplest backend."""
    backend = create("numpy")
    layer.name = "layer1"
    layer.build(shape, context=Context(backend, np.dtype(dtype), np.random.default_rng(seed)))
    return layer


def run(layer, x, *, training=False):
    return built(layer, x.shape[1:]).forward(x, training=training).copy()


@pytest.mark.parametrize(
    ("settings", "border", "step"),
    [
        ({}, (0, 0, 0, 0), (1, 1)),
        ({"padding": "same"}, (1, 1, 0, 1), (1, 1)),
        ({"padding": (2, 1), "stride": (2, 3)}, (2, 2, 1, 1), (2, 3)),
        ({"padding": (0, 1, 2, 0), "bias": False}, (0, 1, 2, 0), (1, 1)),
    ],
)
def test_conv2d_correlates_as_scipy_does(settings, border, step):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 6, 7, 3))
    layer = built(Conv2D(4, (3, 2), **settings), (6, 7, 3))
    bias = np.zeros(4)
    if layer.b:
        layer.b.value[:] = bias = rng.normal(size=4)
    top, bottom, left, right = border
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    expected = np.empty((2, padded.shape[1] - 2, padded.shape[2] - 1, 4))
    for n, k in np.ndindex(2, 4):
        planes = [correlate2d(padded[n, :, :, c], layer.w.value[:, :, c, k], mode="valid") for c in range(3)]
        expected[n, :, :, k] = sum(planes) + bias[k]
    got = layer.forward(x, training=False)
    np.testing.assert_allclose(got, expected[:, :: step[0], :: step[1]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", lambda z: z * (z > 0)), ("tanh", np.tanh), ("sigmoid", lambda z: 1 / (1 + np.exp(-z)))],
)
def test_an_activation_is_the_same_inside_a_layer_and_as_a_layer(activation, function):
    x = np.array([[-2.0, 0.0, 0.5], [3.0, -0.1, 1.0]])
    inside = built(Linear(3, activation=activation), (3,))
    inside.w.value[:] = 2 * np.eye(3)
    inside.b.value[:] = [0, 1, 0]
    expected = function(2 * x + [0, 1, 0])
    np.testing.assert_allclose(inside.forward(x, training=False), expected, rtol=1e-14)
    alone = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}[activation]()
    np.testing.assert_allclose(run(alone, 2 * x + [0, 1, 0]), expected, rtol=1e-14)


def test_linear_is_a_product_and_a_bias():
    layer = built(Linear(2), (3,))
    layer.w.value[:] = [[1, 2], [3, 4], [5, 6]]
    layer.b.value[:] = [10, 20]
    np.testing.assert_array_equal(layer.forward(np.array([[1.0, 0, 2]]), training=False), [[21, 34]])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (MaxPool2D(2), [[6, 8], [14, 16]]),
        (MaxPool2D(3, 2), [[11]]),
        (MaxPool2D(3, 2, ceil=True), [[11, 12], [15, 16]]),
        (MaxPool2D(2, padding=1), [[1, 3, 4], [9, 11, 12], [13, 15, 16]]),
        (MaxPool2D(1, 3), [[1, 4], [13, 16]]),
        (AvgPool2D(2), [[3.5, 5.5], [11.5, 13.5]]),
        # The windows beyond the edge are divided by the 6, 6 and 4 pixels they cover.
        (AvgPool2D(3, 2, ceil=True), [[6, 7.5], [12, 13.5]]),
        # One window, wider than the image by less than the stride.
        (MaxPool2D(5, 2, ceil=True), [[16]]),
        (AvgPool2D(5, 2, ceil=True), [[8.5]]),
        # Padding counts as zeros: the corner window holds 1 and three zeros.
        (AvgPool2D(2, padding=1), [[0.25, 1.25, 1], [3.5, 8.5, 5], [3.25, 7.25, 4]]),
        # Windows start at -1, 1, 3: the last has a pixel and its padding, and one column that does not count.
        (AvgPool2D(3, 2, padding=1, ceil=True), [[14 / 9, 30 / 9, 12 / 6], [57 / 9, 11, 36 / 6], [27 / 6, 45 / 6, 4]]),
    ],
    ids=str,
)
def test_pooling_gives_the_values_worked_by_hand(pool, expected, training):
    np.testing.assert_allclose(run(pool, RAMP, training=training)[0, :, :, 0], expected, rtol=1e-15)


def test_pooling_of_a_window_that_would_see_no_pixel_leaves_it_out():
    x = np.arange(1.0, 26).reshape(1, 5, 5, 1)
    for pool in (MaxPool2D(1, 3, ceil=True), AvgPool2D(1, 3, ceil=True)):
        np.testing.assert_array_equal(run(pool, x)[0, :, :, 0], [[1, 4], [16, 19]])


def test_max_pooling_of_negative_values_never_picks_the_padding():
    assert run(MaxPool2D(2, padding=1), -RAMP).max() == -1


def test_batch_norm_normalises_by_the_batch_in_training_and_by_running_means_after():
    layer = built(BatchNorm(momentum=0.75, epsilon=0.5), (1, 2, 2))
    x = np.array([[1.0, 10], [3, 10], [5, 10], [7, 18]]).reshape(2, 1, 2, 2)
    # Channel means 4 and 12, biased variances 5 and 12.
    layer.gamma.value[:] = [2, 3]
    layer.beta.value[:] = [0, -1]
    y = layer.forward(x, training=True)
    expected = np.stack([2 * (x[..., 0] - 4) / np.sqrt(5.5), 3 * (x[..., 1] - 12) / np.sqrt(12.5) - 1], axis=-1)
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    # running = 0.75 * (0 and 1) + 0.25 * (mean and variance)
    np.testing.assert_allclose(layer.statistics["layer1.running_mean"], [1, 3], rtol=1e-15)
    np.testing.assert_allclose(layer.statistics["layer1.running_variance"], [2, 3.75], rtol=1e-15)
    y = layer.forward(x, training=False)
    expected = np.stack([2 * (x[..., 0] - 1) / np.sqrt(2.5), 3 * (x[..., 1] - 3) / np.sqrt(4.25) - 1], axis=-1)
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    np.testing.assert_allclose(layer.statistics["layer1.running_mean"], [1, 3], rtol=1e-15)


def test_weight_decay_leaves_the_scale_and_shift_of_batch_norm_alone():
    layer = built(BatchNorm(), (4, 4, 2))
    assert [(each.lr_multiplier, each.decay_multiplier) for each in layer.parameters] == [(1, 0), (1, 0)]


def test_local_response_norm_across_channels_follows_the_formula():
    x = np.array([1.0, 2, 3, 4]).reshape(1, 1, 1, 4)
    sums = np.array([1 + 4, 1 + 4 + 9, 4 + 9 + 16, 9 + 16])
    got = run(LocalResponseNorm(3, alpha=0.6, beta=0.75, k=2), x)
    np.testing.assert_allclose(got[0, 0, 0], [1, 2, 3, 4] / (2 + 0.2 * sums) ** 0.75, rtol=1e-14)


def test_local_response_norm_within_a_channel_averages_a_square_with_zeros_around():
    x = np.stack([RAMP[..., 0], 100 * RAMP[..., 0]], axis=-1)
    got = run(LocalResponseNorm(3, alpha=0.9, beta=0.75, region="within"), x)
    corner, inner = 1 + 4 + 25 + 36, sum(n * n for n in (1, 2, 3, 5, 6, 7, 9, 10, 11))
    np.testing.assert_allclose(got[0, 0, 0, 0], 1 / (1 + 0.1 * corner) ** 0.75, rtol=1e-14)
    np.testing.assert_allclose(got[0, 1, 1, 1], 600 / (1 + 0.1 * 10_000 * inner) ** 0.75, rtol=1e-14)


def test_dropout_keeps_the_mean_and_drops_the_share_it_should():
    y = run(Dropout(0.2), np.ones((100, 1000)), training=True)
    assert set(np.unique(y.round(6))) == {0, 1.25}
    # 100,000 draws: the dropped fraction has a standard deviation of 0.0013.
    assert abs(np.mean(y == 0) - 0.2) < 0.006
    assert abs(y.mean() - 1) < 0.008


def test_dropout_is_decided_by_the_seed_and_does_nothing_at_inference():
    x = np.ones((8, 50))
    first, again, other = (built(Dropout(0.5), (50,), seed=seed).forward(x, training=True).copy() for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    layer = built(Dropout(0.5), (50,))
    assert not np.array_equal(layer.forward(x, training=True), layer.forward(x, training=True).copy()[::-1])
    assert layer.forward(x, training=False) is x
    assert built(Dropout(0.0), (50,)).forward(x, training=True) is x


def test_dropout_sends_the_gradient_where_the_values_went():
    layer = built(Dropout(0.5), (50,))
    y = layer.forward(np.full((4, 50), 3.0), training=True).copy()
    np.testing.assert_array_equal(layer.backward(np.full((4, 50), 3.0)), y)


def test_flatten_keeps_the_order_and_copies_nothing():
    x = np.arange(24.0).reshape(2, 2, 3, 2)
    layer = built(Flatten(), (2, 3, 2))
    y = layer.forward(x, training=True)
    assert y.shape == (2, 12)
    assert np.shares_memory(x, y)
    assert y[1].tolist() == list(range(12, 24))
    back = layer.backward(y)
    assert np.shares_memory(back, y)
    assert np.array_equal(back, x)


def test_connections_that_do_not_exist_stay_zero_through_updates():
    connections = [[0, 2], [1], [0, 1, 2]]
    layer = built(Conv2D(3, 2, connections=connections), (5, 5, 3))
    x = np.random.default_rng(6).normal(size=(4, 5, 5, 3))
    optimizer = SGD(0.9, weight_decay=0.1)
    optimizer.attach(layer.backend, layer.parameters)
    before = layer.w.value.copy()
    for _ in range(3):
        layer.backward(layer.forward(x, training=True).copy())
        optimizer.step(0.1)
    seen = np.zeros((3, 3), bool)
    for k, channels in enumerate(connections):
        seen[channels, k] = True
    assert not layer.w.value[:, :, ~seen].any()
    assert (layer.w.value[:, :, seen] != before[:, :, seen]).all()
