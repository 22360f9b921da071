"""Reads the IDX format of MNIST and similar sets strictly, plain or gzipped.

Layout: two zero bytes, a type code (8 is unsigned byte), the number of dimensions, each dimension as a
big-endian 32-bit number, then the values in row-major order (LeCun, Cortes and Burges, "The MNIST database").
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from cnn.data.dataset import Split
from cnn.errors import DataError
from cnn.paths import check_file

MAX_BYTES = 1 << 28
UNSIGNED_BYTE = 8
_BLOCK = 1 << 20
_CURE = "download or copy it again"


def read_idx(path: Path, dimensions: int) -> tuple[npt.NDArray[np.uint8], str]:
    """The array of unsigned bytes in the IDX file `path` and the SHA-256 of the file's unpacked content.

    Never unpacks more than the header announces plus one byte, nor more than MAX_BYTES. Raises DataError.
    """
    check_file(path, "file", DataError)
    try:
        with _opened(path) as stream:
            header = _take(stream, 4 + 4 * dimensions)
            shape = _shape(path, header, dimensions)
            body = _take(stream, math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or corrupt ({error}); {_CURE}.") from error
    if len(body) != math.prod(shape):
        relation = "more" if len(body) > math.prod(shape) else f"{len(body):,}, fewer"
        raise DataError(f"{path} holds {relation} bytes than the {math.prod(shape):,} it announces; {_CURE}.")
    digest = hashlib.sha256(header)
    digest.update(body)
    return np.frombuffer(body, dtype=np.uint8).reshape(shape), digest.hexdigest()


def read_split(images: Path, labels: Path, size: tuple[int, int], classes: int) -> tuple[Split, tuple[str, str]]:
    """The images of `size` (H, W) and their labels as one split, and the SHA-256 of both files' unpacked content.

    Raises DataError if a file is invalid, if counts or size differ, or if a label is not below `classes`.
    """
    pixels, image_digest = read_idx(images, 3)
    numbers, label_digest = read_idx(labels, 1)
    if pixels.shape[1:] != size:
        raise DataError(f"{images} holds images of {pixels.shape[1:]} instead of {size} pixels; {_CURE}.")
    if len(pixels) != len(numbers):
        raise DataError(f"{images} holds {len(pixels)} images, {labels} {len(numbers)} labels; {_CURE}.")
    if len(numbers) and numbers.max() >= classes:
        raise DataError(f"{labels} holds the label {numbers.max()}, beyond the last class {classes - 1}; {_CURE}.")
    return Split(pixels[..., None], numbers.astype(np.int64)), (image_digest, label_digest)


def find_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The paths of the IDX files `names` that exist in `folder`, each gzipped (preferred) or plain."""
    choices = ([folder / f"{name}.gz", folder / name] for name in names)
    return [found[0] for pair in choices if (found := [path for path in pair if path.is_file()])]


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _take(stream: BinaryIO, count: int) -> bytes:
    """Up to `count` bytes, read in blocks so that memory grows with the bytes present and not with `count`."""
    blocks = bytearray()
    while len(blocks) < count:
        block = stream.read(min(_BLOCK, count - len(blocks)))
        if not block:
            break
        blocks += block
    return bytes(blocks)


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    """The shape in a header with `dimensions` dimensions."""
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path} ends after {len(header)} bytes, within its header; {_CURE}.")
    if header[:2] != b"\0\0":
        raise DataError(f"{path} begins with {header[:2].hex()} instead of 0000, so it is not IDX; {_CURE}.")
    if header[2] != UNSIGNED_BYTE:
        raise DataError(f"{path} has the type code {header[2]} instead of 8 (unsigned byte); {_CURE}.")
    if header[3] != dimensions:
        raise DataError(f"{path} has {header[3]} dimensions instead of {dimensions}; {_CURE}.")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if math.prod(shape) > MAX_BYTES:
        raise DataError(f"{path} announces {shape}, more than {MAX_BYTES:,} bytes; {_CURE}.")
    return shape
