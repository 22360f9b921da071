"""From stored pixels to the network's input: scale, subtract a mean, divide by a standard deviation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.config import plain
from cnn.data.dataset import Split
from cnn.data.pixels import TYPES, WHITE, factor_for, kind_of
from cnn.data.stored import Images, blocks
from cnn.errors import FileFormatError, ShapeError, UsageError
from cnn.ops.input import normalise
from cnn.words import unknown

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Input = (pixels * scale - mean) / std.

    `pixels` is the kind of pixels that it is meant for: "uint8", "uint16", "unit" (shades from 0 to 1), or "number"
    (any range). Images of 8 or 16 bits are converted to the other shades: see `cnn.data.pixels`.

    `mean` is None, one value per channel (C,), or an image (H, W, C); `std` is None or one value per channel (C,).
    Both are kept as float32 in units of scaled pixels. Raises UsageError if a value is not finite, or std or scale is
    not positive, ShapeError if the shapes do not fit together.
    """

    scale: float = 1 / 256
    mean: npt.NDArray[np.float32] | None = None
    std: npt.NDArray[np.float32] | None = None
    pixels: str = "uint8"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", plain(self.scale))
        if not isinstance(self.scale, int | float) or not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"The scale is {self.scale!r}; give a positive, finite number.")
        if self.pixels not in WHITE:
            raise unknown("There is no kind of pixels", str(self.pixels), WHITE)
        for field, dimensions in (("mean", (1, 3)), ("std", (1,))):
            value = getattr(self, field)
            if value is None:
                continue
            try:
                array = np.array(value, dtype=np.float32)
            except (TypeError, ValueError) as error:
                raise UsageError(f"The {field} cannot be read as numbers ({error}); give one per channel.") from error
            if array.ndim not in dimensions or array.size == 0:
                shapes = "(C,) or (H, W, C)" if field == "mean" else "(C,)"
                raise ShapeError(f"The {field} has shape {array.shape}; give {shapes}.")
            if not np.isfinite(array).all():
                raise UsageError(f"The {field} has a value that is not finite; give finite values.")
            if field == "std" and array.min() <= 0:
                raise UsageError(f"The smallest std is {array.min()}; give values above 0.")
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        if self.mean is not None and self.std is not None and self.mean.shape[-1] != self.std.shape[-1]:
            raise ShapeError(f"The mean has shape {self.mean.shape}, std {self.std.shape}; make the channels agree.")

    @classmethod
    def scale_only(cls, scale: float = 1 / 256, pixels: str = "uint8") -> "Preprocessing":
        """Multiplies pixels by `scale`, nothing else."""
        return cls(scale, pixels=pixels)

    @classmethod
    def mean_image(cls, split: Split, scale: float = 1 / 256) -> "Preprocessing":
        """Subtracts the mean image of `split`, usually the training split."""
        _not_empty(split)
        total: npt.NDArray[np.float64] = np.zeros(split.shape)
        for block in blocks(split.images):
            total += block.sum(axis=0, dtype=np.float64)
        return cls(scale, (total / len(split) * scale).astype(np.float32), pixels=kind_of(split.images))

    @classmethod
    def standardise(cls, split: Split, scale: float = 1 / 256) -> "Preprocessing":
        """Mean 0 and standard deviation 1 per channel over `split`; a constant channel is only centred."""
        _not_empty(split)
        moments = _histogram_moments if split.images.dtype.kind == "u" else _moments
        means, deviations = moments(split.images, scale)
        return cls(scale, np.float32(means), np.float32(deviations), kind_of(split.images))  # type: ignore[arg-type]

    @classmethod
    def suiting(cls, split: Split, method: str = "scale", scale: float = 1 / 256) -> "Preprocessing":
        """What a model takes that was given no preprocessing, or a recipe's.

        `method` is "scale", "mean_image" or "standardise", and `scale` is that of pixels of 8 bits: pixels of another
        kind are scaled as their white is. Numbers of any range are at least standardised, not scaled.
        """
        kind = kind_of(split.images)
        white = WHITE[kind]
        scale = 1.0 if white is None else scale if kind == "uint8" else scale * 255 / white
        if method == "mean_image":
            return cls.mean_image(split, scale)
        if method == "standardise" or white is None:
            return cls.standardise(split, scale)
        return cls.scale_only(scale, kind)

    def apply(self, images: npt.NDArray[Any], out: Floats | None = None, dtype: npt.DTypeLike = np.float32) -> Floats:
        """The network's input (N, H, W, C) for `images` (N, H, W, C), written to `out` if given.

        The result has the type of `out`, or else `dtype`. Raises ShapeError if the shapes do not fit, UsageError for
        pixels of another kind.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.dtype not in TYPES:
            raise ShapeError(f"Images have shape {images.shape} and type {images.dtype}; give (N, H, W, C) and uint8.")
        self.check(images.shape[1:])
        if out is None:
            out = np.empty(images.shape, dtype=dtype)
        elif out.shape != images.shape:
            raise ShapeError(f"The output has shape {out.shape}, the images {images.shape}; make them equal.")
        normalise(images, out, scale=self.scale_for(images), mean=self.mean, std=self.std)
        return out

    def scale_for(self, images: npt.NDArray[Any]) -> float:
        """The scale for images of this type. Raises UsageError for pixels of another kind."""
        return self.scale * factor_for(images, self.pixels)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ShapeError if images of `shape` (H, W, C) do not fit the mean and std."""
        for field in ("mean", "std"):
            value = getattr(self, field)
            if value is not None and value.shape != shape[-value.ndim :]:
                raise ShapeError(f"Images of {shape} do not fit the {field} of shape {value.shape}.")

    def to_state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
        """A dict of JSON values and a dict of arrays, to be stored in a model file."""
        arrays = {"mean": self.mean, "std": self.std}
        # Older releases knew pixels of 8 bits only.
        config = {"scale": self.scale} | ({} if self.pixels == "uint8" else {"pixels": self.pixels})
        return config, {name: value for name, value in arrays.items() if value is not None}

    @classmethod
    def from_state(cls, config: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> "Preprocessing":
        """The inverse of to_state. Raises FileFormatError if the state has another form."""
        if set(config) - {"pixels"} != {"scale"} or isinstance(config["scale"], bool) or set(arrays) - {"mean", "std"}:
            raise FileFormatError(
                f"Stored preprocessing has the values {sorted(config)} and the arrays {sorted(arrays)} where "
                "scale, mean and std are expected; the model file is damaged or of another version."
            )
        try:
            pixels = config.get("pixels", "uint8")
            return cls(float(config["scale"]), arrays.get("mean"), arrays.get("std"), pixels)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"Stored preprocessing is invalid: {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        plain = (self.scale, self.pixels) == (other.scale, other.pixels)
        return plain and _same(self.mean, other.mean) and _same(self.std, other.std)

    __hash__ = None  # type: ignore[assignment]


def _same(a: npt.NDArray[np.float32] | None, b: npt.NDArray[np.float32] | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _histogram_moments(images: Images, scale: float) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, of pixels of 8 or 16 bits times `scale`."""
    size = int(np.iinfo(images.dtype).max) + 1
    # The histogram gives both moments without a copy of all pixels as floats.
    counts = np.zeros((images.shape[-1], size), np.int64)
    for block in blocks(images):
        for channel, row in enumerate(counts):
            row += np.bincount(block[..., channel].ravel(), minlength=size)
    values = np.arange(size) * scale
    means, deviations = [], []
    for row in counts:
        mean = float(np.average(values, weights=row))
        deviation = math.sqrt(np.average((values - mean) ** 2, weights=row))
        means.append(mean)
        deviations.append(deviation if np.count_nonzero(row) > 1 else 1.0)
    return means, deviations


def _moments(images: Images, scale: float) -> tuple[list[float], list[float]]:
    """The same of floats."""
    axes, count = (0, 1, 2), images.nbytes // images.dtype.itemsize // images.shape[-1]
    mean = sum(block.sum(axis=axes, dtype=np.float64) for block in blocks(images)) / count
    square = sum(((block - mean) ** 2).sum(axis=axes, dtype=np.float64) for block in blocks(images)) / count
    # Rounding alone gives a constant channel a deviation above 0.
    constant = np.sqrt(square) <= 1e-6 * np.abs(mean)
    deviation = np.where(constant, 1.0, np.sqrt(square) * scale)
    return list(mean * scale), list(deviation)


def _not_empty(split: Split) -> None:
    if not isinstance(split, Split):
        raise UsageError(f"Give images and labels as cnn.Split(images, labels), not as a {type(split).__name__}.")
    if not len(split):
        raise UsageError("The mean of 0 images does not exist; give a split with at least one.")
