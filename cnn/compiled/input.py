"""Loads stored pixels into a batch by a compiled kernel: gathers, mirrors, shifts and normalises in one pass."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, prange, types

from cnn.arrays import Array
from cnn.compiled.kernels import kernel
from cnn.compiled.parts import FLAG, FLOATS, INNER, INTEGER, PARALLEL, parts_for, start_of
from cnn.errors import ShapeError, UsageError

U = np.uintp
ZERO = np.float32(0)
KINDS = (types.uint8, types.int64, types.boolean, types.int64, types.int64)
INPUTS = [types.Array(each, 1, "C", readonly=True) for each in KINDS]

UNCHANGED, IN_PLACE = np.empty(0, np.bool_), np.empty((0, 2), np.int64)
"""Stand for no mirroring and no corners."""


@dataclass(frozen=True, eq=False)
class Constants:
    """Input = (pixel * scale - mean) / std, float32, for images of one shape (H, W, C).

    `mean` and `std` (H*W*C,) have an element for each element of an image.
    """

    shape: tuple[int, int, int]
    scale: np.float32
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]

    @classmethod
    def of(cls, shape: tuple[int, int, int], *, scale: float, mean: Array | None, std: Array | None) -> "Constants":
        """From a mean of None, (C,) or (H, W, C) and a std of None or (C,). Raises ShapeError if they do not fit."""
        for name, value, shapes in (("mean", mean, (shape, shape[2:])), ("std", std, (shape[2:],))):
            if value is not None and value.shape not in shapes:
                raise ShapeError(f"Images of {shape} do not fit the {name} of shape {value.shape}.")
        # A mean of 0 and a std of 1 change no bit: x - 0 = x and x / 1 = x.
        full = (np.broadcast_to(x, shape) for x in (0 if mean is None else mean, 1 if std is None else std))
        flat = [np.array(x, np.float32, order="C").reshape(-1) for x in full]
        return cls(shape, np.float32(scale), *flat)


@njit(**INNER)
def _reflected(place: int, size: int) -> int:
    """The pixel of a row of `size` that a place up to size - 1 beside it shows, if the row is mirrored at its ends."""
    if place < 0:
        return -place
    return place if place < size else 2 * (size - 1) - place


@njit(**INNER)
def _images(
    images: Any,
    order: Any,
    mirrored: Any,
    corners: Any,
    holes: Any,
    pad: int,
    reflect: bool,
    hole: int,
    size: Any,
    scale: Any,
    mean: Any,
    std: Any,
    out: Any,
    first: int,
    last: int,
) -> None:
    """Images first to last of the batch, row by row; `mirrored`, `corners` and `holes` may be empty."""
    height, width, channels = size
    c, row = U(channels), U(width) * U(channels)
    for n in range(first, last):
        flip = mirrored.size > 0 and mirrored[n]
        down = corners[U(2) * n] - pad if corners.size else 0
        right = corners[U(2) * n + U(1)] - pad if corners.size else 0
        source = U(order[n]) * U(height) * row
        # Columns q_first to q_last of the result lie in the image.
        q_first, q_last = max(0, -right), min(width, width - right)
        for p in range(height):
            to = (n * U(height) + U(p)) * row
            above = _reflected(p + down, height) if reflect else p + down
            inside = 0 <= above < height
            begin, end = (U(q_first) * c, U(q_last) * c) if inside else (U(0), U(0))
            start = source + U(above) * row
            for i in range(begin):
                out[to + i] = ZERO
            for i in range(end, row):
                out[to + i] = ZERO
            if inside and flip:
                for q in range(q_first, q_last):
                    there, here = start + U(width - 1 - q - right) * c, to + U(q) * c
                    for k in range(c):
                        out[here + k] = np.float32(images[there + k])
            elif inside:
                there, here = start + U(q_first + right) * c, to + begin
                for i in range(end - begin):
                    out[here + i] = np.float32(images[there + i])
            if reflect:
                for side in range(2):
                    for q in range(0 if side == 0 else q_last, q_first if side == 0 else width):
                        beside = _reflected(q + right, width)
                        there = start + U(width - 1 - beside if flip else beside) * c
                        here = to + U(q) * c
                        for k in range(c):
                            out[here + k] = np.float32(images[there + k])
            # The border is normalised as well; done here, while the row is in the cache.
            constants = U(p) * row
            for i in range(row):
                out[to + i] = (out[to + i] * scale - mean[constants + i]) / std[constants + i]
            if holes.size:
                top, left = holes[U(2) * n] - hole // 2, holes[U(2) * n + U(1)] - hole // 2
                if top <= p < top + hole:
                    for i in range(U(min(max(left, 0), width)) * c, U(min(max(left + hole, 0), width)) * c):
                        out[to + i] = ZERO


@kernel(PARALLEL, *INPUTS, INTEGER, FLAG, INTEGER, types.UniTuple(INTEGER, 3), types.float32, *[FLOATS] * 3, INTEGER)
def load(
    images: Any,
    order: Any,
    mirrored: Any,
    corners: Any,
    holes: Any,
    pad: int,
    reflect: bool,
    hole: int,
    size: Any,
    scale: Any,
    mean: Any,
    std: Any,
    out: Any,
    parts: int,
) -> bool:
    """Loads the batch for `batch_into`. Returns False and loads nothing if an image or a corner is out of bounds."""
    count, stored = order.size, images.size // mean.size
    for n in range(count):
        if order[n] < 0 or order[n] >= stored:
            return False
    for i in range(corners.size):
        if corners[i] < 0 or corners[i] > 2 * pad:
            return False
    if parts == 1:
        _images(
            images, order, mirrored, corners, holes, pad, reflect, hole, size, scale, mean, std, out, U(0), U(count)
        )
    else:
        for part in prange(parts):
            first, last = start_of(part, parts, count), start_of(part + 1, parts, count)
            _images(
                images, order, mirrored, corners, holes, pad, reflect, hole, size, scale, mean, std, out, first, last
            )
    return True


def batch_into(
    out: Array,
    images: npt.NDArray[np.uint8],
    order: npt.NDArray[np.int64],
    constants: Constants,
    *,
    mirrored: npt.NDArray[np.bool_] | None = None,
    corners: npt.NDArray[np.int64] | None = None,
    pad: int = 0,
    reflect: bool = False,
    holes: npt.NDArray[np.int64] | None = None,
    hole: int = 0,
) -> None:
    """out (N, H, W, C) float32 = the images at `order` (N,), normalised.

    `mirrored` (N,) says which are flipped left to right first; `corners` (N, 2) is the row and column, 0 to 2 * pad,
    at which each is cropped after padding by `pad` zero pixels on every side, or with `reflect` by the image mirrored
    at its outermost pixels. Last, a square of `hole` pixels around `holes` (N, 2) is set to zero. Raises ShapeError if
    shapes or types do not fit, UsageError for an index that does not exist or a corner beyond the border.
    """
    count = len(order)
    if out.dtype != np.float32 or out.shape != (count, *constants.shape) or not out.flags.carray:
        raise ShapeError(
            f"The batch has shape {out.shape} and type {out.dtype}; give contiguous float32 of "
            f"{(count, *constants.shape)}."
        )
    if images.dtype != np.uint8 or images.shape[1:] != constants.shape:
        raise ShapeError(f"Images have shape {images.shape} and type {images.dtype}; give uint8 of {constants.shape}.")
    flips = UNCHANGED if mirrored is None else np.ascontiguousarray(mirrored, np.bool_)
    shifts, cuts = (IN_PLACE if each is None else np.ascontiguousarray(each, np.int64) for each in (corners, holes))
    if flips.shape not in ((0,), (count,)) or {shifts.shape, cuts.shape} - {(0, 2), (count, 2)}:
        raise ShapeError(
            f"{count} images have {flips.shape} mirrorings, {shifts.shape} corners and {cuts.shape} holes; give one "
            "per image."
        )
    if reflect and shifts.size and pad >= min(constants.shape[:2]):
        raise ShapeError(f"Images of {constants.shape} cannot be reflected {pad} pixels deep.")
    order = np.ascontiguousarray(order, np.int64)
    if not images.flags.c_contiguous:  # only the batch is copied: all images would take far longer
        _check_order(order, len(images))
        images, order = np.ascontiguousarray(images[order]), np.arange(count)
    if not load(
        images.reshape(-1),
        order,
        flips,
        shifts.reshape(-1),
        cuts.reshape(-1),
        pad,
        bool(reflect and shifts.size),
        hole,
        # Unchanged images are passed as one row each, which makes one long loop per image.
        constants.shape if flips.size or shifts.size or cuts.size else (1, constants.mean.size, 1),
        constants.scale,
        constants.mean,
        constants.std,
        out.reshape(-1),
        parts_for(out.size),
    ):
        _check_order(order, len(images))
        raise UsageError(f"Corners run from {shifts.min()} to {shifts.max()}; give 0 to {2 * pad}.")


def _check_order(order: npt.NDArray[np.int64], count: int) -> None:
    if order.size and not 0 <= order.min() <= order.max() < count:
        raise UsageError(f"Indices run from {order.min()} to {order.max()}; give 0 to {count - 1}.")
