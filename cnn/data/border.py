"""The borders of images: whether a picture shows dark on light where the training images show light on dark."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.data.stored import Images, blocks

Border = tuple[float, float]
"""Between which grey levels the borders of most images of a split lie."""

_TOLERANCE = 64
"""Grey levels by which a border may lie outside."""


def border_levels(images: npt.NDArray[Any], white: float = 255) -> npt.NDArray[np.float64]:
    """The mean grey level (N,), 0 to 255, of the outermost pixels of images (N, H, W, C) with this value of white."""
    edges = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    sums = sum(edge.sum(axis=(1, 2), dtype=np.float64) for edge in edges)
    levels: npt.NDArray[np.float64] = sums / sum(edge[0].size for edge in edges)
    return levels if white == 255 else levels * (255 / white)


def border_of(images: Images, white: float = 255) -> Border:
    """The border of a split: the levels that leave out the lowest and highest hundredth of its images."""
    levels = np.concatenate([border_levels(block, white) for block in blocks(images)])
    low, high = np.percentile(levels, (1, 99))
    return round(float(low), 1), round(float(high), 1)


def border_note(level: float, known: Border) -> str | None:
    """What to say of a picture whose border has this level, None if it is like the borders that are known."""
    if _fits(level, known):
        return None
    cure = "add --invert if it shows dark on light where they show light on dark, or the other way round"
    if not _fits(255 - level, known):
        cure = "the model has seen nothing like it"
    theirs = f"{known[0]:.0f} to {known[1]:.0f}"
    return f"its border has the grey level {level:.0f}, those of the training images {theirs}; {cure}"


def _fits(level: float, known: Border) -> bool:
    return known[0] - _TOLERANCE <= level <= known[1] + _TOLERANCE
