"""The folder for files that can be downloaded or measured again."""

import os
from pathlib import Path

from cnn.errors import CnnError


def cache_folder() -> Path:
    """CNN_CACHE_DIR, else the folder cnn in XDG_CACHE_HOME or ~/.cache; data sets are in its folder `data`.

    Raises CnnError for a user without a home folder, as in some containers, if neither variable is set.
    """
    explicit = os.environ.get("CNN_CACHE_DIR")
    if explicit:
        return Path(explicit)
    # The XDG base directory specification says that relative paths must be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cnn"
    except RuntimeError as error:
        raise CnnError(
            "This user has no home folder; set CNN_CACHE_DIR to a folder for downloads, kernels and measurements."
        ) from error
