"""From stored pixels to a batch: gathered by index, mirrored, shifted and normalised."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.errors import ShapeError

Transform = Callable[[npt.NDArray[Any], np.random.Generator], npt.NDArray[Any]]
"""A user's own change to an image (H, W, C)."""


Rows = slice | npt.NDArray[np.int64]
"""Some images of a batch."""


def _rows(array: npt.NDArray[Any] | None, rows: Rows) -> npt.NDArray[Any] | None:
    """Some rows of an array, if there is one."""
    return None if array is None else array[rows]


class Retouch(NamedTuple):
    """Changes that no kernel makes, so that images are retouched before they are loaded; in the order of the fields.

    `seeds` (N,) of the generators that `transform` gets; `boxes` (N, 4) of the image (top, left, height, width in
    pixels), resized to its size; `turns` (N, 2), the cosine and sine of the angle by which an image is turned against
    the clock, and whether what comes in from outside is the image reflected or zeros; `colours` (N, C, C + 1): channel
    k becomes the sum of colours[k, c] times channel c, plus colours[k, C] times the image's mean shade.
    """

    transform: Transform | None = None
    seeds: npt.NDArray[np.uint64] | None = None
    boxes: npt.NDArray[np.float64] | None = None
    turns: npt.NDArray[np.float64] | None = None
    reflect: bool = False
    colours: npt.NDArray[np.float64] | None = None

    def of(self, rows: Rows) -> "Retouch":
        """The changes of some images of the batch."""
        return self._replace(
            seeds=_rows(self.seeds, rows),
            boxes=_rows(self.boxes, rows),
            turns=_rows(self.turns, rows),
            colours=_rows(self.colours, rows),
        )

    def apply(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Images (N, H, W, C), retouched. Raises ShapeError if `transform` returns another shape or type."""
        if self.transform is not None and self.seeds is not None:
            images = transformed(images, self.transform, self.seeds)
        if self.boxes is not None:
            images = cropped(images, self.boxes)
        if self.turns is not None:
            images = turned(images, self.turns, reflect=self.reflect)
        return images if self.colours is None else coloured(images, self.colours)


class Changes(NamedTuple):
    """Changes to the images of a batch: mirrored (N,), or padded by `pad` and cut out at corners (N, 2).

    The padding is zeros, or with `reflect` the image mirrored at its outermost pixels, for which `pad` must be less
    than its height and its width. Then a square of `hole` pixels around each of the `holes` (N, 2) is set to zero, as
    the network takes it: after the preprocessing. Before all, the images are retouched if there is a `retouch`.
    """

    mirrored: npt.NDArray[np.bool_] | None = None
    corners: npt.NDArray[np.int64] | None = None
    pad: int = 0
    reflect: bool = False
    holes: npt.NDArray[np.int64] | None = None
    hole: int = 0
    retouch: Retouch | None = None

    def of(self, rows: Rows) -> "Changes":
        """The changes of some images of the batch."""
        return self._replace(
            mirrored=_rows(self.mirrored, rows),
            corners=_rows(self.corners, rows),
            holes=_rows(self.holes, rows),
            retouch=None if self.retouch is None else self.retouch.of(rows),
        )

    def cut(self, images: npt.NDArray[Any]) -> None:
        """Sets the holes of images (N, H, W, C) to zero, in place."""
        if self.holes is not None:
            for image, (row, column) in zip(images, self.holes, strict=True):
                top, left = row - self.hole // 2, column - self.hole // 2
                image[max(0, top) : max(0, top + self.hole), max(0, left) : max(0, left + self.hole)] = 0


class Input:
    """Fills a batch from images in host memory."""

    def load_batch(
        self,
        images: npt.NDArray[np.uint8],
        order: npt.NDArray[np.int64],
        changes: Changes,
        out: Array,
        *,
        scale: float,
        mean: Array | None,
        std: Array | None,
    ) -> None:
        """out (N, H, W, C) = (images * scale - mean) / std, for the images at `order` (N,) after `changes`.

        mean is None, (C,) or (H, W, C), std None or (C,). Pixels shifted in from outside are zeros before scaling,
        unless they are reflected; holes are zeros in out.
        """
        normalise(change(images[order], changes), out, scale=scale, mean=mean, std=std)
        changes.cut(out)


def change(images: npt.NDArray[Any], changes: Changes) -> npt.NDArray[Any]:
    """Images (N, H, W, C) after `changes`, all but the holes; `images` itself if nothing is to change."""
    if changes.retouch is not None:
        images = changes.retouch.apply(images)
    if changes.mirrored is not None:
        images = np.where(changes.mirrored[:, None, None, None], images[:, :, ::-1], images)
    if changes.corners is not None:
        pad, (_, height, width, _) = changes.pad, images.shape
        widths = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        padded = np.pad(images, widths, mode="reflect" if changes.reflect else "constant")
        images = np.empty_like(images)
        for image, (row, column) in enumerate(changes.corners):
            images[image] = padded[image, row : row + height, column : column + width]
    return images


def cropped(images: npt.NDArray[Any], boxes: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """The box (top, left, height, width) of each image (N, H, W, C), bilinearly resized to (H, W)."""
    _, height, width, _ = images.shape
    result, kind = np.empty_like(images), np.float64 if images.dtype == np.float64 else np.float32
    for image, out, (top, left, tall, wide) in zip(images, result, boxes, strict=True):
        rows, below, down = _taps(top, tall, height)
        columns, beside, across = _taps(left, wide, width)
        # Only the columns that are needed, and each array is read in the order of its memory: twice as fast.
        part = image[:, columns[0] : beside[-1] + 1]
        first, second = (part.take(taps, axis=0).astype(kind) for taps in (rows, below))
        first += (second - first) * down[:, None, None]
        one, other = (first.take(taps - columns[0], axis=1) for taps in (columns, beside))
        one += (other - one) * across[:, None]
        out[...] = one if images.dtype.kind == "f" else np.rint(one, out=one)
    return result


def _taps(
    start: float, length: float, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The two pixels of the image between which each of `size` pixels lies, and how near the second is."""
    places = np.clip(start + (np.arange(size) + 0.5) * length / size - 0.5, 0, size - 1)
    first = np.floor(places).astype(np.int64)
    return first, np.minimum(first + 1, size - 1), (places - first).astype(np.float32)


def turned(images: npt.NDArray[Any], turns: npt.NDArray[np.float64], *, reflect: bool = False) -> npt.NDArray[Any]:
    """Images (N, H, W, C) turned about their centres against the clock, by angles of cosine and sine `turns` (N, 2).

    Each pixel is interpolated bilinearly. What is turned in from outside is zeros, or the image mirrored at its
    outermost pixels.
    """
    _, height, width, _ = images.shape
    result = np.empty_like(images)
    kind = np.float64 if images.dtype == np.float64 else np.float32
    down, across = (np.arange(size) - (size - 1) / 2 for size in (height, width))
    border = ((1, 1), (1, 1), (0, 0))
    for image, out, (cosine, sine) in zip(images, result, turns, strict=True):
        rows = (down[:, None] * cosine + across * sine) + (height - 1) / 2
        columns = (across * cosine - down[:, None] * sine) + (width - 1) / 2
        padded = np.pad(image, border) if not reflect else image
        taps = [_reflected(*each) if reflect else _padded(*each) for each in ((rows, height), (columns, width))]
        (top, bottom, below), (left, right, beside) = taps
        lower, further = below.astype(kind)[..., None], beside.astype(kind)[..., None]
        above, under = padded[top, left].astype(kind), padded[bottom, left].astype(kind)
        above += (padded[top, right] - above) * further
        under += (padded[bottom, right] - under) * further
        above += (under - above) * lower
        out[...] = above if images.dtype.kind == "f" else np.rint(above, out=above)
    return result


Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""The two pixels between which each place lies, and how near the second is."""


def _padded(places: npt.NDArray[np.float64], size: int) -> Taps:
    """In an image that has a pixel of zeros more on both sides."""
    inside = np.clip(places + 1, 0, size + 1)
    first = np.minimum(np.floor(inside).astype(np.int64), size)
    return first, first + 1, inside - first


def _reflected(places: npt.NDArray[np.float64], size: int) -> Taps:
    period = max(1, 2 * (size - 1))
    folded = np.abs(places) % period
    inside = np.clip(np.minimum(folded, period - folded), 0, size - 1)
    first = np.floor(inside).astype(np.int64)
    return first, np.minimum(first + 1, size - 1), inside - first


def coloured(images: npt.NDArray[Any], colours: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Images (N, H, W, C) with new colours, as `Retouch` says; whole numbers are rounded and kept in their range."""
    channels, kind = images.shape[-1], np.dtype(np.float64 if images.dtype == np.float64 else np.float32)
    weights, result = shades(channels), np.empty_like(images)
    for image, out, numbers in zip(images, result, colours, strict=True):
        mean = float(image.reshape(-1, channels).mean(axis=0, dtype=np.float64) @ weights)
        planes: list[npt.NDArray[Any]] = [np.ascontiguousarray(image[..., c], kind) for c in range(channels)]
        for k in range(channels):
            *factors, grey = map(float, numbers[k])
            plane = planes[0] * factors[0]
            for other, factor in zip(planes[1:], factors[1:], strict=True):
                plane += other * factor
            plane += grey * mean
            if images.dtype.kind != "f":
                np.clip(np.rint(plane, out=plane), 0, np.iinfo(images.dtype).max, out=plane)
            out[..., k] = plane
    return result


def shades(channels: int) -> npt.NDArray[np.float64]:
    """The share of each channel in a pixel's shade: those of red, green and blue in ITU-R BT.601, else all the same."""
    return np.array([0.299, 0.587, 0.114]) if channels == 3 else np.full(channels, 1 / channels)


def transformed(images: npt.NDArray[Any], transform: Transform, seeds: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """What `transform` makes of copies of the images (N, H, W, C), each with a generator of its own seed."""
    result = np.empty_like(images)
    for image, out, seed in zip(images, result, seeds, strict=True):
        made = np.asarray(transform(image.copy(), np.random.default_rng(int(seed))))
        if made.shape != image.shape or made.dtype != image.dtype:
            raise ShapeError(
                f"The transform returns {made.dtype} {made.shape} for an image of {image.dtype} {image.shape}; let it "
                "return the same shape and type."
            )
        out[...] = made
    return result


def normalise(
    images: npt.NDArray[np.uint8], out: npt.NDArray[Any], *, scale: float, mean: Array | None, std: Array | None
) -> None:
    """out = (images * scale - mean) / std, in the type of out."""
    np.multiply(images, scale, out=out, dtype=out.dtype, casting="unsafe")
    if mean is not None:
        np.subtract(out, mean, out=out)
    if std is not None:
        np.divide(out, std, out=out)
