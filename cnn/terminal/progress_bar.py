"""A progress bar on standard error, if this is a terminal."""

import shutil
import sys
from typing import Any

from tqdm import tqdm

from cnn.terminal.printing import is_terminal


def progress_bar(**settings: Any) -> "tqdm[None]":
    """tqdm's progress bar with the given settings; silent if standard error is not a terminal."""
    # A pseudo-terminal may report a width of 0 columns: tqdm would then show nothing, but shutil returns 80.
    columns, lines = shutil.get_terminal_size()
    return tqdm(**settings, file=sys.stderr, ncols=columns, nrows=lines, disable=not is_terminal(sys.stderr))
