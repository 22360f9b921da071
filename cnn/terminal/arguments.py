"""What the numbers on a command line must be, as types for argparse, which shows their errors."""

import argparse


def whole_number(text: str) -> int:
    """An argument of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def whole_numbers(text: str) -> list[int]:
    """Arguments of at least 1 with commas between."""
    return [whole_number(part) for part in text.split(",")]


def whole_number_or_zero(text: str) -> int:
    """An argument of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def number(text: str) -> float:
    """An argument above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def share(text: str) -> float:
    """An argument of at least 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0 and below 1")
    return value
