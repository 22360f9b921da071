"""Test-time augmentation: the views of an image whose scores are averaged."""

from collections.abc import Iterator

import numpy as np

from cnn.config import require
from cnn.errors import ShapeError
from cnn.ops.input import Changes
from cnn.words import counted

NONE, FLIP, FLIP_SHIFT = "none", "flip", "flip+shift"
VIEWS = {NONE: 1, FLIP: 2, FLIP_SHIFT: 6}
"""Each kind of test-time augmentation, with how many views of an image it has."""
SHIFT = 1
"""Pixels by which a view is shifted, down and to the right or up and to the left, with a reflected border."""


def checked(tta: str) -> str:
    """`tta`. Raises UsageError unless it is a kind of test-time augmentation."""
    require(tta in VIEWS, f"tta must be one of {', '.join(VIEWS)}, not {tta!r}.")
    return tta


def views(tta: str, count: int, shape: tuple[int, ...]) -> Iterator[tuple[float, Changes]]:
    """Each view of `count` images of `shape` (H, W, C), with its share of the average.

    "flip" has the image and its mirror image. "flip+shift" has these two, a quarter each, and both shifted by a pixel
    in two directions, an eighth each (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", and
    its code). Raises ShapeError for images too small to be shifted.
    """
    if tta == FLIP_SHIFT and min(shape[:2]) <= SHIFT:
        raise ShapeError(f"Images of {shape} are too small to be shifted by a pixel; take tta {FLIP!r} or {NONE!r}.")
    corners = [None, 0, 2 * SHIFT] if tta == FLIP_SHIFT else [None]
    sides = [False] if tta == NONE else [False, True]
    for corner in corners:
        weight = 1.0 if len(corners) == 1 else 0.5 if corner is None else 0.25
        for mirrored in sides:
            # A shifted image is mirrored; changes mirror first, so that its shift is then the other way.
            column = 2 * SHIFT - (corner or 0) if mirrored else corner
            at = None if corner is None else np.full((count, 2), (corner, column), np.int64)
            flips = np.ones(count, np.bool_) if mirrored else None
            yield weight / len(sides), Changes(flips, at, SHIFT if at is not None else 0, at is not None)


def described(tta: str) -> str:
    """How an accuracy was found that is not that of the images as they are."""
    return f"with test-time augmentation ({tta}: {counted(VIEWS[tta], 'view')} of each image)"
