"""Draws images with their labels side by side, as a picture."""

from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cnn.data.pixels import WHITE, kind_of

LEAST, MOST = 64, 160
"""Pixels of a side of an image in the grid: smaller ones are enlarged, larger ones reduced."""
TEXT, GAP = 14, 6
"""The height of a label, and the space between images, in pixels."""
_INK, _PAPER = 30, 255


def grid(images: npt.NDArray[Any], labels: list[str]) -> Image.Image:
    """A picture of images (N, H, W, C) in rows, each above its label; a label that is too long is cut.

    Numbers that are no shades are stretched from the smallest to the largest.
    """
    shown = _shades(images)
    height, width = images.shape[1:3]
    factor = 1.0
    if max(height, width) < LEAST:
        factor = float(LEAST // max(height, width))
    elif max(height, width) > MOST:
        factor = MOST / max(height, width)
    across, down = max(1, round(width * factor)), max(1, round(height * factor))
    columns = max(1, min(len(images), round(sqrt(len(images) * 1.6))))
    rows = ceil(len(images) / columns)
    step = (across + GAP, down + TEXT + GAP)
    sheet = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), (_PAPER,) * 3)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT - 2)
    for place, (pixels, label) in enumerate(zip(shown, labels, strict=True)):
        left, top = GAP + place % columns * step[0], GAP + place // columns * step[1]
        one = pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]
        tile = Image.fromarray(np.ascontiguousarray(one)).convert("RGB")
        way = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BILINEAR
        sheet.paste(tile.resize((across, down), way), (left, top))
        text = label
        while text and pen.textlength(text, font=font) > across + GAP:
            text = text[:-1]
        pen.text((left, top + down), text, fill=(_INK,) * 3, font=font)
    return sheet


def _shades(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The images in 8 bits."""
    white = WHITE[kind_of(images)]
    low, high = (0.0, white) if white is not None else (float(images.min()), float(images.max()))
    scaled = (images.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    result: npt.NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return result
