"""The folder for files that can be downloaded, measured or compiled again, and which of its files are trusted."""

import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

from cnn.errors import CnnError
from cnn.system.environment import variable
from cnn.system.storage import write_atomically
from cnn.terminal.printing import tell

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def folder_in(name: str) -> Path | None:
    """The folder that an environment variable names, None if it names none; ~ at its start is the home folder.

    Raises CnnError if there is no such home folder.
    """
    text = variable(name)
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError as error:
        raise CnnError(f"{name} is {text}, but there is no such home folder; give the whole path.") from error


def cache_folder() -> Path:
    """CNN_CACHE_DIR, else the folder cnn in XDG_CACHE_HOME or ~/.cache; data sets are in its folder `data`.

    Raises CnnError for a user without a home folder, as in some containers, if neither variable is set.
    """
    explicit = folder_in("CNN_CACHE_DIR")
    if explicit is not None:
        return explicit
    # The XDG base directory specification says that relative paths must be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cnn"
    except RuntimeError as error:
        raise CnnError(
            "This user has no home folder; set CNN_CACHE_DIR to a folder for downloads, kernels and measurements."
        ) from error


def distrust(path: Path) -> str | None:
    """Why `path`, or a folder of the cache on the way to it, is not used: another user may have made it; else None.

    What lies there is run, or believed. Only this user and root are trusted; what does not exist is no danger.
    """
    top = cache_folder()
    for place in (path, *path.parents):
        with suppress(OSError):
            doubt = _doubt(place, place.stat())
            if doubt is not None:
                return doubt
        if place == top:
            break
    return None


def read_trusted(path: Path) -> bytes:
    """The content of a file of the cache. Raises OSError if it cannot be read, CnnError if it is not trusted."""
    with path.open("rb") as file:
        # The file that is open cannot be exchanged for another one.
        doubt = _doubt(path, os.fstat(file.fileno())) or distrust(path.parent)
        if doubt is not None:
            raise CnnError(doubt)
        return file.read()


def keep(path: Path, content: bytes) -> None:
    """Writes a file of the cache that nobody else can write. Raises CnnError if it cannot be written or trusted."""
    doubt = distrust(path)
    if doubt is not None:
        raise CnnError(doubt)
    try:
        for folder in (*reversed(path.parents), path.parent):
            # Whatever the umask: what a group may write is not trusted.
            folder.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise CnnError(
            f"{path.parent} cannot be created ({error.strerror or error}); set CNN_CACHE_DIR to another folder."
        ) from error
    write_atomically(path, content)
    with suppress(OSError):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS_WRITE)


@cache
def tell_once(sentence: str) -> None:
    """Prints on standard error what this process does about a file of the cache, once for each sentence."""
    tell(f"cnn: {sentence}")


def _doubt(path: Path, status: os.stat_result) -> str | None:
    """Why a file or folder with this status is not trusted, with the cure."""
    if not hasattr(os, "getuid"):
        return None
    if status.st_uid not in (0, os.getuid()):
        return f"{path} belongs to another user; set CNN_CACHE_DIR to a folder of your own"
    # In a folder with the sticky bit, such as /tmp, nobody can replace what belongs to others.
    if status.st_mode & OTHERS_WRITE and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        return f"other users can write {path}; forbid it (chmod go-w), or set CNN_CACHE_DIR to a folder of your own"
    return None
