"""What the numbers in an image mean: 8 or 16 bits, shades from 0 to 1, or numbers of any other range."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.data.stored import Images, blocks
from cnn.errors import DataError, UsageError

WHITE: dict[str, float | None] = {"uint8": 255.0, "uint16": 65535.0, "unit": 1.0, "number": None}
"""The kinds of pixels with the value of white: "unit" is from 0 to 1, and a "number" of any range means only itself."""

TYPES = (np.uint8, np.uint16, np.float32, np.float64)
"""The types in which images are kept."""


def kind_of(images: Images) -> str:
    """The kind of pixels that images (N, H, W, C) of one of TYPES have; of floats by their smallest and largest.

    Raises DataError for NaN and infinity.
    """
    if images.dtype in (np.uint8, np.uint16):
        return images.dtype.name
    low, high = np.inf, -np.inf
    for block in blocks(images):
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if not np.isfinite(low - high):
        raise DataError("There are pixels that are NaN or infinite; replace them, or leave these images out.")
    return "unit" if low >= 0 and high <= 1 else "number"


def factor_for(images: npt.NDArray[Any], kind: str) -> float:
    """By what to multiply pixels so that they are of a model's `kind`.

    Images of 8 and of 16 bits mean shades, so they are converted to 8 bits, 16 bits or "unit"; other numbers are taken
    to be of the model's kind. Raises UsageError for floats up to 1 where the model has seen 255 or 65535 as white.
    """
    white = WHITE[kind]
    given = WHITE.get(images.dtype.name)
    if white is None or given == white:
        return 1.0
    if given is not None:
        return white / given
    if white != 1 and images.dtype.kind == "f" and images.size and 0 < images.max() <= 1:
        raise UsageError(
            f"The model takes pixels from 0 to {white:.0f}, and these lie between {images.min():g} and "
            f"{images.max():g}; multiply them by {white:.0f}, or train a model on such images."
        )
    return 1.0
