"""Prints results: titles with texts, tables, and JSON; and what is said beside the work, which may be lost."""

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO
from unicodedata import combining, east_asian_width

from cnn.errors import CnnError
from cnn.terminal.visible import visible


def print_lines(lines: dict[str, str]) -> None:
    """Prints titles and texts in two columns."""
    titles = [shown(title) for title in lines]
    width = max(map(columns, titles))
    for title, text in zip(titles, lines.values(), strict=True):
        print(f"{padded(title, width)}  {shown(text)}", flush=True)


def print_json(value: Any) -> None:
    """Prints indented JSON on standard output; NaN is an error."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Prints a table with its first column aligned left, the others right."""
    table = [[shown(cell) for cell in row] for row in [head, *rows]]
    widths = [max(columns(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        cells = [padded(cell, width, right=True) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([padded(row[0], widths[0]), *cells]).rstrip())


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


def note(text: str) -> None:
    """Says something on standard error, beside the work that is going on."""
    with output_may_fail("stderr"):
        print(f"note: {text}", file=sys.stderr, flush=True)


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
            with output_may_fail("stderr"):
                print(f"cnn: the output cannot be written ({reason}); the work goes on", file=sys.stderr, flush=True)


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
