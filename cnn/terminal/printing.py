"""Prints results: titles with texts, tables, and JSON."""

import json
from typing import Any


def print_lines(lines: dict[str, str]) -> None:
    """Prints titles and texts in two columns."""
    width = max(map(len, lines))
    for title, text in lines.items():
        print(f"{title:<{width}}  {text}", flush=True)


def print_json(value: Any) -> None:
    """Prints indented JSON on standard output; NaN is an error."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Prints a table with its first column aligned left, the others right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip())
