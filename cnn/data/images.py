"""Reads image files into arrays of bytes safely: nothing in a file is trusted."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from cnn.errors import DataError, UsageError
from cnn.paths import check_file

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
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})


def image_header(path: Path) -> tuple[tuple[int, int], int]:
    """Size (H, W), turned upright, and channels (1 grey, 3 colour) of the image at `path`; its pixels are not decoded.

    Raises DataError if it is not an image, too large, or of a kind that does not fit into 8 bits per channel.
    """
    with _opened(path) as image:
        return _described(path, image)


def read_image(
    path: Path, *, size: tuple[int, int] | None = None, channels: int | None = None, background: int = WHITE
) -> npt.NDArray[np.uint8]:
    """The image at `path` as (H, W, C) uint8, resized (bilinear) to `size` (H, W), with `channels` 1 or 3.

    It is turned upright as its EXIF data say. What is transparent shows the `background`, a grey level from 0 (black)
    to 255 (white). Only the first frame is read. Raises DataError as image_header does, and if the pixels are
    truncated or corrupt.
    """
    if not 0 <= background <= WHITE:
        raise UsageError(f"The background is {background}; give a grey level from 0 (black) to 255 (white).")
    with _opened(path) as image:
        found_size, found_channels = _described(path, image)
        wanted = channels or found_channels
        if wanted not in (1, 3):
            raise DataError(f"{path} cannot be read with {wanted} channels; ask for 1 or 3.")
        try:
            # Pillow itself turns TIFF images, while it decodes them.
            turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))
            pixels = _opaque(image, background).convert("L" if wanted == 1 else "RGB")
            if turn is not None:
                pixels = pixels.transpose(turn)
            if size is not None and size != found_size:
                pixels = pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            array = np.array(pixels, dtype=np.uint8)
        except Exception as error:
            # Decoders raise various errors for damaged files: OSError, SyntaxError, struct.error ...
            raise DataError(f"{path} is a damaged image ({error}); replace or remove it.") from error
    return array.reshape(array.shape[0], array.shape[1], wanted)


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


def _described(path: Path, image: Image.Image) -> tuple[tuple[int, int], int]:
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
        return (height, width), 1
    if image.mode in _COLOUR_MODES:
        return (height, width), 3
    raise DataError(f"{path} has pixels of the kind {image.mode}; convert it to 8-bit grey or RGB.")
