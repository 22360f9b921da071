"""Prints results no wider than the terminal: titles with texts, tables, JSON, and colour where it helps."""

import json
import os
import shutil
import sys
from collections.abc import Collection, Sequence
from textwrap import wrap
from typing import Any, Literal, TextIO

LABEL = 24
"""Columns that the first column of a table keeps before other columns are left out."""
CODES = {"error": "1;31", "warning": "33", "best": "1;32"}
"""Colours of ECMA-48."""


def terminal_width() -> int:
    """Columns of the terminal, or of the variable COLUMNS; 80 where there is neither."""
    return shutil.get_terminal_size().columns


def coloured(text: str, style: Literal["error", "warning", "best"], stream: TextIO | None = None) -> str:
    """The text in colour if the stream, or else standard output, is a terminal with colours and NO_COLOR is not set."""
    out = sys.stdout if stream is None else stream
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or out is None or not out.isatty()
    return text if plain else f"\033[{CODES[style]}m{text}\033[0m"


def print_text(text: str, indent: str = "", style: Literal["warning"] | None = None) -> None:
    """Prints a sentence, wrapped between words; all lines but the first begin with `indent` and two spaces."""
    for line in _wrapped(text, indent, f"{indent}  "):
        print(coloured(line, style) if style else line, flush=True)


def print_lines(lines: dict[str, str]) -> None:
    """Prints titles and texts in two columns."""
    width = max(map(len, lines)) + 2
    for title, text in lines.items():
        for line in _wrapped(text, f"{title:<{width}}", " " * width):
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
) -> None:
    """Prints a table with its first column aligned left, the others right; `best` are rows to stand out.

    Unless `wide`, it fits the terminal: the first column is wrapped, and as many columns of `extra` are left out as
    must be, the first of them first; a line below the table names them.
    """
    kept, hidden = list(range(len(head))), list[str]()
    widths = [max(len(row[column]) for row in [head, *rows]) for column in kept]
    limit = terminal_width()

    def others() -> int:
        return sum(widths[column] + 2 for column in kept[1:])

    for name in () if wide else extra:
        if others() + min(widths[0], LABEL) <= limit:
            break
        kept.remove(head.index(name))
        hidden.append(name)
    if not wide:
        widths[0] = min(widths[0], max(LABEL, limit - others()))
    for place, row in enumerate([head, *rows]):
        first, *more = _wrapped(row[0], "", "  ", widths[0]) or [""]
        cells = [f"{row[column]:>{widths[column]}}" for column in kept[1:]]
        for line in ["  ".join([f"{first:<{widths[0]}}", *cells]).rstrip(), *more]:
            print(coloured(line, "best") if place - 1 in best else line)
    if hidden:
        print_text(f"not shown: {', '.join(hidden)} (--wide)")


def _wrapped(text: str, first: str, later: str, width: int | None = None) -> list[str]:
    """Lines of whole words; a word that is too long, such as a path, stands on a line of its own."""
    columns = width or terminal_width()
    lines = wrap(
        text,
        max(columns, len(first) + 20),
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]
