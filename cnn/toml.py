"""Reads TOML files that anybody may have written: tables of plain values, every number finite and in a stated range."""

import json
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnn.errors import FileFormatError, UsageError
from cnn.paths import check_file, reading, shown

MOST_BYTES = 500_000
MOST_DEPTH = 16
MOST = 2**63 - 1
"""Whole numbers lie between this and its opposite, the range that TOML guarantees."""
_LONG_KEY = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){16}")
"""A dotted key of more parts than tables may be nested: tomllib's memory grows with the square of their number."""


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a TOML file. Raises FileFormatError if it is missing or too long, and as `parse_toml` does."""
    check_file(path, "TOML file")
    with reading(path, "TOML file"):
        if path.stat().st_size > MOST_BYTES:
            raise FileFormatError(f"{shown(path)} has more than {MOST_BYTES:,} bytes; give a smaller TOML file.")
        raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{shown(path)} cannot be read as TOML ({error}); correct it.") from error
    return parse_toml(text, shown(path))


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """The table in a TOML text; `origin` names it in errors.

    Raises FileFormatError if it is not TOML or is nested more than MOST_DEPTH deep, UsageError if a number in it is
    infinite, NaN, or beyond MOST.
    """
    if _LONG_KEY.search(text):
        raise FileFormatError(f"{origin} has a key of more than {MOST_DEPTH} parts; use shorter keys.")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileFormatError(f"{origin} cannot be read as TOML ({error}); correct it.") from error
    except ValueError as error:
        # Python refuses to convert numbers of more than 4,300 digits.
        raise UsageError(f"{origin} has a number with too many digits; correct it.") from error
    except RecursionError as error:
        raise FileFormatError(f"{origin} is nested more than {MOST_DEPTH} deep; correct it.") from error
    _check(table, origin)
    return table


def toml_text(value: Any) -> str:
    """A plain value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    return json.dumps(value)


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a table and of the tables in it, by its dotted key."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check(table: dict[str, Any], origin: str) -> None:
    left: list[tuple[str, Any, int]] = [("", table, 0)]
    while left:
        place, value, depth = left.pop()
        if depth > MOST_DEPTH:
            raise FileFormatError(f"{origin} is nested more than {MOST_DEPTH} deep; correct it.")
        if isinstance(value, dict):
            left += [(f"{place}.{key}" if place else key, each, depth + 1) for key, each in value.items()]
        elif isinstance(value, list):
            left += [(f"{place}[{number}]", each, depth + 1) for number, each in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{origin}: {place} is {value}; give a finite number.")
        elif isinstance(value, int) and not -MOST <= value <= MOST:
            raise UsageError(f"{origin}: {place} is beyond {MOST:,}; give a smaller number.")
