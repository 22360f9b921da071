"""Reads files of known names from a .tar.gz into memory, within size limits and without writing anything."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn.errors import DataError
from cnn.paths import check_file

# Bytes that an archive may hold besides the files read: headers, class names, a read-me.
_OVERHEAD = 1 << 24
_CURE = "download or copy it again"


def read_members(path: Path, limits: Mapping[str, int]) -> dict[str, bytes]:
    """The content of the members named in `limits`, each at most as long as its limit.

    Members of other names are skipped, whatever they are. Raises DataError if the archive is damaged or
    unpacks to far more than the limits, or if a member is absent, too long, a link, or present twice.
    """
    contents: dict[str, bytes] = {}
    check_file(path, "archive", DataError)
    try:
        with (
            gzip.open(path) as unpacked,
            tarfile.open(fileobj=_Bounded(unpacked, sum(limits.values()) + _OVERHEAD), mode="r|") as archive,
        ):
            for member in archive:
                if member.name not in limits:
                    continue
                source = f"{path}:{member.name}"
                if not member.isreg() or member.name in contents:
                    raise DataError(f"{source} is a link or is present twice; {_CURE}.")
                if member.size > limits[member.name]:
                    raise DataError(f"{source} has {member.size:,} bytes, more than {limits[member.name]:,}; {_CURE}.")
                stream = archive.extractfile(member)
                contents[member.name] = stream.read() if stream else b""
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path} is truncated or corrupt ({error}); {_CURE}.") from error
    absent = [name for name in limits if name not in contents]
    if absent:
        raise DataError(f"{path} lacks {', '.join(absent)}; {_CURE}.")
    return contents


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream, self._limit, self._left = stream, limit, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        block = self._stream.read(len(view))
        self._left -= len(block)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {self._limit:,} bytes")
        view[: len(block)] = block
        return len(block)
