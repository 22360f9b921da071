"""Random changes to a training batch that leave its labels valid: mirroring and shifting."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import generator
from cnn.config import require, settle
from cnn.errors import FileFormatError, ShapeError, UsageError
from cnn.ops.input import Changes, change


@dataclass(frozen=True)
class Augmentation:
    """Mirrors half of the images left to right if `flip`, shifts by up to `pad_crop` pixels; off by default.

    The shift pads all sides with zeros and cuts out an image of the old size at random, as in He et al.,
    "Deep Residual Learning for Image Recognition" (2016), section 4.2. Raises UsageError.
    """

    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    pad_crop: int = 0
    """Pixels of zeros around an image, out of which one of the old size is cut at random."""

    def __post_init__(self) -> None:
        settle(self)
        require(self.pad_crop >= 0, f"pad_crop is {self.pad_crop}; give a number of pixels, 0 or more.")

    def __bool__(self) -> bool:
        return self.flip or self.pad_crop > 0

    def apply(self, images: npt.NDArray[np.uint8], rng: int | np.random.Generator) -> npt.NDArray[np.uint8]:
        """A changed copy of `images` (N, H, W, C), or `images` itself if nothing is switched on.

        `rng` may be a seed; the same state gives the same bytes. Raises ShapeError if a shift could leave nothing of an
        image.
        """
        images = np.asarray(images)
        if images.ndim != 4:
            raise ShapeError(f"Images have shape {images.shape}; give (N, H, W, C).")
        return change(images, self.draw(images.shape, generator(rng)))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Changes:
        """Draws the changes to a batch of `shape` (N, H, W, C). Raises ShapeError as `apply` does."""
        count, height, width, _ = shape
        if self.pad_crop >= min(height, width):
            raise ShapeError(f"pad_crop is {self.pad_crop}, but the images are {height} x {width}; give a smaller one.")
        mirrored = rng.random(count) < 0.5 if self.flip else None
        corners = rng.integers(0, 2 * self.pad_crop + 1, size=(count, 2)) if self.pad_crop else None
        return Changes(mirrored, corners, self.pad_crop)

    def to_config(self) -> dict[str, Any]:
        """JSON values for a configuration or checkpoint."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Augmentation":
        """The inverse of to_config. Raises FileFormatError for a wrong key or value."""
        if set(config) != {"flip", "pad_crop"}:
            raise FileFormatError(f"An augmentation has the keys {sorted(config)}; give flip and pad_crop.")
        try:
            return cls(**config)
        except UsageError as error:
            raise FileFormatError(f"A stored augmentation is invalid: {error}") from error
