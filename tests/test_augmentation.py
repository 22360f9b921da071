"""Augmentation: each image of the result is one of the allowed changes of its original, and the seed decides which."""

import json

import numpy as np
import pytest

from cnn.data.augmentation import Augmentation
from cnn.errors import FileFormatError, ShapeError, UsageError


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (64, 6, 5, 3), dtype=np.uint8)


def test_off_by_default(images):
    assert not Augmentation()
    assert Augmentation().apply(images, np.random.default_rng(0)) is images


def test_flip_mirrors_about_half_left_to_right(images):
    got = Augmentation(flip=True).apply(images, np.random.default_rng(0))
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(got, images, strict=True)]
    kept = [np.array_equal(new, old) for new, old in zip(got, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_pad_crop_shifts_with_zeros_and_reaches_every_offset(images):
    got = Augmentation(pad_crop=1).apply(images, np.random.default_rng(0))
    offsets = set()
    for new, old in zip(got, images, strict=True):
        padded = np.zeros((8, 7, 3), dtype=np.uint8)
        padded[1:7, 1:6] = old
        found = [(r, c) for r in range(3) for c in range(3) if np.array_equal(new, padded[r : r + 6, c : c + 5])]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) == 9


def test_a_reflected_border_shows_the_image_mirrored_at_its_outermost_pixels():
    row = np.array([[10, 20, 30, 40]] * 3, np.uint8) + np.array([[0], [1], [2]], np.uint8)
    images = np.repeat(row[None, :, :, None], 400, axis=0)
    got = Augmentation(pad_crop=2, border="reflect").apply(images, 5)[..., 0]
    # A shift to the right by two shows 30 20 | 10 20, one to the left by one 20 30 40 | 30; downwards alike.
    columns = {(30, 20, 10, 20), (20, 10, 20, 30), (10, 20, 30, 40), (20, 30, 40, 30), (30, 40, 30, 20)}
    rows = {(2, 1, 0), (1, 0, 1), (0, 1, 2), (1, 2, 1), (2, 1, 0)}
    assert {tuple(each[0] // 10 * 10) for each in got} == columns
    assert {tuple(each[:, 0] % 10) for each in got} == rows


def test_alternating_flips_mirror_each_image_in_every_other_epoch(images):
    augmentation, rng = Augmentation(flip=True, alternate=True), np.random.default_rng(0)
    before = rng.bit_generator.state
    order = np.random.default_rng(3).permutation(10_000)
    first, second, third = (augmentation.draw((10_000, 6, 5, 3), rng, order, epoch).mirrored for epoch in range(3))
    np.testing.assert_array_equal(first, ~second)
    np.testing.assert_array_equal(first, third)
    assert abs(first.mean() - 0.5) < 0.02
    # The image's number decides, wherever in the epoch it comes, and neighbours are independent.
    sorted_flips = augmentation.draw((10_000, 6, 5, 3), rng).mirrored
    np.testing.assert_array_equal(sorted_flips[order], first)
    assert abs((sorted_flips[1:] == sorted_flips[:-1]).mean() - 0.5) < 0.02
    assert rng.bit_generator.state == before
    assert Augmentation(alternate=True).draw((4, 6, 5, 3), rng).mirrored is None


def test_same_seed_same_bytes_and_input_untouched(images):
    before = images.copy()
    augmentation = Augmentation(flip=True, pad_crop=2)
    first = augmentation.apply(images, np.random.default_rng(7))
    second = augmentation.apply(images, np.random.default_rng(7))
    other = augmentation.apply(images, np.random.default_rng(8))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(images, before)
    assert first.dtype == np.uint8


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_random_crops_are_parts_of_the_image_resized(kind):
    # The red channel counts the rows, green the columns: a part shows where it comes from.
    rows, columns = np.meshgrid(np.arange(20) * 10, np.arange(30) * 8, indexing="ij")
    image = np.stack([rows, columns, rows], axis=2).astype(kind)
    images = np.repeat(image[None], 200, axis=0)
    got = Augmentation(random_crop=0.3).apply(images, 3).astype(float)
    assert got.shape == images.shape
    tall = (got[:, -1, 0, 0] - got[:, 0, 0, 0]) / 10 * 20 / 19
    wide = (got[:, 0, -1, 1] - got[:, 0, 0, 1]) / 8 * 30 / 29
    areas = tall * wide / 600
    assert 0.25 < areas.min() < 0.4
    assert 0.85 < areas.max() <= 1.05
    assert np.ptp(got[:, 0, 0, 0]) > 40  # at different places
    # Straight lines stay straight, and each channel depends on its own direction alone.
    assert np.abs(np.diff(got[:, 2:-2, 5, 0], 2, axis=1)).max() <= 2.5
    assert np.ptp(got[..., 0], axis=2).max() <= 1
    np.testing.assert_array_equal(Augmentation(random_crop=1.0).apply(images[:0], 0), images[:0])


def test_a_crop_of_everything_changes_nothing(images):
    from cnn.ops.input import Changes, Crops, change

    whole = Crops(np.array([[0.0, 0, 6, 5]] * 64), Changes())
    np.testing.assert_array_equal(change(images, whole), images)
    halves = whole.of(slice(0, 2))
    assert len(halves.boxes) == 2


def test_config_goes_through_json():
    augmentation = Augmentation(flip=True, pad_crop=4)
    assert set(augmentation.to_config()) == {"flip", "pad_crop"}
    jordan = Augmentation(True, 2, border="reflect", alternate=True)
    assert jordan.to_config() == {"flip": True, "pad_crop": 2, "border": "reflect", "alternate": True}
    assert Augmentation.from_config(json.loads(json.dumps(jordan.to_config()))) == jordan
    assert str(jordan) == (
        "half of them mirrored, each in every other epoch, shifted by up to 2 pixels with reflected borders"
    )
    cropping = Augmentation(random_crop=0.5)
    assert Augmentation.from_config(json.loads(json.dumps(cropping.to_config()))) == cropping
    assert Augmentation.from_config(json.loads(json.dumps(augmentation.to_config()))) == augmentation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": 1}, "flip must be bool, not 1"),
        ({"pad_crop": -1}, "pad_crop is -1"),
        ({"pad_crop": 1.5}, "pad_crop must be int, not 1.5"),
        ({"pad_crop": True}, "pad_crop must be int, not True"),
        ({"random_crop": 1.5}, "random_crop is 1.5; give the least share"),
        ({"border": "black"}, "border must be one of zeros, reflect, not 'black'"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(UsageError, match=message):
        Augmentation(**arguments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"the keys \[\]"),
        ({"flip": True}, r"the keys \['flip'\]"),
        ({"flip": True, "pad_crop": -4}, "pad_crop is -4"),
        ({"flip": 0, "pad_crop": 0}, "flip must be bool, not 0"),
    ],
)
def test_from_config_refuses(config, message):
    with pytest.raises(FileFormatError, match=message):
        Augmentation.from_config(config)


def test_apply_refuses_what_does_not_fit(images):
    with pytest.raises(ShapeError, match="pad_crop is 5"):
        Augmentation(pad_crop=5).apply(images, np.random.default_rng(0))
    with pytest.raises(ShapeError, match="N, H, W, C"):
        Augmentation(flip=True).apply(images[0], np.random.default_rng(0))
