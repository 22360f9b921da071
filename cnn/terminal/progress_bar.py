"""Progress on standard error, if this is a terminal: a bar, or a line that says what is being done."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from cnn.terminal.printing import is_terminal


def progress_bar(**settings: Any) -> "tqdm[None]":
    """tqdm's progress bar with the given settings; silent if standard error is not a terminal."""
    # A pseudo-terminal may report a width of 0 columns: tqdm would then show nothing, but shutil returns 80.
    columns, lines = shutil.get_terminal_size()
    return tqdm(**settings, file=sys.stderr, ncols=columns, nrows=lines, disable=not is_terminal(sys.stderr))


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A function that shows its text in place of the one before; however the block ends, the line is empty again."""
    with progress_bar(bar_format="{desc}", leave=False) as line:
        yield line.set_description_str
