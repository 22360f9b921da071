"""Images and labels as people have them, turned into images (N, H, W, C) and labels from 0."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnn.config import plain
from cnn.data.pixels import TYPES
from cnn.data.stored import Images, StoredImages, stored
from cnn.errors import DataError, ShapeError, UsageError, listed
from cnn.words import counted, unknown

Layout = Literal["NHWC", "NCHW"]
LAYOUTS = ("NHWC", "NCHW")
MOST_WHOLE = 2.0**53
"""Below it, float64 tells all whole numbers apart."""


def as_images(images: Any, *, layout: str = "NHWC", shape: tuple[int, ...] | None = None) -> Images:
    """Images (N, H, W, C) in uint8, uint16, float32 or float64, with the memory of `images` if they already are.

    Takes (N, H, W), (N, H, W, C), or (N, C, H, W) with the layout "NCHW", of any strides and of any numbers: whole
    numbers of other types become uint8 if all of them fit, else float32, and booleans become 0 and 255. With a `shape`
    (H, W, C), a single image and rows (N, H*W*C) are taken, too. What is mapped from a file and cannot be written
    stays in the file. Raises ShapeError or DataError.
    """
    if layout not in LAYOUTS:
        raise unknown("There is no layout", str(layout), LAYOUTS)
    if isinstance(images, StoredImages):
        return images
    array = host_array(images)
    if array.dtype == object or array.dtype.kind not in "uifb":
        raise DataError(
            f"Images are an array of numbers, not of {array.dtype}; all of them must have the same height and width."
        )
    array = _arranged(array, layout, shape)
    kept = stored(array)
    return kept if kept is not None and kept.dtype in TYPES else _typed(array)


def host_array(values: Any) -> npt.NDArray[Any]:
    """An array in host memory of whatever can be one: lists, tensors of other libraries, frames.

    Raises DataError if its rows differ in length, or it cannot be an array at all.
    """
    if isinstance(values, np.ma.MaskedArray):
        if values.mask.any():
            raise DataError("There are masked values; fill them, or leave these images out.")
        return np.asarray(values.data)
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"A {type(values).__name__} cannot be made an array ({error}); give a NumPy array.") from error


def _arranged(array: npt.NDArray[Any], layout: str, shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
    """The array as (N, H, W, C)."""
    given = array.shape
    if shape is not None:
        stored_shape = shape if layout == "NHWC" else (shape[2], *shape[:2])
        flat = array.ndim == 2 and given[1] == int(np.prod(shape)) and given != shape[:2]
        if flat:
            array = array.reshape(-1, *stored_shape)
        elif given in (stored_shape, shape[:2]) and (given == stored_shape or shape[2] == 1):
            array = array[None]
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and layout == "NCHW":
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or 0 in array.shape[1:]:
        raise ShapeError(
            f"Images have shape {given}; give (N, H, W), (N, H, W, C), or (N, C, H, W) with layout='NCHW'."
        )
    return array


def _typed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in TYPES:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f":
        return array.astype(np.float32 if array.dtype.itemsize < 8 else np.float64)
    fits = array.size == 0 or (array.min() >= 0 and array.max() <= 255)
    return array.astype(np.uint8 if fits else np.float32)


def as_labels(
    labels: Any, classes: Sequence[object] | None = None, *, named: bool = True
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels (N,) int64 from 0, and the names of the classes.

    `labels` are whole numbers of any type and any values, booleans, texts, or rows (N, K) with a single 1 each. Without
    `classes`, the classes are the different labels in order. Otherwise labels are looked up among their names first,
    and else must be numbers from 0; if the classes are not `named`, as many other labels will do. Raises DataError.
    """
    found = _flat(_unmixed(labels))
    names = None if classes is None else tuple(str(plain(each)) for each in classes)
    values, numbers = np.unique(found, return_inverse=True)
    texts = [_text(value) for value in values]
    if names is None:
        return numbers.astype(np.int64), tuple(texts)
    places = {name: place for place, name in enumerate(names)}
    if set(texts) <= places.keys():
        return np.array([places[text] for text in texts], np.int64)[numbers].reshape(-1), names
    whole = found.dtype.kind in "iu"
    if whole and (len(values) == 0 or (values[0] >= 0 and values[-1] < len(names))):
        return found.astype(np.int64), names
    if not named and len(values) == len(names):
        return numbers.astype(np.int64), tuple(texts)
    strange = [text for text in texts if text not in places]
    raise UsageError(
        f"There are labels {listed(strange)}, but {counted(len(names), 'class')} ({listed(names)}); give labels of "
        f"these classes, or numbers from 0 to {len(names) - 1}."
    )


def _unmixed(labels: Any) -> npt.NDArray[Any]:
    """An array of labels; a list of texts and others is one of objects, as NumPy would make texts of all of them."""
    found = host_array(labels)
    if isinstance(labels, list | tuple) and found.ndim == 1 and found.dtype.kind in "USifb":
        kinds = {type(plain(each)) for each in labels}
        if len(kinds) > 1 and kinds != {int, float}:
            return np.array(labels, object)
    return found


def _flat(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels (N,) of whole numbers, booleans or texts."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "uifb" and np.isin(labels, (0, 1)).all():
        if not (labels.sum(axis=1) == 1).all():
            raise DataError("Some rows of labels do not have exactly one 1; give each image one class.")
        labels = labels.argmax(axis=1)
    if labels.ndim != 1:
        raise DataError(f"Labels have shape {labels.shape}; give (N,), one label per image.")
    if labels.dtype == object:
        labels = _of_objects(labels)
    if labels.dtype.kind == "f" and (np.abs(labels) < MOST_WHOLE).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iubUS":
        raise DataError(f"Labels have the type {labels.dtype}; give whole numbers or texts, none of them missing.")
    return labels


def _of_objects(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    kinds = {type(plain(each)) for each in labels}
    if kinds <= {str}:
        return labels.astype(str)
    if kinds <= {int}:
        return labels.astype(np.int64)
    if kinds <= {bool}:
        return labels.astype(bool)
    raise DataError(
        f"Labels are a mixture of {listed(sorted(each.__name__ for each in kinds))}; give one kind, none missing."
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(plain(value))


def joined(parts: Sequence[Any]) -> npt.NDArray[Any]:
    """Batches of images or labels one after the other. Raises ShapeError if they do not fit."""
    arrays = [host_array(each) for each in parts]
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        shapes = listed(sorted({str(each.shape[1:]) for each in arrays}))
        raise ShapeError(f"The batches hold images of different shapes ({shapes}); make them equal.") from error
