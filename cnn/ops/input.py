"""From stored pixels to a batch: gathered by index, mirrored, shifted and normalised."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array


class Changes(NamedTuple):
    """Changes to the images of a batch: mirrored (N,), or padded by `pad` and cut out at corners (N, 2)."""

    mirrored: npt.NDArray[np.bool_] | None = None
    corners: npt.NDArray[np.int64] | None = None
    pad: int = 0

    def of(self, rows: slice) -> "Changes":
        """The changes of some images of the batch."""
        mirrored, corners, pad = self
        return Changes(None if mirrored is None else mirrored[rows], None if corners is None else corners[rows], pad)


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

        mean is None, (C,) or (H, W, C), std None or (C,). Pixels shifted in from outside are zeros before scaling.
        """
        normalise(change(images[order], changes), out, scale=scale, mean=mean, std=std)


def change(images: npt.NDArray[np.uint8], changes: Changes) -> npt.NDArray[np.uint8]:
    """Images (N, H, W, C) mirrored left to right and shifted; `images` itself if there is nothing to change."""
    if changes.mirrored is not None:
        images = np.where(changes.mirrored[:, None, None, None], images[:, :, ::-1], images)
    if changes.corners is not None:
        pad, (_, height, width, _) = changes.pad, images.shape
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        images = np.empty_like(images)
        for image, (row, column) in enumerate(changes.corners):
            images[image] = padded[image, row : row + height, column : column + width]
    return images


def normalise(
    images: npt.NDArray[np.uint8], out: npt.NDArray[Any], *, scale: float, mean: Array | None, std: Array | None
) -> None:
    """out = (images * scale - mean) / std, in the type of out."""
    np.multiply(images, scale, out=out, dtype=out.dtype, casting="unsafe")
    if mean is not None:
        np.subtract(out, mean, out=out)
    if std is not None:
        np.divide(out, std, out=out)
