"""Prints results no wider than the terminal, and what is said beside the work, which may be lost."""

import io
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from textwrap import wrap
from typing import Any, Literal, TextIO
from unicodedata import combining, east_asian_width

from cnn.errors import CnnError
from cnn.terminal.visible import CODES, END, visible

LABEL = 24
"""Columns that the first column of a table keeps before other columns are left out."""


def terminal_width() -> int:
    """Columns of the terminal, or of the variable COLUMNS; 80 where there is neither."""
    return shutil.get_terminal_size().columns


def coloured(text: str, style: Literal["error", "warning", "best"], stream: TextIO | None = None) -> str:
    """The text in colour if the stream, or else standard output, is a terminal with colours and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return text if plain or not is_terminal(stream or sys.stdout) else f"{CODES[style]}{text}{END}"


def print_text(text: str, indent: str = "", style: Literal["warning"] | None = None) -> None:
    """Prints a sentence, wrapped between words; all lines but the first begin with `indent` and two spaces."""
    for line in text_lines(text, indent):
        print(coloured(line, style) if style else line, flush=True)


def print_note(text: str) -> None:
    """Prints something that the user may want to know among the results; `note` tells it beside them."""
    print_text(f"note: {text}")


def text_lines(text: str, indent: str = "") -> list[str]:
    """The lines that `print_text` prints."""
    return _wrapped(shown(text), indent, f"{indent}  ")


def print_lines(lines: dict[str, str], column: int = 0) -> None:
    """Prints titles and texts in two columns, the second one from `column` on or behind the longest title."""
    titles = [shown(title) for title in lines]
    width = max(column, *(columns(title) + 2 for title in titles))
    for title, text in zip(titles, lines.values(), strict=True):
        for line in _wrapped(shown(text), padded(title, width), " " * width):
            print(line, flush=True)


def print_json(value: Any) -> None:
    """Prints indented JSON on standard output; NaN is an error."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    extra: Sequence[str] = (),
    wide: bool = False,
    best: Collection[int] = (),
    text: str | None = None,
) -> None:
    """Prints a table with its first column and the one named `text` aligned left, the others right.

    Unless `wide`, it fits the terminal: these two columns are wrapped, and as many columns of `extra` are left out as
    must be, the first of them first; a line below the table names them. `best` are rows to stand out.
    """
    kept, hidden = list(range(len(head))), list[str]()
    table = [[shown(cell) for cell in row] for row in [head, *rows]]
    widths = [max(columns(row[column]) for row in table) for column in kept]
    limit = terminal_width()
    wrapped = head.index(text) if text else 0

    def others() -> int:
        return sum((min(widths[column], LABEL) if column == wrapped else widths[column]) + 2 for column in kept[1:])

    for name in () if wide else extra:
        if others() + min(widths[0], LABEL) <= limit:
            break
        kept.remove(head.index(name))
        hidden.append(name)
    if not wide:
        widths[0] = min(widths[0], max(LABEL, limit - others()))
        if wrapped in kept[1:]:
            free = limit - widths[0] - others() + min(widths[wrapped], LABEL)
            widths[wrapped] = min(widths[wrapped], max(LABEL, free))
    for place, row in enumerate(table):
        cells = [
            _wrapped(row[column], "", "" if column else "  ", widths[column])
            if column in (0, wrapped)
            else [row[column]]
            for column in kept
        ]
        for parts in zip_longest(*cells, fillvalue=""):
            aligned = (
                padded(part, widths[column], right=column not in (0, wrapped))
                for column, part in zip(kept, parts, strict=True)
            )
            line = "  ".join(aligned).rstrip()
            print(coloured(line, "best") if place - 1 in best else line)
    if hidden:
        print_text(f"not shown: {', '.join(hidden)} (--wide)")


def _wrapped(text: str, first: str, later: str, width: int | None = None) -> list[str]:
    """Lines of whole words; a word that is too long, such as a path, stands on a line of its own."""
    limit = width or terminal_width()
    lines = wrap(
        text,
        max(limit, len(first) + 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]


def shown(text: str) -> str:
    """The text as standard output shows it, on one line."""
    line = text.replace("\n", "\\n").replace("\t", "\\t")
    return visible(line, getattr(sys.stdout, "encoding", None))


def columns(text: str) -> int:
    """The columns of a terminal that a text takes: two for a wide character, none for one that combines."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """The text filled up with spaces to `width` columns."""
    space = " " * (width - columns(text))
    return space + text if right else text + space


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sees the stream as it is written; it is None in a program without such a stream."""
    return stream is not None and not stream.closed and stream.isatty()


def tell(text: str) -> None:
    """Prints on standard error, beside the work that is going on; if that fails, the work goes on all the same."""
    with output_may_fail("stderr"):
        print(text, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Tells something that the user may want to know."""
    tell(f"note: {text}")


@contextmanager
def output_may_fail(name: str = "stdout") -> Iterator[None]:
    """For a block that only prints to a stream: if that fails, as its reader is gone or the disk full, it gets no more.

    Work that takes long must not end for want of somebody to tell.
    """
    try:
        yield
        stream = getattr(sys, name)
        if stream is not None:
            stream.flush()
    except (OSError, ValueError) as error:
        drop(name)
        if name == "stdout":
            reason = getattr(error, "strerror", None) or error
            tell(f"cnn: the output cannot be written ({reason}); the work goes on")


def prepare_streams() -> None:
    """Makes standard output and error usable for a whole program: never None, and able to print any character."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # This takes the closed descriptor itself, which a file of a run would else get, and be written to by
            # whatever complains on standard error.
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, "w" if number else "r"))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Writes what standard output still holds. Raises CnnError if that cannot be, BrokenPipeError without a reader."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        drop("stdout")
        raise CnnError(
            f"The output could not be written ({error.strerror}); free space, or write elsewhere."
        ) from error


def drop(name: str) -> None:
    """What is printed to this stream ("stdout" or "stderr") from now on is lost, and so is what it still holds."""
    stream, nowhere = getattr(sys, name), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
        stream.flush()
    except (OSError, ValueError):  # not a file of the system
        setattr(sys, name, _Nowhere())
    finally:
        os.close(nowhere)


class _Nowhere(io.TextIOBase):
    """A stream that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)
