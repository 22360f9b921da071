"""Augmentation: each image of the result is one of the allowed changes of its original, and the seed decides which."""

import json

import numpy as np
import pytest

from cnn.data.augmentation import Augmentation
from cnn.data.preprocessing import Preprocessing
from cnn.errors import FileFormatError, ShapeError, UsageError
from cnn.layers import Flatten, Linear
from cnn.model.sequential import Sequential
from cnn.ops.input import Retouch, change, coloured, turned

RNG = np.random.default_rng
MEAN = np.full(3, 50.0)


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


def test_a_quarter_turn_is_that_of_the_transposed_image():
    images = np.random.default_rng(1).integers(0, 256, (3, 5, 5, 2), dtype=np.uint8)
    quarter, half = np.array([[0.0, 1.0]] * 3), np.array([[-1.0, 0.0]] * 3)
    for reflect in (False, True):
        np.testing.assert_array_equal(turned(images, quarter, reflect=reflect), np.rot90(images, axes=(1, 2)))
        np.testing.assert_array_equal(turned(images, half, reflect=reflect), np.rot90(images, 2, axes=(1, 2)))


def test_an_eighth_turn_interpolates_as_worked_by_hand():
    # The upper right corner of a turned image shows what lies sqrt(2) to the right of the centre: 0.414 beyond the 30.
    row = np.array([[0, 0, 0], [10, 20, 30], [0, 0, 0]], np.float64)[None, :, :, None]
    eighth, root = np.array([[0.5**0.5, 0.5**0.5]]), 2**0.5
    zeros, mirrored = (turned(row, eighth, reflect=reflect)[0, ..., 0] for reflect in (False, True))
    assert zeros[1, 1] == mirrored[1, 1] == 20
    assert zeros[0, 2] == pytest.approx((2 - root) * 30)
    assert zeros[0, 0] == zeros[2, 2] == 0
    # Down and left of the centre is what was to the left of it.
    assert zeros[2, 0] == pytest.approx((2 - root) * 10)
    assert mirrored[2, 0] == pytest.approx(10 + (root - 1) * 10)


def test_turns_are_drawn_within_the_angle_and_turn_either_way():
    angles = np.degrees(np.arctan2(*Augmentation(rotate=30).draw((500, 8, 8, 1), RNG(3)).retouch.turns.T[::-1]))
    assert -30 <= angles.min() < -29
    assert 29 < angles.max() <= 30


def test_colours_are_those_worked_by_hand():
    image = np.array([[[100, 50, 20], [200, 150, 120]]], np.uint8)[None]
    # Shades 0.299 R + 0.587 G + 0.114 B: 61.53 and 161.53, mean 111.53.
    by_hand = {
        "brightness": ("brightness", 1.2, [[120, 60, 24], [240, 180, 144]]),
        "contrast": ("contrast", 0.5, [[106, 81, 66], [156, 131, 116]]),
        "saturation": ("saturation", 0.5, [[81, 56, 41], [181, 156, 141]]),
        "no colour": ("saturation", 0.0, [[62, 62, 62], [162, 162, 162]]),
        "clipped": ("brightness", 2.0, [[200, 100, 40], [255, 255, 240]]),
    }
    for setting, share, wanted in by_hand.values():
        factors = Augmentation(**{setting: 1.0})._drawn_colours(1, 3, Fixed(share))
        assert coloured(image, factors)[0, 0].tolist() == wanted
    grey = np.full((1, 2, 2, 3), 77, np.uint8)
    np.testing.assert_array_equal(Augmentation(hue=0.5, saturation=0.9).apply(grey, 1), grey)
    # A third of a turn in YIQ keeps the shade.
    turned_hue = coloured(image, Augmentation(hue=0.5)._drawn_colours(1, 3, Fixed(1.0, hue=1 / 3))).astype(float)
    np.testing.assert_allclose(turned_hue @ [0.299, 0.587, 0.114], [[[61.53, 161.53]]], atol=0.6)
    assert np.abs(turned_hue - image).min() > 4


class Fixed(np.random.Generator):
    """Draws the same number each time: one for factors around 1, another for the hue around 0."""

    def __init__(self, share, hue=0.0):
        super().__init__(np.random.PCG64(0))
        self.share, self.turn = share, hue

    def uniform(self, low, high, size):
        return np.full(size, low if low == high else self.share if low >= 0 else self.turn)


def test_cutout_is_zero_as_the_network_takes_it_and_may_reach_over_the_edge():
    pixels = np.full((200, 6, 5, 3), 200, np.uint8)
    model = Sequential([Flatten(), Linear(2)], (6, 5, 3), backend="numpy", preprocessing=Preprocessing(1.0, MEAN))
    changes = Augmentation(cutout=3).draw(pixels.shape, RNG(0))
    expected = np.full((200, 6, 5, 3), 150.0)
    for each, (row, column) in zip(expected, changes.holes, strict=True):
        each[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 0
    assert {tuple(hole) for hole in changes.holes} == {(r, c) for r in range(6) for c in range(5)}
    for images in (pixels, pixels.astype(np.float32)):
        np.testing.assert_array_equal(model.load_images(images, None, changes), expected)
    assert Augmentation(cutout=1).apply(pixels[:1], 0).min() == 0


def noisy(image, rng):
    return image + rng.integers(0, 100, image.shape, image.dtype)


def test_a_transform_of_ones_own_draws_from_a_generator_of_each_image(images):
    images //= 2
    for transform in (noisy, f"{__name__}:noisy"):
        augmentation = Augmentation(transform=transform)
        assert augmentation
        assert augmentation.to_config() == {"flip": False, "pad_crop": 0, "transform": f"{__name__}:noisy"}
        got = augmentation.apply(images, 5)
        assert (got != images).mean() > 0.9
        changes = augmentation.draw(images.shape, RNG(5))
        parts = [changes.of(rows).retouch.apply(images[rows]) for rows in (slice(0, 7), slice(7, 64))]
        np.testing.assert_array_equal(np.concatenate(parts), got)
    with pytest.raises(ShapeError, match=r"returns float64 \(6, 5, 3\) for an image of uint8"):
        Augmentation(transform=lambda image, rng: image / 2).apply(images, 0)
    for wrong, error in (
        ("noisy", "give MODULE:FUNCTION"),
        (3, "or a function, not 3"),
        (f"{__name__}:absent", "has no function absent"),
    ):
        with pytest.raises(UsageError, match=error):
            Augmentation(transform=wrong)


def test_parts_of_a_batch_change_as_the_whole_does(images):
    colours = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
    everything = Augmentation(True, 2, 0.5, border="reflect", cutout=2, rotate=20, **colours)
    changes = everything.draw(images.shape, RNG(2))
    whole = change(images, changes)
    parts = [change(images[rows], changes.of(rows)) for rows in (slice(0, 1), slice(1, 40), slice(40, 64))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    holes = [changes.of(rows).holes for rows in (slice(0, 1), slice(1, 64))]
    np.testing.assert_array_equal(np.concatenate(holes), changes.holes)


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
    whole = Retouch(boxes=np.array([[0.0, 0, 6, 5]] * 64))
    np.testing.assert_array_equal(whole.apply(images), images)
    assert len(whole.of(slice(0, 2)).boxes) == 2


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
        ({"cutout": -1}, "cutout is -1"),
        ({"rotate": 181}, "rotate is 181"),
        ({"hue": 0.6}, "hue is 0.6; give 0 to 0.5"),
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
    with pytest.raises(ShapeError, match=r"hue is 0\.1, but the images have 1 channels"):
        Augmentation(hue=0.1).apply(images[..., :1], 0)
    with pytest.raises(ShapeError, match="N, H, W, C"):
        Augmentation(flip=True).apply(images[0], np.random.default_rng(0))
