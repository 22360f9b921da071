"""The folder for files that can be downloaded or measured again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """CNN_CACHE_DIR, else the folder cnn in XDG_CACHE_HOME or ~/.cache; data sets are in its folder `data`."""
    explicit = os.environ.get("CNN_CACHE_DIR")
    if explicit:
        return Path(explicit)
    # The XDG base directory specification says that relative paths must be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cnn"
