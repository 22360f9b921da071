"""From stored pixels to a batch: gathered by index, mirrored, shifted and normalised."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array


class Changes(NamedTuple):
    """Changes to the images of a batch: mirrored (N,), or padded by `pad` and cut out at corners (N, 2).

    The padding is zeros, or with `reflect` the image mirrored at its outermost pixels, for which `pad` must be less
    than its height and its width.
    """

    mirrored: npt.NDArray[np.bool_] | None = None
    corners: npt.NDArray[np.int64] | None = None
    pad: int = 0
    reflect: bool = False

    def of(self, rows: slice) -> "Changes":
        """The changes of some images of the batch."""
        mirrored = None if self.mirrored is None else self.mirrored[rows]
        return self._replace(mirrored=mirrored, corners=None if self.corners is None else self.corners[rows])


class Crops(NamedTuple):
    """First boxes (N, 4) of the images (top, left, height, width in pixels), resized to their size; `then` the rest.

    No kernel does this: images that are changed so are prepared before they are loaded.
    """

    boxes: npt.NDArray[np.float64]
    then: Changes

    def of(self, rows: slice) -> "Crops":
        """The changes of some images of the batch."""
        return Crops(self.boxes[rows], self.then.of(rows))


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
        unless they are reflected.
        """
        normalise(change(images[order], changes), out, scale=scale, mean=mean, std=std)


def change(images: npt.NDArray[Any], changes: Changes | Crops) -> npt.NDArray[Any]:
    """Images (N, H, W, C) cropped, mirrored left to right and shifted; `images` itself if nothing is to change."""
    if isinstance(changes, Crops):
        images, changes = cropped(images, changes.boxes), changes.then
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


def normalise(
    images: npt.NDArray[np.uint8], out: npt.NDArray[Any], *, scale: float, mean: Array | None, std: Array | None
) -> None:
    """out = (images * scale - mean) / std, in the type of out."""
    np.multiply(images, scale, out=out, dtype=out.dtype, casting="unsafe")
    if mean is not None:
        np.subtract(out, mean, out=out)
    if std is not None:
        np.divide(out, std, out=out)
