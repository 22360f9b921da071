"""Named arrays and a table of plain values in one safetensors file, written whole or not at all."""

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cnn.errors import CnnError, FileFormatError
from cnn.paths import check_file

# safetensors headers hold only strings, so the table is stored there as JSON text. With a single file, arrays and table
# always belong together.
_TABLE = "cnn"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to a new file beside `path` and renames it: a crash leaves the old file or the new one.

    Raises CnnError naming the cause, such as a full disk; the old file is then untouched.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
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


def save_arrays(path: Path, kind: str, arrays: Mapping[str, npt.NDArray[Any]], table: Mapping[str, Any]) -> None:
    """Writes arrays and table as a file of `kind`. Raises CnnError if it cannot be written."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    table = {"kind": kind, "version": 1, **table}
    text = json.dumps({**table, "crc": _checksum(contiguous, table)}, sort_keys=True)
    write_atomically(path, save(contiguous, metadata={_TABLE: text}))


def read_arrays(path: Path, kind: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The arrays and table of a file of `kind`.

    Raises FileFormatError if there is no such file, or it is truncated, corrupt, or of another kind or version.
    """
    check_file(path, f"{kind} file")
    try:
        with safe_open(path, framework="numpy") as file:
            table = json.loads((file.metadata() or {}).get(_TABLE, "null"))
            if not isinstance(table, dict) or table.get("kind") != kind:
                found = table.get("kind") if isinstance(table, dict) else "a file of another program"
                raise FileFormatError(f"{path} is not a {kind} file ({found}); give one that cnn wrote.")
            if table.get("version") != 1:
                raise FileFormatError(
                    f"{path} has format version {table.get('version')}, but this release reads only version 1; "
                    "load it with the release that wrote it."
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            if table.pop("crc", None) != _checksum(arrays, table):
                raise FileFormatError(f"{path} is damaged (its checksum is wrong); restore it or train again.")
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise FileFormatError(
            f"{path} is damaged or not a {kind} file ({error}); restore it or train again."
        ) from error
    return arrays, table


def _checksum(arrays: Mapping[str, npt.NDArray[Any]], table: Mapping[str, Any]) -> int:
    """CRC-32 of the table and all elements: safetensors detects a truncated file, but not a changed byte."""
    total = zlib.crc32(json.dumps(table, sort_keys=True).encode())
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, total)
    return total
