"""Reads image files into arrays safely: nothing in a file is trusted."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from cnn.errors import DataError, UsageError
from cnn.paths import check_file
from cnn.words import unknown

MAX_PIXELS = 50_000_000
WHITE = 255
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

# Pillow would try every format that it knows, whatever the file's name, and run Ghostscript for one of them.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by the orientation in its EXIF data; those from 5 on swap height and width."""
_GREY_MODES = frozenset({"1", "L", "LA"})
_DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})


RESIZES = ("crop", "pad", "stretch")
"""What is done to an image of another shape: its middle is cut out, black is added around it, or it is distorted."""


class Form(NamedTuple):
    """Of an image: size (H, W), turned upright, channels (1 grey, 3 colour), and whether it has 16 bits per pixel."""

    size: tuple[int, int]
    channels: int
    deep: bool = False


def image_header(path: Path) -> Form:
    """The form of the image at `path`; its pixels are not decoded.

    Raises DataError if it is not an image, too large, or of a kind that has neither 8 nor 16 bits per channel.
    """
    with _opened(path) as image:
        return _described(path, image)


def read_image(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    background: int = WHITE,
    resize: str = "stretch",
    deep: bool = False,
) -> npt.NDArray[Any]:
    """The image at `path` as (H, W, C) uint8, or if `deep` uint16, of `size` (H, W), with `channels` 1 or 3.

    It is turned upright as its EXIF data say. What is transparent shows the `background`, a grey level from 0 (black)
    to 255 (white). Only the first frame is read. If its size is another, it is resized (bilinear), in one of the ways
    of RESIZES. Grey images of 16 bits keep them if `deep`; colours have 8, whatever the file has. Raises DataError as
    image_header does, and if the pixels are truncated or corrupt.
    """
    if resize not in RESIZES:
        raise unknown("There is no way to resize", str(resize), RESIZES)
    if not 0 <= background <= WHITE:
        raise UsageError(f"The background is {background}; give a grey level from 0 (black) to 255 (white).")
    with _opened(path) as image:
        form = _described(path, image)
        wanted = channels or form.channels
        if wanted not in (1, 3):
            raise DataError(f"{path} cannot be read with {wanted} channels; ask for 1 or 3.")
        try:
            # Pillow itself turns TIFF images, while it decodes them.
            orientation = 1 if image.format == "TIFF" else _orientation(image)
            turn = _TURNS.get(orientation)
            if size is not None:
                # A decoder of JPEG gives an image of an eighth, a fourth or half the size in a part of the time.
                enough = _covering(form.size, size)
                image.draft(None, enough[::-1] if orientation < 5 else enough)
            pixels = _deep(image) if form.deep else _opaque(image, background).convert("L" if wanted == 1 else "RGB")
            if turn is not None:
                pixels = pixels.transpose(turn)
            if size is not None and size != (pixels.height, pixels.width):
                pixels = _resized(pixels, size, resize)
            array = _in_bits(np.asarray(pixels), deep=deep, of_16=form.deep)
            if wanted == 3 and array.ndim == 2:
                array = np.repeat(array[..., None], 3, axis=2)
        except Exception as error:
            # Decoders raise various errors for damaged files: OSError, SyntaxError, struct.error ...
            raise DataError(f"{path} is a damaged image ({error}); replace or remove it.") from error
    return array.reshape(array.shape[0], array.shape[1], wanted)


def _covering(found: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size in the proportions of `found` that covers `size`."""
    factor = max(size[0] / found[0], size[1] / found[1])
    return max(size[0], round(found[0] * factor)), max(size[1], round(found[1] * factor))


def _resized(image: Image.Image, size: tuple[int, int], resize: str) -> Image.Image:
    """The image in `size` (H, W), by one of RESIZES."""
    height, width = size
    bilinear = Image.Resampling.BILINEAR
    if resize == "stretch":
        return image.resize((width, height), bilinear)
    factor = (max if resize == "crop" else min)(height / image.height, width / image.width)
    inner = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if resize == "crop":
        inner = max(width, inner[0]), max(height, inner[1])
        left, top = (inner[0] - width) / 2, (inner[1] - height) / 2
        across, down = image.width / inner[0], image.height / inner[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return image.resize((width, height), bilinear, box=box)
    inner = min(width, inner[0]), min(height, inner[1])
    padded = Image.new(image.mode, (width, height))
    padded.paste(image.resize(inner, bilinear), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return padded


def _deep(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits as floats, which Pillow can resize."""
    return Image.fromarray(np.asarray(image).astype(np.float32))


def _in_bits(array: npt.NDArray[Any], *, deep: bool, of_16: bool) -> npt.NDArray[Any]:
    """Shades of 8 bits, or floats of 16, in 16 bits if `deep`, else in 8."""
    if of_16:
        whole: npt.NDArray[np.uint16] = np.clip(np.rint(array), 0, 65535).astype(np.uint16)
        return whole if deep else ((whole.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return array.astype(np.uint16) * np.uint16(257) if deep else np.array(array, np.uint8)


def _opaque(image: Image.Image, background: int) -> Image.Image:
    """The image on the background, if it is transparent anywhere."""
    image.load()
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    front = image.convert("RGBA")
    back = Image.new("RGBA", front.size, (background, background, background, WHITE))
    return Image.alpha_composite(back, front)


def _orientation(image: Image.Image) -> int:
    """The orientation in the EXIF data, 1 to 8; 1, upright, if there are none or they are damaged."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode all pixels to look for EXIF data behind them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:
            return 1


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    check_file(path, "image", DataError)
    # Given a path instead of a file, Pillow would map uncompressed TIFF images, and some versions turn those wrongly.
    with path.open("rb") as file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data
            # Pillow only warns about sizes that are also beyond MAX_PIXELS.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                image = Image.open(file, formats=_FORMATS)
            except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
                raise DataError(f"{path} has more than {MAX_PIXELS:,} pixels; scale it down.") from error
            except UnidentifiedImageError as error:
                raise DataError(
                    f"{path} cannot be read as an image, it is none of {', '.join(_FORMATS)}; "
                    "convert, replace or remove it."
                ) from error
            except Exception as error:
                raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it.") from error
        with image:
            yield image


def _described(path: Path, image: Image.Image) -> Form:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{path} has {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down.")
    if width * height == 0:
        raise DataError(f"{path} has {width} x {height} pixels; replace or remove it.")
    if image.format == "TIFF":  # Pillow says the size before or after it turns the image, depending on its version.
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
    if _orientation(image) >= 5:
        width, height = height, width
    if image.mode in _GREY_MODES:
        return Form((height, width), 1)
    if image.mode in _COLOUR_MODES:
        return Form((height, width), 3)
    if image.mode in _DEEP_MODES or (image.mode == "I" and image.format == "PNG"):
        return Form((height, width), 1, deep=True)
    raise DataError(f"{path} has pixels of the kind {image.mode}; convert it to grey or RGB of 8 bits, or grey of 16.")
