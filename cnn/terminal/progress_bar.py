"""A progress bar on standard error, if that is a terminal."""

import shutil
import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**settings: Any) -> "tqdm[None]":
    """tqdm's bar with its own settings; silent where standard error is no terminal."""
    # A pseudo-terminal may say that it is 0 columns wide: tqdm would then show nothing, shutil says 80.
    columns, lines = shutil.get_terminal_size()
    return tqdm(**settings, file=sys.stderr, ncols=columns, nrows=lines, disable=not sys.stderr.isatty())
