"""Random changes to a training batch that leave its labels true: mirroring and shifting."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.errors import FileFormatError, ShapeError, UsageError


@dataclass(frozen=True)
class Augmentation:
    """Mirrors half of the images left to right if `flip`, shifts by up to `pad_crop` pixels; off by default.

    The shift pads all sides with zeros and cuts an image of the old size out at random, as in He et al.,
    "Deep Residual Learning for Image Recognition" (2016), section 4.2. Raises UsageError.
    """

    flip: bool = False
    pad_crop: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise UsageError(f"flip is {self.flip!r}; give True or False.")
        if not isinstance(self.pad_crop, int) or isinstance(self.pad_crop, bool) or self.pad_crop < 0:
            raise UsageError(f"pad_crop is {self.pad_crop!r}; give a number of pixels, 0 or more.")

    def __bool__(self) -> bool:
        return self.flip or self.pad_crop > 0

    def apply(self, images: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A changed copy of `images` (N, H, W, C), or `images` itself if nothing is switched on.

        The same generator state gives the same bytes. Raises ShapeError if a shift could leave nothing of an
        image.
        """
        if images.ndim != 4:
            raise ShapeError(f"Images have shape {images.shape}; give (N, H, W, C).")
        count, height, width, _ = images.shape
        if self.pad_crop >= min(height, width):
            raise ShapeError(f"pad_crop is {self.pad_crop}, the images are {height} x {width}; give a smaller one.")
        if self.flip:
            mirrored = rng.random((count, 1, 1, 1)) < 0.5
            images = np.where(mirrored, images[:, :, ::-1], images)
        if self.pad_crop:
            images = self._shifted(images, rng.integers(0, 2 * self.pad_crop + 1, size=(count, 2)))
        return images

    def _shifted(self, images: npt.NDArray[np.uint8], corners: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Cuts (H, W) out of the padded images at `corners` (N, 2), row and column."""
        pad, (_, height, width, _) = self.pad_crop, images.shape
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        out = np.empty_like(images)
        for image, (row, column) in enumerate(corners):
            out[image] = padded[image, row : row + height, column : column + width]
        return out

    def to_config(self) -> dict[str, Any]:
        """JSON values for a configuration or checkpoint."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Augmentation":
        """The inverse of to_config. Raises FileFormatError if a key or a value is not one of its own."""
        if set(config) != {"flip", "pad_crop"}:
            raise FileFormatError(f"An augmentation has the keys {sorted(config)}; give flip and pad_crop.")
        try:
            return cls(**config)
        except UsageError as error:
            raise FileFormatError(f"A stored augmentation is invalid: {error}") from error
