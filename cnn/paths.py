"""Turns what the system says about a path (no such file, no permission, ...) into one sentence with cause and cure."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnn.errors import CnnError, FileFormatError

LONGEST = 200
"""Characters of a path that a sentence quotes."""


def shown(path: str | Path) -> str:
    """A path for a sentence; the middle of a very long one is left out."""
    text = str(path)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def sentence(path: str | Path, error: OSError, what: str = "file") -> str:
    """Why the file or folder at `path`, a `what`, cannot be read or written, and what to do."""
    name, number = shown(path), error.errno
    if number == errno.ENOENT:
        if not os.path.isabs(path) and _nowhere():
            return f"The working folder no longer exists, so {name} is nowhere; change to another folder."
        return f"There is no {what} {name}; check the path."
    if number == errno.EISDIR:
        return f"{name} is a folder; name the {what} itself."
    if number == errno.ENOTDIR:
        return f"There is no {what} {name}: a part of this path is a file, not a folder; correct the path."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"You have no permission for the {what} {name}; ask its owner, or name another one."
    if number == errno.ENAMETOOLONG:
        return f"The path {name} is too long for this system; use a shorter one."
    if number == errno.ELOOP:
        return f"{name} is a link that leads back to itself; correct the link."
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"The disk is too full for {name} ({error.strerror}); free space or name another place."
    return f"The {what} {name} cannot be used ({error.strerror or error}); check it, or name another one."


@contextmanager
def reading(path: str | Path, what: str = "file", kind: type[CnnError] = FileFormatError) -> Iterator[None]:
    """Turns an OSError of the block into a `kind` with the sentence about the path that it names, else about `path`."""
    try:
        yield
    except OSError as error:
        raise kind(sentence(named(error, path), error, what)) from error


def check_file(path: str | Path, what: str = "file", kind: type[CnnError] = FileFormatError) -> None:
    """Raises a `kind` unless `path` is a file that may be read: not a folder, nor a pipe, which could keep one waiting.

    What the path may not contain at all, such as a zero byte, is refused as well.
    """
    if "\0" in str(path):
        raise kind(f"The path {str(path)!r:.200} has a zero byte in it; correct the path.")
    with reading(path, what, kind):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise kind(f"{shown(path)} is a pipe or a device; copy its content into a file and name that.")
        with open(path, "rb"):
            pass


def parsed_json(content: str | bytes) -> Any:
    """The value in JSON that anybody may have written.

    Raises ValueError, also for NaN, infinity and characters that no text can have, or RecursionError.
    """
    found = json.loads(content)
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    return found


def check_output(path: str | Path) -> None:
    """Raises CnnError unless a file can be written at `path`, so that nobody waits for what cannot be kept."""
    target = Path(path)
    try:
        folder = target.parent.is_dir()
        if target.is_dir():
            raise CnnError(f"{shown(path)} is a folder; name a file in it.")
    except OSError as error:
        raise CnnError(sentence(path, error)) from error
    if not folder:
        raise CnnError(f"There is no folder {shown(target.parent)} for {target.name}; create it or correct the path.")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise CnnError(f"You have no permission to write {shown(path)}; name a file in another folder.")


def named(error: OSError, otherwise: str | Path = "") -> str:
    """The path that the error is about, as far as it says."""
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(otherwise)


def _nowhere() -> bool:
    """Whether the working folder was deleted."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False
