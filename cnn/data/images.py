"""Reads image files into arrays of bytes safely: nothing in a file is trusted."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnn.errors import DataError

MAX_PIXELS = 50_000_000
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"})


def image_header(path: Path) -> tuple[tuple[int, int], int]:
    """Size (H, W) and channels (1 grey, 3 colour) of the image at `path`, read without decoding its pixels.

    Raises DataError if it is not an image, too large, or of a kind that does not fit into 8 bits per channel.
    """
    with _opened(path) as image:
        return _described(path, image)


def read_image(
    path: Path, *, size: tuple[int, int] | None = None, channels: int | None = None
) -> npt.NDArray[np.uint8]:
    """The image at `path` as (H, W, C) uint8, resized (bilinear) to `size` (H, W), with `channels` 1 or 3.

    Transparency is dropped and only the first frame is read. Raises DataError as image_header does, and if
    the pixels are truncated or corrupt.
    """
    with _opened(path) as image:
        found_size, found_channels = _described(path, image)
        wanted = channels or found_channels
        if wanted not in (1, 3):
            raise DataError(f"{path} cannot be read with {wanted} channels; ask for 1 or 3.")
        try:
            pixels = image.convert("L" if wanted == 1 else "RGB")
            if size is not None and size != found_size:
                pixels = pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            array = np.array(pixels, dtype=np.uint8)
        except Exception as error:
            # Decoders raise various errors for damaged files: OSError, SyntaxError, struct.error ...
            raise DataError(f"{path} is a damaged image ({error}); replace or remove it.") from error
    return array.reshape(array.shape[0], array.shape[1], wanted)


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow only warns about sizes that are also beyond MAX_PIXELS.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(path)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise DataError(f"{path} has more than {MAX_PIXELS:,} pixels; scale it down.") from error
        except FileNotFoundError as error:
            raise DataError(f"There is no image {path}; correct the path.") from error
        except Exception as error:
            raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it.") from error


def _described(path: Path, image: Image.Image) -> tuple[tuple[int, int], int]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{path} has {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down.")
    if width * height == 0:
        raise DataError(f"{path} has {width} x {height} pixels; replace or remove it.")
    if image.mode in _GREY_MODES:
        return (height, width), 1
    if image.mode in _COLOUR_MODES:
        return (height, width), 3
    raise DataError(f"{path} has pixels of the kind {image.mode}; convert it to 8-bit grey or RGB.")
