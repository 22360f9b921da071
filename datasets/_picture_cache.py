"""Decodes the pictures of a folder once, in parallel, into a file of the cache that is mapped from then on."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.data.images import Form, image_header, read_image
from cnn.data.stored import Images, StoredImages
from cnn.errors import CnnError, DataError, listed
from cnn.paths import parsed_json
from cnn.system.cache import cache_folder, distrust, keep, read_trusted
from cnn.system.storage import opened_atomically, remove_parts
from cnn.system.threads import budget
from cnn.terminal.progress_bar import progress_bar
from cnn.words import counted

SMALL_FILES = 4 << 20
"""Bytes of all files together up to which they are decoded anew each time, and nothing is written."""
IN_MEMORY = 256 << 20
"""Decoded bytes up to which the images are read into memory; those of more are mapped."""
AT_A_TIME = 64
"""Pictures that are decoded and not yet written."""
_VERSION = 1


class Survey:
    """What is known of the pictures at `paths`: their forms, from the cache if no name, size or time has changed.

    `settings` are all that the decoded pictures depend on besides.
    """

    def __init__(self, root: Path, paths: Sequence[Path], settings: str) -> None:
        self.root, self.paths = root, paths
        facts = hashlib.sha256(f"{_VERSION} {settings}".encode())
        self.bytes = 0
        for path in paths:
            status = path.stat()
            self.bytes += status.st_size
            facts.update(f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
        self._digest = facts.hexdigest()
        owner = hashlib.sha256(f"{root.absolute()} {settings}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._stem = cache_folder() / "pictures" / owner
        self._table = self._stem.with_suffix(".json")
        self.pixels = self._stem.with_name(f"{owner}-{self._digest[:16]}.npy")
        """Where the decoded pictures are, or would be."""

    @property
    def cached(self) -> bool:
        """Whether decoding takes long enough to be done only once."""
        return self.bytes > SMALL_FILES

    def known(self) -> dict[str, Any] | None:
        """What `remember` was told of these very pictures, None if they are not in the cache."""
        if not self.cached:
            return None
        with suppress(OSError, CnnError, ValueError, LookupError, TypeError, RecursionError):
            table = parsed_json(read_trusted(self._table))
            (height, width), channels, deep = table["form"]
            right = all(type(each) is int and each > 0 for each in (height, width, channels)) and type(deep) is bool
            right = right and all(isinstance(each, str) for each in table["notes"])
            if right and table["digest"] == self._digest and self.pixels.is_file():
                return dict(table)
        return None

    def remember(self, table: dict[str, Any]) -> None:
        """Keeps a table beside the pictures, and removes what was decoded of older ones."""
        keep(self._table, json.dumps(table | {"digest": self._digest}).encode())
        for other in self._stem.parent.glob(f"{self._stem.name}-*.npy"):
            if other != self.pixels:
                with suppress(OSError):
                    other.unlink()

    def images(self, form: Form, resize: str) -> Images:
        """All pictures in this form, in their order. Raises DataError naming those that are damaged."""
        shape = (len(self.paths), *form.size, form.channels)
        dtype = np.dtype(np.uint16 if form.deep else np.uint8)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        read = partial(read_image, size=form.size, channels=form.channels, resize=resize, deep=form.deep)
        if not self.cached:
            images = np.empty(shape, dtype)
            for place, pixels in enumerate(decoded(self.paths, read)):
                images[place] = pixels
            return images
        found = self._mapped(shape, dtype)
        if found is None:
            self._write(size, shape, dtype, read)
            found = self._mapped(shape, dtype)
            if found is None:
                raise DataError(
                    f"{self.pixels} cannot be read back; free space, or set CNN_CACHE_DIR to another folder."
                )
        return StoredImages(found) if size > IN_MEMORY else np.array(found)

    def _mapped(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "np.memmap[Any, Any] | None":
        """The decoded pictures; None if they are not there, not whole, or may be another user's."""
        if distrust(self.pixels) is not None:
            return None
        with suppress(OSError, ValueError):
            found = np.load(self.pixels, mmap_mode="r")
            if isinstance(found, np.memmap) and found.shape == shape and found.dtype == dtype:
                return found
        return None

    def _write(self, size: int, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[Path], Any]) -> None:
        folder = self.pixels.parent
        doubt = distrust(self.pixels)
        if doubt is not None:
            raise CnnError(f"{doubt}.")
        keep(self._table, b"{}")  # makes the folder
        remove_parts(folder)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise DataError(
                f"Decoded, the {counted(len(self.paths), 'image')} need {size / 1e9:.1f} GB, but {folder} has only "
                f"{free / 1e9:.1f} GB free; free space, set CNN_CACHE_DIR to another folder, or give a smaller "
                "--image-size."
            )
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with (
            opened_atomically(self.pixels) as file,
            progress_bar(total=len(self.paths), unit=" images", leave=False) as bar,
        ):
            bar.set_description("decoding")
            np.lib.format.write_array_header_1_0(file, header)
            for pixels in decoded(self.paths, read):
                file.write(np.ascontiguousarray(pixels).data)
                bar.update()


def decoded(paths: Sequence[Path], read: Callable[[Path], npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    """What `read` makes of each file, in order, read by several threads. Raises DataError naming all that fail."""
    failures: list[DataError] = []

    def attempt(path: Path) -> npt.NDArray[Any] | None:
        try:
            return read(path)
        except DataError as error:
            failures.append(error)
            return None

    with ThreadPoolExecutor(budget().count) as pool:
        for start in range(0, len(paths), AT_A_TIME):
            for pixels in pool.map(attempt, paths[start : start + AT_A_TIME]):
                if pixels is not None and not failures:
                    yield pixels
    _raise(failures)


def forms_of(paths: Sequence[Path]) -> list[Form]:
    """The form of each picture, from their headers. Raises DataError naming all that have none."""
    failures: list[DataError] = []
    forms = []
    for path in paths:
        try:
            forms.append(image_header(path))
        except DataError as error:
            failures.append(error)
    _raise(failures)
    return forms


def _raise(failures: list[DataError]) -> None:
    """Raises one error for all files that cannot be read, if there are any."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        said = listed(sorted(map(str, failures)), most=3)
        raise DataError(f"{counted(len(failures), 'image')} cannot be read: {said}")
