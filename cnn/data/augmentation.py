"""Random changes to a training batch that leave its labels valid: mirroring, shifting and cropping."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import generator
from cnn.config import require, settle
from cnn.errors import FileFormatError, ShapeError, UsageError
from cnn.ops.input import Changes, Crops, change
from cnn.words import counted

_PROPORTION = math.log(4 / 3)
"""The logarithm of the largest change of proportions."""


@dataclass(frozen=True)
class Augmentation:
    """Mirrors half of the images if `flip`, shifts by up to `pad_crop` pixels, cuts out parts; off by default.

    The shift pads all sides with zeros and cuts out an image of the old size at random, as in He et al.,
    "Deep Residual Learning for Image Recognition" (2016), section 4.2. The parts are those of Szegedy et al., "Going
    deeper with convolutions" (2015), section 6: of random area and proportions. Raises UsageError.
    """

    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    pad_crop: int = 0
    """Pixels of zeros around an image, out of which one of the old size is cut at random."""

    random_crop: float = 0.0
    """The least share of an image's area that is cut out at random and resized, such as 0.3; 0 cuts out none."""

    def __post_init__(self) -> None:
        settle(self)
        share = self.random_crop
        require(0 <= share <= 1, f"random_crop is {share}; give the least share of the area, 0 to 1.")
        require(self.pad_crop >= 0, f"pad_crop is {self.pad_crop}; give a number of pixels, 0 or more.")

    def __bool__(self) -> bool:
        return self.flip or self.pad_crop > 0 or self.random_crop > 0

    def __str__(self) -> str:
        changes = ["half of them mirrored"] if self.flip else []
        if self.pad_crop:
            changes.append(f"shifted by up to {counted(self.pad_crop, 'pixel')}")
        if self.random_crop:
            changes.append(f"cut to random parts of at least {self.random_crop:.0%} of the area")
        return ", ".join(changes) or "unchanged"

    def apply(self, images: npt.NDArray[Any], rng: int | np.random.Generator) -> npt.NDArray[Any]:
        """A changed copy of `images` (N, H, W, C), or `images` itself if nothing is switched on.

        `rng` may be a seed; the same state gives the same bytes. Raises ShapeError if a shift could leave nothing of an
        image.
        """
        images = np.asarray(images)
        if images.ndim != 4:
            raise ShapeError(f"Images have shape {images.shape}; give (N, H, W, C).")
        return change(images, self.draw(images.shape, generator(rng)))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Changes | Crops:
        """Draws the changes to a batch of `shape` (N, H, W, C). Raises ShapeError as `apply` does."""
        count, height, width, _ = shape
        if self.pad_crop >= min(height, width):
            raise ShapeError(f"pad_crop is {self.pad_crop}, but the images are {height} x {width}; give a smaller one.")
        mirrored = rng.random(count) < 0.5 if self.flip else None
        corners = rng.integers(0, 2 * self.pad_crop + 1, size=(count, 2)) if self.pad_crop else None
        changes = Changes(mirrored, corners, self.pad_crop)
        return changes if self.random_crop == 0 else Crops(self._boxes(count, height, width, rng), changes)

    def _boxes(self, count: int, height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        areas = rng.uniform(self.random_crop, 1, count)
        ratios = np.exp(rng.uniform(-_PROPORTION, _PROPORTION, count))
        tall = height * np.minimum(1, np.sqrt(areas / ratios))
        wide = width * np.minimum(1, np.sqrt(areas * ratios))
        top, left = rng.random(count) * (height - tall), rng.random(count) * (width - wide)
        return np.stack([top, left, tall, wide], axis=1)

    def to_config(self) -> dict[str, Any]:
        """JSON values for a configuration or checkpoint; without what older ones do not know, unless it is used."""
        config = asdict(self)
        if not self.random_crop:
            del config["random_crop"]
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Augmentation":
        """The inverse of to_config. Raises FileFormatError for a wrong key or value."""
        if set(config) - {"random_crop"} != {"flip", "pad_crop"}:
            raise FileFormatError(f"An augmentation has the keys {sorted(config)}; give flip and pad_crop.")
        try:
            return cls(**config)
        except UsageError as error:
            raise FileFormatError(f"A stored augmentation is invalid: {error}") from error
