"""Arrays as small pictures inside a page: images, filters and what layers answer to an image."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnn.layers import Conv2D
from cnn.model.sequential import Sequential
from cnn.model.wiring import INPUT
from cnn.precision import widened

LARGEST = 64
"""Pixels of a side of a picture of one image."""
MAPS, LAYERS, FILTERS = 16, 6, 64
"""Maps shown of a layer, layers shown, and filters shown of the first."""
GAP = 1
"""Pixels between two tiles."""


@dataclass(frozen=True)
class Picture:
    """A PNG as the text of a data address, its size in pixels, and what it shows."""

    address: str
    width: int
    height: int
    caption: str


def image_picture(image: npt.NDArray[np.uint8], caption: str = "") -> Picture:
    """An image (H, W, C) of one, three or any number of channels; only the first is shown of others."""
    pixels = image if image.shape[2] == 3 else image[..., 0]
    drawn = Image.fromarray(np.ascontiguousarray(pixels))
    if max(drawn.size) > LARGEST:
        drawn.thumbnail((LARGEST, LARGEST))
    return _picture(drawn, caption)


def filters_picture(model: Sequential) -> Picture | None:
    """The filters of the first convolution if it reads one or three channels; grey is 0, and all have one scale."""
    node = next((each for each in model.network.nodes if isinstance(each.layer, Conv2D)), None)
    if node is None or INPUT not in node.inputs:
        return None
    weights = model.backend.to_numpy(node.layer.parameters[0].value)
    if weights.ndim != 4 or weights.shape[2] not in (1, 3):
        return None
    largest = float(np.abs(weights).max()) or 1.0
    tiles = np.moveaxis(weights, 3, 0)[:FILTERS] / (2 * largest) + 0.5
    height, width, channels, count = weights.shape
    shown = f"{len(tiles)} of {count}" if len(tiles) < count else f"{count}"
    caption = f"{node.name}: {shown} filters {height}x{width}x{channels}, from {-largest:.3g} (dark) to {largest:.3g}"
    return _tiled([_bytes(tile) for tile in tiles], caption)


def activation_pictures(model: Sequential, image: npt.NDArray[np.uint8]) -> list[Picture]:
    """The first maps of some layers for one image (H, W, C), each map from its least value (dark) to its largest."""
    nodes = [each for each in model.network.nodes if len(each.output_shape) == 3 and min(each.output_shape[:2]) > 1]
    nodes = [each for each in nodes if isinstance(each.layer, Conv2D)] or nodes
    chosen = {nodes[k].place for k in np.unique(np.linspace(0, len(nodes) - 1, LAYERS).astype(int))} if nodes else set()
    kept: dict[int, npt.NDArray[Any]] = {}

    def keep(place: int, direction: str, run: Callable[[], None]) -> None:
        run()
        if place in chosen:  # a later layer may use its memory
            maps = model.backend.to_numpy(model.network.arrays.outputs[place])[0]
            kept[place] = widened(maps) if place in model.network.stored else maps

    model.network.observer = keep
    try:
        model.predict(image[None])
    finally:
        model.network.observer = None
    found = []
    for place, maps in kept.items():
        tiles = []
        for k in range(min(MAPS, maps.shape[2])):
            low, high = float(maps[..., k].min()), float(maps[..., k].max())
            tiles.append(_bytes((maps[..., k : k + 1] - low) / ((high - low) or 1.0)))
        height, width, count = maps.shape
        shown = f"{len(tiles)} of {count}" if len(tiles) < count else f"{count}"
        found.append(_tiled(tiles, f"{model.network.nodes[place].name}: {shown} maps {height}x{width}"))
    return found


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = np.clip(values * 255, 0, 255).round().astype(np.uint8)
    return found


def _tiled(tiles: Sequence[npt.NDArray[np.uint8]], caption: str) -> Picture:
    """Tiles (H, W, C) of one size beside and under one another, the ground between them transparent."""
    height, width, channels = tiles[0].shape
    columns = min(len(tiles), 16 if len(tiles) > 16 else 8)
    rows = ceil(len(tiles) / columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + GAP), place % columns * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = tile if channels == 3 else tile[..., :1]
        sheet[top : top + height, left : left + width, 3] = 255
    return _picture(Image.fromarray(sheet), caption)


def _picture(image: Image.Image, caption: str) -> Picture:
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    text = base64.b64encode(content.getvalue()).decode()
    return Picture(f"data:image/png;base64,{text}", *image.size, caption)
