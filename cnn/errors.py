"""The errors that a user can meet: each is one sentence with cause and cure, and an exit code for the command."""

from collections.abc import Iterable

LONGEST = 1200
"""Characters of the message of an error."""


class CnnError(Exception):
    """A failure that the user can act on. The command prints it without a traceback and exits with `exit_code`."""

    exit_code = 1
    everywhere = False
    """Whether every process of a distributed run raises it, so that one of them can report it for all."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_cut(message))


class UsageError(CnnError, ValueError):
    """The caller asked for something that does not exist or is impossible: an unknown name, a bad value."""

    exit_code = 2


class ShapeError(UsageError):
    """Shapes, strides or types of arrays do not fit together; the message gives the numbers."""


class BackendUnavailable(CnnError):
    """A backend that was named cannot run here. It is never silently replaced by another one."""


class DataError(CnnError):
    """A data set or image is missing, truncated, corrupt, or not what its name says."""


class FileFormatError(CnnError):
    """A model, checkpoint or configuration file is missing, damaged or of the wrong format."""


class NonFiniteError(CnnError):
    """Training produced NaN or infinity; the message names the layer where it appeared first."""

    everywhere = True


class Interrupted(CnnError):
    """Training was stopped by Ctrl-C or SIGTERM after its checkpoint was written."""

    exit_code = 130
    everywhere = True


def _cut(message: str) -> str:
    """The message without its middle, if it quotes so much that nobody would read it: the cure stands at the end."""
    if len(message) <= LONGEST:
        return message
    return f"{message[: LONGEST // 2]} [...] {message[-LONGEST // 4 :]}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a sentence, separated by commas; beyond `most` it only says how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
