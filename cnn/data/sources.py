"""Labelled images of other libraries, known by what they can do: data sets, loaders, generators of batches."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.data.conversion import Layout, as_images, host_array, joined
from cnn.data.stored import Images
from cnn.errors import DataError, UsageError, listed
from cnn.system.machine import physical_memory

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "class", "y")
OBJECTS = 600
"""Bytes that Python needs for an item beside its pixels."""
MOST_EMPTY = 10_000
"""Batches without images in a row, after which no more are expected."""


def gathered(source: Any, layout: Layout = "NHWC") -> tuple[Images, npt.NDArray[Any], tuple[str, ...] | None]:
    """Images (N, H, W, C), labels (N,) and the names of the classes, if the source says them.

    The source is a pair (images, labels), a data set of Hugging Face or torchvision, or any iterable that gives pairs
    or tables of an image and its label, or of batches. Images are arrays, tensors (C, H, W) or Pillow's. All of them
    must fit into half of this machine's memory. Raises DataError or UsageError.
    """
    if isinstance(source, tuple) and len(source) == 2:
        return as_images(source[0], layout=layout), host_array(source[1]), None
    if isinstance(source, Mapping):
        raise UsageError(f"This holds {listed(map(str, source))}; give one of them.")
    if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        raise UsageError(f"Give images and labels, not a {type(source).__name__}.")
    images: list[npt.NDArray[Any]] = []
    labels: list[npt.NDArray[Any]] = []
    room, taken, empty = (physical_memory() or 1 << 40) // 2, 0, 0
    for item in _items(source):
        image, label = _pair(item)
        found, numbers = _batch(image, label, layout)
        images.append(found)
        labels.append(numbers)
        taken += found.nbytes + OBJECTS
        empty = 0 if len(found) else empty + 1
        if empty > MOST_EMPTY:
            raise DataError(f"There were {MOST_EMPTY:,} batches without images one after the other; leave them out.")
        if taken > room:
            raise DataError(
                f"The images are more than {room / 1e9:.0f} GB, half of this machine's memory, or have no end; give a "
                "part of them (itertools.islice), or map them from a file (numpy.load with mmap_mode='r')."
            )
    if not images:
        raise DataError("There are no images; a generator can be read only once.")
    if {each.shape[-1] for each in images} == {1, 3}:
        images = [each.repeat(3, axis=-1) if each.shape[-1] == 1 else each for each in images]
    return joined(images), joined(labels), _names(source)


def _items(source: Any) -> Iterator[Any]:
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not isinstance(source, list | tuple):
        return (source[place] for place in range(len(source)))
    return iter(source)


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE_KEYS if key in item), None)
        label = next((item[key] for key in LABEL_KEYS if key in item), None)
        if image is None or label is None:
            raise UsageError(
                f"An item has {listed(map(str, item))}; name the image {' or '.join(IMAGE_KEYS[:2])}, its label "
                f"{' or '.join(LABEL_KEYS[:2])}."
            )
        return image, label
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    raise UsageError(f"Each item must be a pair (image, label) or a pair of batches, not a {type(item).__name__}.")


def _batch(image: Any, label: Any, layout: Layout) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The images (N, H, W, C) and labels (N,) of an item; N is 1 for a single image."""
    numbers = host_array(label)
    if numbers.ndim == 0:
        return _single(image, layout), numbers.reshape(1)
    # Tensors are (C, H, W) wherever they come from.
    array = host_array(image)
    tensor = hasattr(image, "detach") and array.ndim == 4
    return np.asarray(as_images(array, layout="NCHW" if tensor else layout)), numbers


def _single(image: Any, layout: Layout) -> npt.NDArray[Any]:
    if hasattr(image, "getbands"):
        deep = image.mode.startswith("I;16")
        if not deep and image.mode not in ("L", "RGB"):
            image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
        array = np.asarray(image)
        return np.asarray(as_images(array[None] if array.ndim == 2 else array[None, ...]))
    array = host_array(image)
    tensor = hasattr(image, "detach") and array.ndim == 3
    return np.asarray(as_images(array[None], layout="NCHW" if tensor else layout))


def _names(source: Any) -> tuple[str, ...] | None:
    """The names of the classes, in the order of their numbers."""
    features = getattr(source, "features", None)
    if isinstance(features, Mapping):
        for key in LABEL_KEYS:
            names = getattr(features.get(key), "names", None)
            if names:
                return tuple(map(str, names))
    data = getattr(source, "dataset", source)
    classes = getattr(data, "classes", None)
    return tuple(map(str, classes)) if isinstance(classes, list | tuple) else None
