"""Test-time augmentation: probabilities and losses are those of mean scores of views made by hand."""

import numpy as np
import pytest

from cnn.data.dataset import Split
from cnn.errors import ShapeError, UsageError
from cnn.layers import Conv2D, Flatten, Linear
from cnn.model.sequential import Sequential


@pytest.fixture
def model():
    return Sequential([Conv2D(4, 3, activation="relu"), Flatten(), Linear(4)], (6, 5, 3), backend="numpy")


@pytest.fixture(params=[np.uint8, np.float32])
def images(request):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), np.uint8)
    return pixels if request.param is np.uint8 else (pixels / np.float32(255)).astype(np.float32)


def scores(model, images):
    return model.forward(model.load_images(np.ascontiguousarray(images))).copy()


def of_both_sides(model, images):
    return (scores(model, images) + scores(model, images[:, :, ::-1])) / 2


def shifted(images, by):
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    return padded[:, 1 + by : 7 + by, 1 + by : 6 + by]


def mean_scores(model, images, tta):
    """As airbench94.py says: shifted views are shifted first and mirrored then."""
    if tta == "none":
        return scores(model, images)
    centre = of_both_sides(model, images)
    if tta == "flip":
        return centre
    return centre / 2 + (of_both_sides(model, shifted(images, -1)) + of_both_sides(model, shifted(images, 1))) / 4


@pytest.mark.parametrize("tta", ["none", "flip", "flip+shift"])
def test_views_are_averaged_before_the_loss(model, images, tta):
    labels = np.arange(10) % 4
    model.get_to_know(Split(images, labels))
    odds = np.exp(mean_scores(model, images, tta))
    wanted = odds / odds.sum(axis=1, keepdims=True)
    for _ in range(4):  # as often as recorded passes take to be repeated
        np.testing.assert_allclose(model.predict(images, batch_size=4, tta=tta), wanted, atol=1e-6)
    loss, accuracy = model.evaluate(images, labels, batch_size=4, tta=tta)
    assert loss == pytest.approx(-np.log(wanted[range(10), labels]).mean(), abs=1e-6)
    assert accuracy == np.mean(wanted.argmax(axis=1) == labels)


def test_views_differ_and_what_cannot_be_is_refused(model, images):
    model.get_to_know(Split(images, np.arange(10) % 4))
    none, flip, both = (model.predict(images, tta=tta) for tta in ("none", "flip", "flip+shift"))
    assert np.abs(none - flip).max() > 1e-4
    assert np.abs(flip - both).max() > 1e-4
    with pytest.raises(UsageError, match=r"tta must be one of none, flip, flip\+shift, not 'flop'"):
        model.predict(images, tta="flop")
    thin = Sequential([Flatten(), Linear(2)], (1, 5, 1), backend="numpy")
    with pytest.raises(ShapeError, match="too small to be shifted"):
        thin.predict(np.zeros((3, 1, 5, 1), np.uint8), tta="flip+shift")
