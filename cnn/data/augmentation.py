"""Random changes to a training batch that leave its labels valid: mirroring, shifting and cropping."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import generator
from cnn.config import require, settle
from cnn.errors import FileFormatError, ShapeError, UsageError
from cnn.ops.input import Changes, Retouch, Transform, change, shades
from cnn.plugins import import_modules
from cnn.words import counted

_PROPORTION = math.log(4 / 3)
"""The logarithm of the largest change of proportions."""
BORDERS = ("zeros", "reflect")
COLOURS = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
"""The settings of colours, with the most that each may be."""
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""From red, green and blue to a shade and two coordinates of colour (NTSC 1953); grey has no colour."""
ALWAYS = ("flip", "pad_crop")
"""What every stored augmentation has; the rest is stored only where it is used."""


@dataclass(frozen=True)
class Augmentation:
    """Mirrors half of the images if `flip`, shifts by up to `pad_crop` pixels, cuts out parts; off by default.

    The shift pads all sides with zeros and cuts out an image of the old size at random, as in He et al.,
    "Deep Residual Learning for Image Recognition" (2016), section 4.2. The parts are those of Szegedy et al., "Going
    deeper with convolutions" (2015), section 6: of random area and proportions. Reflected borders and alternating flips
    are those of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024); cutout is that of DeVries
    & Taylor, "Improved regularization of convolutional neural networks with cutout" (2017); colours change as in
    Howard, "Some improvements on deep convolutional neural network based image classification" (2013).

    The order is: transform, random_crop, rotate, colours, flip, pad_crop, cutout. Raises UsageError.
    """

    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    pad_crop: int = 0
    """Pixels of border around an image, out of which one of the old size is cut at random."""
    random_crop: float = 0.0
    """The least share of an image's area that is cut out at random and resized, such as 0.3; 0 cuts out none."""

    border: str = "zeros"
    """What the border of `pad_crop` shows: "zeros", or "reflect" for the image mirrored at its outermost pixels."""
    alternate: bool = False
    """Whether `flip` mirrors an image in every other epoch, half of them in the first, instead of at random."""
    cutout: int = 0
    """The side in pixels of a square that is set to zero, after the preprocessing, around a random pixel."""
    rotate: float = 0.0
    """The largest angle in degrees by which an image is turned, either way; `border` says what comes in."""
    brightness: float = 0.0
    """Up to which share the brightness changes, such as 0.4 for factors from 0.6 to 1.4."""
    contrast: float = 0.0
    """The same for the differences from the image's mean shade."""
    saturation: float = 0.0
    """The same for the differences of a pixel's colours from its shade."""
    hue: float = 0.0
    """Up to which part of a full turn the hue changes, 0 to 0.5, in the plane of YIQ's I and Q."""
    transform: str | Transform | None = None
    """A function of your own, transform(image, rng), as MODULE:FUNCTION or itself; it returns the image (H, W, C)
    changed, of the same shape and type, and draws from the generator `rng` only."""

    def __post_init__(self) -> None:
        settle(self)
        share = self.random_crop
        require(0 <= share <= 1, f"random_crop is {share}; give the least share of the area, 0 to 1.")
        require(self.pad_crop >= 0, f"pad_crop is {self.pad_crop}; give a number of pixels, 0 or more.")
        require(self.border in BORDERS, f"border must be one of {', '.join(BORDERS)}, not {self.border!r}.")
        require(self.cutout >= 0, f"cutout is {self.cutout}; give a number of pixels, 0 or more.")
        require(0 <= self.rotate <= 180, f"rotate is {self.rotate}; give degrees, 0 to 180.")
        for name, most in COLOURS.items():
            value = getattr(self, name)
            require(0 <= value <= most, f"{name} is {value}; give 0 to {most:g}.")
        if self.transform is not None:
            object.__setattr__(self, "_function", _function(self.transform))

    def __bool__(self) -> bool:
        parts = (self.flip, self.pad_crop, self.random_crop, self.cutout, self.rotate, self.transform, *self._colours)
        return any(parts)

    @property
    def _colours(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in COLOURS)

    def __str__(self) -> str:
        often = ", each in every other epoch" if self.alternate else ""
        changes = [f"half of them mirrored{often}"] if self.flip else []
        if self.pad_crop:
            border = " with reflected borders" if self.border == "reflect" else ""
            changes.append(f"shifted by up to {counted(self.pad_crop, 'pixel')}{border}")
        if self.random_crop:
            changes.append(f"cut to random parts of at least {self.random_crop:.0%} of the area")
        if self.cutout:
            changes.append(f"with a hole of {counted(self.cutout, 'pixel')}")
        if self.rotate:
            changes.append(f"turned by up to {self.rotate:g} degrees")
        changes += [f"{name} changed by up to {getattr(self, name):g}" for name in COLOURS if getattr(self, name)]
        if self.transform is not None:
            changes.append(f"changed by {_name(self.transform)}")
        return ", ".join(changes) or "unchanged"

    def apply(self, images: npt.NDArray[Any], rng: int | np.random.Generator) -> npt.NDArray[Any]:
        """A changed copy of `images` (N, H, W, C), or `images` itself if nothing is switched on. Holes are black.

        `rng` may be a seed; the same state gives the same bytes. Raises ShapeError if a shift could leave nothing of an
        image.
        """
        images = np.asarray(images)
        if images.ndim != 4:
            raise ShapeError(f"Images have shape {images.shape}; give (N, H, W, C).")
        changes = self.draw(images.shape, generator(rng))
        changed = change(images, changes)
        if changes.holes is not None:
            changed = changed.copy()
            changes.cut(changed)
        return changed

    def draw(
        self,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        order: npt.NDArray[np.int64] | None = None,
        epoch: int = 0,
    ) -> Changes:
        """Draws the changes to a batch of `shape` (N, H, W, C). Raises ShapeError as `apply` does.

        `order` (N,) are the images' numbers in the training set, by default 0 to N - 1, and `epoch` counts from 0: they
        decide an alternating flip, and no random number is drawn for it.
        """
        count, height, width, channels = shape
        reflect = self.border == "reflect"
        if self.pad_crop >= min(height, width):
            raise ShapeError(f"pad_crop is {self.pad_crop}, but the images are {height} x {width}; give a smaller one.")
        mirrored = None
        if self.flip and self.alternate:
            mirrored = first_flips(np.arange(count) if order is None else order) ^ bool(epoch % 2)
        elif self.flip:
            mirrored = rng.random(count) < 0.5
        corners = rng.integers(0, 2 * self.pad_crop + 1, size=(count, 2)) if self.pad_crop else None
        retouch = Retouch(reflect=reflect)
        if self.random_crop:
            retouch = retouch._replace(boxes=self._boxes(count, height, width, rng))
        if self.rotate:
            angles = np.radians(rng.uniform(-self.rotate, self.rotate, count))
            retouch = retouch._replace(turns=np.stack([np.cos(angles), np.sin(angles)], axis=1))
        if any(self._colours):
            retouch = retouch._replace(colours=self._drawn_colours(count, channels, rng))
        if self.transform is not None:
            seeds = rng.integers(0, 2**64, count, np.uint64)
            retouch = retouch._replace(transform=vars(self)["_function"], seeds=seeds)
        used = any(each is not None for each in (retouch.seeds, retouch.boxes, retouch.turns, retouch.colours))
        holes = rng.integers(0, (height, width), size=(count, 2)) if self.cutout else None
        return Changes(
            mirrored,
            corners,
            self.pad_crop,
            reflect,
            holes,
            self.cutout,
            retouch if used else None,
        )

    def _drawn_colours(self, count: int, channels: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Factors (N, C, C + 1) of brightness, contrast, saturation and hue, in this order, as `Retouch` takes them."""
        if self.hue and channels != 3:
            raise ShapeError(f"hue is {self.hue}, but the images have {channels} channels and not 3; leave it out.")
        shares = [rng.uniform(1 - most, 1 + most, (count, 1, 1)) for most in self._colours[:-1]]
        brightness, contrast, saturation = shares
        shade = np.broadcast_to(shades(channels), (channels, channels))
        mixed = saturation * np.eye(channels) + (1 - saturation) * shade
        if self.hue:
            angles = rng.uniform(-self.hue, self.hue, count) * 2 * math.pi
            turn = np.tile(np.eye(3), (count, 1, 1))
            turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angles)
            turn[:, 2, 1] = np.sin(angles)
            turn[:, 1, 2] = -turn[:, 2, 1]
            mixed = np.linalg.inv(YIQ) @ turn @ YIQ @ mixed
        greys = np.broadcast_to(brightness * (1 - contrast), (count, channels, 1))
        return np.concatenate([brightness * contrast * mixed, greys], axis=2)

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
        config = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.transform is not None:
            config["transform"] = _name(self.transform)
        return {name: value for name, value in config.items() if name in ALWAYS or value != unused[name]}

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


def _function(transform: str | Transform) -> Transform:
    """The function that a setting names or is. Raises UsageError if there is none, CnnError for a broken module."""
    if callable(transform):
        return transform
    require(isinstance(transform, str), f"transform must be MODULE:FUNCTION or a function, not {transform!r}.")
    module, _, name = transform.partition(":")
    require(bool(module and name), f"transform is {transform!r}; give MODULE:FUNCTION.")
    import_modules(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"The module {module} has no function {name}; name one of its functions in transform.")
    function: Transform = found
    return function


def _name(transform: str | Transform) -> str:
    if isinstance(transform, str):
        return transform
    kind = transform if hasattr(transform, "__qualname__") else type(transform)
    return f"{kind.__module__}:{kind.__qualname__}"


def first_flips(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether an alternating flip mirrors the images of these numbers in the first epoch: about half of them.

    A hash of the number alone decides, so that nothing need be kept for each image (Jordan 2024). The hash
    is the finaliser of splitmix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators").
    """
    z = (np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((z ^ (z >> np.uint64(31))) & np.uint64(1), np.bool_)
