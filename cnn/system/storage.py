"""Named arrays and a table of plain values in one safetensors file, written whole or not at all."""

import contextlib
import json
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cnn.errors import CnnError, FileFormatError
from cnn.paths import check_file
from cnn.terminal.printing import note

# safetensors headers hold only strings, so the table is stored there as JSON text. With a single file, arrays and table
# always belong together.
_TABLE = "cnn"
VERSION = 2
"""Of the format. In version 1 the checksum left out the names, types and shapes of the arrays."""


PART = ".part"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to a new file beside `path` and renames it: a crash leaves the old file or the new one.

    Raises CnnError naming the cause, such as a full disk; the old file is then untouched.
    """
    with opened_atomically(path) as file:
        file.write(content)


@contextlib.contextmanager
def opened_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file for what `write_atomically` would write in pieces; it is at `path` once the block has ended well."""
    # A name of its own: another process may be writing the same file.
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise CnnError(
            f"{path} could not be written ({error.strerror or error}); free space or choose another folder. "
            "What was saved before is unchanged."
        ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove_parts(folder: Path) -> None:
    """Removes what killed processes left of files that they were writing to `folder`, while nobody writes to it."""
    with contextlib.suppress(OSError):
        for partial in folder.glob(f".*{PART}"):
            partial.unlink()


def save_arrays(path: Path, kind: str, arrays: Mapping[str, npt.NDArray[Any]], table: Mapping[str, Any]) -> None:
    """Writes arrays and table as a file of `kind`. Raises CnnError if it cannot be written."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    table = {"kind": kind, "version": VERSION, **table}
    text = json.dumps({**table, "crc": _checksum(contiguous, table)}, sort_keys=True)
    write_atomically(path, save(contiguous, metadata={_TABLE: text}))


def read_arrays(path: Path, kind: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The arrays and table of a file of `kind`.

    Raises FileFormatError if there is no such file, or it is truncated, corrupt, or of another kind or version. A file
    of version 1 is read with a note on standard error, as its checksum does not cover everything.
    """
    check_file(path, f"{kind} file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            table = json.loads(metadata.get(_TABLE, "null"))
            if not isinstance(table, dict) or table.get("kind") != kind:
                found = table.get("kind") if isinstance(table, dict) else "a file of another program"
                raise FileFormatError(f"{path} is not a {kind} file ({found}); give one that cnn wrote.")
            version = table.get("version")
            if isinstance(version, bool) or version not in (1, VERSION):
                raise FileFormatError(
                    f"{path} has format version {version}, but this release reads only versions 1 and {VERSION}; "
                    "load it with the release that wrote it."
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            if table.pop("crc", None) != _checksum(arrays, table) or metadata.keys() != {_TABLE}:
                raise FileFormatError(f"{path} is damaged (its checksum is wrong); restore it or train again.")
    except (SafetensorError, ValueError, TypeError, RecursionError, OSError) as error:
        raise FileFormatError(
            f"{path} is damaged or not a {kind} file ({error}); restore it or train again."
        ) from error
    if version == 1:
        note(f"{path} was written by an older release, whose checksum covers less; save it again to change that.")
    return arrays, table


def check_finite(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Raises FileFormatError naming the first array that has NaN or infinity."""
    name = first_not_finite(arrays)
    if name is not None:
        raise FileFormatError(f"{name} in {path} has values that are not finite; restore it or train again.")


def first_not_finite(arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """The name of the first array that has NaN or infinity, None if there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def _checksum(arrays: Mapping[str, npt.NDArray[Any]], table: Mapping[str, Any]) -> int:
    """CRC-32 of the table and of each array: safetensors detects a truncated file, but not a changed byte."""
    total = zlib.crc32(json.dumps(table, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        if table["version"] != 1:
            total = zlib.crc32(json.dumps([name, array.dtype.str, array.shape]).encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return total
