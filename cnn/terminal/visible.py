"""Shows text that others chose (names of files, classes, networks) as it is, never as commands to the terminal."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that turn the order of letters, bytes of a name that is no UTF-8."""


CODES = {"error": "\033[1;31m", "warning": "\033[33m", "best": "\033[1;32m"}
END = "\033[0m"
"""Colours of ECMA-48: the only commands that this program itself gives a terminal."""

_OWN = re.compile("(" + "|".join(map(re.escape, [*CODES.values(), END])) + ")")


def visible(text: str, encoding: str | None = None) -> str:
    """The text with backslash escapes in place of control characters and of what `encoding` does not have."""
    text = _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def visible_output() -> Iterator[None]:
    """Standard output shows everything that is printed in the block by `visible`."""
    stream = sys.stdout
    if stream is not None:
        sys.stdout = cast(Any, _Visible(stream))
    try:
        yield
    finally:
        sys.stdout = stream


class _Visible:
    """A text stream that passes on to another."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        for k, part in enumerate(_OWN.split(text)):
            own = k % 2 and self._stream.isatty()
            self._stream.write(part if own else visible(part, self._stream.encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
