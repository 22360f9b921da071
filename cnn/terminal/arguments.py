"""Types for argparse that check the numbers and complete the paths on a command line; argparse prints their errors."""

import argparse
from pathlib import Path


def whole_number(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole_numbers(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    return [whole_number(part) for part in text.split(",")]


def whole_number_or_zero(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def number(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """A number of at least 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0 and below 1")
    return value


def expanded(text: str) -> Path:
    """A path; ~ at its start is the home folder, which shells leave in --out=~/x and TOML files always do."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} has no home folder to start from; give the whole path") from error


def expanded_text(text: str) -> str:
    """`expanded` as text; what does not start with ~ stays as it is."""
    return str(expanded(text)) if text.startswith("~") else text
