"""The folder for files that can be downloaded or measured again, and folders that the user names."""

import os
from pathlib import Path

from cnn.errors import CnnError


def folder_in(variable: str) -> Path | None:
    """The folder that an environment variable names, None if it names none; ~ at its start is the home folder.

    Raises CnnError if there is no such home folder.
    """
    text = os.environ.get(variable)
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError as error:
        raise CnnError(f"{variable} is {text}, but there is no such home folder; give the whole path.") from error


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
