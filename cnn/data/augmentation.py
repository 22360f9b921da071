"""Random changes to a training batch that leave its labels valid: mirroring, shifting and cropping."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
BORDERS = ("zeros", "reflect")
ALWAYS = ("flip", "pad_crop")
"""What every stored augmentation has; the rest is stored only where it is used."""


@dataclass(frozen=True)
class Augmentation:
    """Mirrors half of the images if `flip`, shifts by up to `pad_crop` pixels, cuts out parts; off by default.

    The shift pads all sides with zeros and cuts out an image of the old size at random, as in He et al.,
    "Deep Residual Learning for Image Recognition" (2016), section 4.2. The parts are those of Szegedy et al., "Going
    deeper with convolutions" (2015), section 6: of random area and proportions. Reflected borders and alternating flips
    are those of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024), section 3. Raises UsageError.
    """

    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    pad_crop: int = 0
    """Pixels of border around an image, out of which one of the old size is cut at random."""

    border: str = "zeros"
    """What the border of `pad_crop` shows: "zeros", or "reflect" for the image mirrored at its outermost pixels."""
    alternate: bool = False
    """Whether `flip` mirrors an image in every other epoch, half of them in the first, instead of at random."""
    random_crop: float = 0.0
    """The least share of an image's area that is cut out at random and resized, such as 0.3; 0 cuts out none."""

    def __post_init__(self) -> None:
        settle(self)
        share = self.random_crop
        require(0 <= share <= 1, f"random_crop is {share}; give the least share of the area, 0 to 1.")
        require(self.pad_crop >= 0, f"pad_crop is {self.pad_crop}; give a number of pixels, 0 or more.")
        require(self.border in BORDERS, f"border must be one of {', '.join(BORDERS)}, not {self.border!r}.")

    def __bool__(self) -> bool:
        return self.flip or self.pad_crop > 0 or self.random_crop > 0

    def __str__(self) -> str:
        often = ", each in every other epoch" if self.alternate else ""
        changes = [f"half of them mirrored{often}"] if self.flip else []
        if self.pad_crop:
            border = " with reflected borders" if self.border == "reflect" else ""
            changes.append(f"shifted by up to {counted(self.pad_crop, 'pixel')}{border}")
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

    def draw(
        self,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        order: npt.NDArray[np.int64] | None = None,
        epoch: int = 0,
    ) -> Changes | Crops:
        """Draws the changes to a batch of `shape` (N, H, W, C). Raises ShapeError as `apply` does.

        `order` (N,) are the images' numbers in the training set, by default 0 to N - 1, and `epoch` counts from 0: they
        decide an alternating flip, and no random number is drawn for it.
        """
        count, height, width, _ = shape
        if self.pad_crop >= min(height, width):
            raise ShapeError(f"pad_crop is {self.pad_crop}, but the images are {height} x {width}; give a smaller one.")
        mirrored = None
        if self.flip and self.alternate:
            mirrored = first_flips(np.arange(count) if order is None else order) ^ bool(epoch % 2)
        elif self.flip:
            mirrored = rng.random(count) < 0.5
        corners = rng.integers(0, 2 * self.pad_crop + 1, size=(count, 2)) if self.pad_crop else None
        changes = Changes(mirrored, corners, self.pad_crop, self.border == "reflect")
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
        unused = {each.name: each.default for each in fields(self) if each.name not in ALWAYS}
        return {name: value for name, value in asdict(self).items() if name in ALWAYS or value != unused[name]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Augmentation":
        """The inverse of to_config. Raises FileFormatError for a wrong key or value."""
        known = {each.name for each in fields(cls)}
        if not set(ALWAYS) <= set(config) <= known:
            raise FileFormatError(
                f"An augmentation has the keys {sorted(config)}; give flip and pad_crop, and of the others only "
                f"{', '.join(sorted(known.difference(ALWAYS)))}."
            )
        try:
            return cls(**config)
        except UsageError as error:
            raise FileFormatError(f"A stored augmentation is invalid: {error}") from error


def first_flips(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether an alternating flip mirrors the images of these numbers in the first epoch: about half of them.

    A hash of the number alone decides, so that nothing need be kept for each image (Jordan 2024, listing 2). The hash
    is the finaliser of splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators", figure 15).
    """
    z = (np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) & np.uint64(1), np.bool_)
