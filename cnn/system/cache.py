"""The folder for what can be fetched or measured again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """CNN_CACHE_DIR, else cnn in XDG_CACHE_HOME or ~/.cache; data sets lie in `data`."""
    explicit = os.environ.get("CNN_CACHE_DIR")
    if explicit:
        return Path(explicit)
    # The XDG base directory specification says that a relative path is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cnn"
