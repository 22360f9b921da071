"""Types for argparse that check the numbers and complete the paths on a command line; argparse prints their errors."""

import argparse
from pathlib import Path

from cnn.paths import check_output

MOST, MOST_SEED, MOST_SIDE = 10**9, 2**63 - 1, 10_000
"""The largest numbers taken: of counts, of numbers that may also be seeds, and of pixels of a side."""


def whole_number(text: str) -> int:
    """A whole number from 1 to MOST."""
    value = _digits(text)
    if value is None or not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1 and at most {MOST:,}")
    return value


def whole_numbers(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    return [whole_number(part) for part in text.split(",")]


def whole_number_or_zero(text: str) -> int:
    """A whole number from 0 to MOST_SEED."""
    value = _digits(text)
    if value is None or value > MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0 and below 2^63")
    return value


def port_number(text: str) -> int:
    """The number of a port, 0 for any that is free."""
    value = _digits(text)
    if value is None or value > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return value


def number(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def numbers(text: str) -> list[float]:
    """Finite numbers, separated by commas."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [float("nan")]
    if not all(abs(value) < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers separated by commas")
    return values


def image_size(text: str) -> tuple[int, int]:
    """Height and width as HxW, such as 64x48; a single number stands for both."""
    sides = [_digits(part) for part in text.lower().split("x")]
    if len(sides) not in (1, 2) or not all(side and side <= MOST_SIDE for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 64x48, in pixels from 1 to {MOST_SIDE:,}")
    return int(sides[0] or 0), int(sides[-1] or 0)


def share(text: str) -> float:
    """A number of at least 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0 and below 1")
    return value


def output_file(text: str) -> Path:
    """The path of a file that can be written; raises CnnError for another."""
    path = expanded(text)
    check_output(path)
    return path


def _digits(text: str) -> int | None:
    """The number in decimal digits, None for other texts and for more digits than any number here has."""
    return int(text) if text.isdecimal() and len(text) <= 20 else None


def expanded(text: str) -> Path:
    """A path; ~ at its start is the home folder, which shells leave in --out=~/x and TOML files always do."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} has no home folder to start from; give the whole path") from error


def expanded_text(text: str) -> str:
    """`expanded` as text; what does not start with ~ stays as it is."""
    return str(expanded(text)) if text.startswith("~") else text
