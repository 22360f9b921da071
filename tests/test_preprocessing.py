"""Preprocessing against its definition written out, its stored form, and the values it refuses."""

import json

import numpy as np
import pytest

from cnn.data.dataset import Split
from cnn.data.preprocessing import Preprocessing
from cnn.errors import FileFormatError, ShapeError, UsageError


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8), np.zeros(30, dtype=np.int64))


ALL = (
    lambda split: Preprocessing(),
    lambda split: Preprocessing.scale_only(1 / 255),
    Preprocessing.mean_image,
    Preprocessing.standardise,
    lambda split: Preprocessing(2.0, np.array([1.0, 2.0, 3.0]), None),
)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_apply_is_scale_minus_mean_over_std(split, make, dtype):
    chosen = make(split)
    expected = split.images.astype(np.float64) * chosen.scale
    expected = (expected - (0 if chosen.mean is None else chosen.mean)) / (1 if chosen.std is None else chosen.std)
    got = chosen.apply(split.images, dtype=dtype)
    assert got.dtype == dtype
    assert got.shape == split.images.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 if dtype == np.float32 else 1e-12)
    out = np.full(split.images.shape, np.nan, dtype=dtype)
    assert chosen.apply(split.images, out=out) is out
    np.testing.assert_array_equal(out, got)


def test_standardise_gives_mean_0_and_deviation_1(split):
    got = Preprocessing.standardise(split).apply(split.images, dtype=np.float64)
    np.testing.assert_allclose(got.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(got.std(axis=(0, 1, 2)), 1, atol=1e-6)


def test_mean_image_centres_every_pixel(split):
    np.testing.assert_allclose(Preprocessing.mean_image(split).apply(split.images).mean(axis=0), 0, atol=1e-6)


def test_constant_channel_is_centred_and_not_divided(split):
    split.images[..., 1] = 77
    chosen = Preprocessing.standardise(split)
    assert chosen.std[1] == 1
    np.testing.assert_allclose(chosen.apply(split.images)[..., 1], 0, atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_state_goes_through_json_and_arrays_unchanged(split, make):
    chosen = make(split)
    config, arrays = chosen.to_state()
    again = Preprocessing.from_state(json.loads(json.dumps(config)), arrays)
    assert again == chosen
    np.testing.assert_array_equal(again.apply(split.images), chosen.apply(split.images))


def test_equality_looks_at_every_field(split):
    chosen = Preprocessing.standardise(split)
    assert chosen != Preprocessing(chosen.scale, chosen.mean, None)
    assert chosen != Preprocessing(chosen.scale, chosen.mean + 1, chosen.std)
    assert chosen != Preprocessing(chosen.scale * 2, chosen.mean, chosen.std)
    assert chosen != "preprocessing"


def test_fields_are_copied_and_read_only():
    mean = np.array([1.0])
    chosen = Preprocessing(1.0, mean)
    mean[0] = 5
    assert chosen.mean[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        chosen.mean[0] = 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0.0,), UsageError, "scale is 0.0"),
        ((float("nan"),), UsageError, "scale is nan"),
        ((1.0, [[1.0]]), ShapeError, r"mean has shape \(1, 1\)"),
        ((1.0, []), ShapeError, r"mean has shape \(0,\)"),
        ((1.0, [float("inf")]), UsageError, "mean has a value that is not finite"),
        ((1.0, None, [0.0]), UsageError, "smallest std is 0.0"),
        ((1.0, None, np.ones((2, 2, 1))), ShapeError, r"std has shape \(2, 2, 1\)"),
        ((1.0, [1.0, 2.0], [1.0]), ShapeError, r"shape \(2,\), std \(1,\)"),
    ],
)
def test_constructor_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Preprocessing(*arguments)


def test_apply_refuses_what_does_not_fit(split):
    with pytest.raises(ShapeError, match="mean"):
        Preprocessing(1.0, [1.0, 2.0]).apply(split.images)
    with pytest.raises(ShapeError, match="uint8"):
        Preprocessing().apply(split.images.astype(np.int16))
    with pytest.raises(ShapeError, match="output"):
        Preprocessing().apply(split.images, out=np.empty((1, 5, 4, 3), dtype=np.float32))
    with pytest.raises(UsageError, match="0 images"):
        Preprocessing.standardise(split.take([]))


@pytest.mark.parametrize(
    ("config", "arrays", "message"),
    [
        ({}, {}, r"the values \[\]"),
        ({"scale": "x"}, {}, "invalid: .*'x'"),
        ({"scale": None}, {}, "invalid: .*NoneType"),
        ({"scale": True}, {}, r"the values \['scale'\]"),
        ({"scale": -1.0}, {}, "invalid: The scale is -1.0"),
        ({"scale": 1.0, "more": 1}, {}, r"the values \['more', 'scale'\]"),
        ({"scale": 1.0}, {"other": np.ones(1)}, r"the arrays \['other'\]"),
        ({"scale": 1.0}, {"std": np.zeros(1)}, "invalid: The smallest std is 0.0"),
        ({"scale": 1.0}, {"mean": np.array(["a"])}, "invalid: .*'a'"),
    ],
)
def test_from_state_refuses_foreign_states(config, arrays, message):
    with pytest.raises(FileFormatError, match=message):
        Preprocessing.from_state(config, arrays)
