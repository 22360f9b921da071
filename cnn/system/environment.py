"""Reads the CNN_ variables by one rule: an empty one counts as not set, and a value that makes no sense is refused."""

import os

from cnn.errors import UsageError

ALGORITHMS = ("im2col", "direct", "product", "winograd2", "winograd4", "amx")

CHOICES = {"CNN_ALGORITHM": ("auto", *ALGORITHMS), "CNN_DETERMINISTIC": ("0", "1")}
"""The values of each variable that has few; the first is the default."""


def variable(name: str) -> str | None:
    """The value of a variable, None if it is not set or empty."""
    return os.environ.get(name) or None


def choice(name: str) -> str:
    """The value of a variable of CHOICES, or its default. Raises UsageError for any other value."""
    value, known = variable(name), CHOICES[name]
    if value is not None and value not in known:
        raise UsageError(f"{name} is {value!r}; set it to {', '.join(known[:-1])} or {known[-1]}, or unset it.")
    return value or known[0]


def count(name: str) -> int | None:
    """The value of a variable that is a number of at least 1, None if it is not set. Raises UsageError."""
    value = variable(name)
    if value is None:
        return None
    # No machine has more of anything, and longer numbers are not even read.
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value)):
        raise UsageError(f"{name} is {value!r}; set it to a whole number of at least 1, or unset it.")
    return int(value)


def check() -> None:
    """Raises UsageError for a value that one of these variables cannot have, whether or not it will be needed."""
    for name in CHOICES:
        choice(name)
    count("CNN_NUM_THREADS")
