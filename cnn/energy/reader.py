"""What all readers of meters share: what they count, their joules since they were opened, and why they are missing."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from cnn.errors import CnnError
from cnn.system.machine import Part
from cnn.system.timing import now


class MeterUnavailable(CnnError):
    """A meter that does not exist, may not be read, or gave something that is not a reading."""


class Reader(ABC):
    """Counts the joules of one part of the computer, whichever program uses them.

    Opening one raises MeterUnavailable with cause and cure; `root` is the folder that holds `proc` and `sys`.
    """

    name: ClassVar[str]
    part: ClassVar[Part]
    period: ClassVar[float | None] = None
    """Seconds from one `sample` to the next; None if no samples are needed."""
    covers: str
    """What is counted, in the meter's own names."""

    @abstractmethod
    def __init__(self, root: Path = Path("/")) -> None: ...

    @abstractmethod
    def joules(self) -> float:
        """Joules since the reader was opened. Raises MeterUnavailable if the meter has gone."""

    def sample(self) -> None:  # noqa: B027 - not every meter needs it
        """Keeps up with the meter: called every `period` by one thread. Raises MeterUnavailable."""

    def close(self) -> None:  # noqa: B027
        """Releases what was opened."""


class Integral:
    """Joules from readings of watts, each of which holds until the next."""

    def __init__(self, watts: Callable[[], float]) -> None:
        self._watts = watts
        # One tuple, so that one thread never sees a sample that another has only half recorded.
        self._last = (now(), watts(), 0.0)
        self._failure: MeterUnavailable | None = None

    def sample(self) -> None:
        """Reads the watts. Raises MeterUnavailable, and makes `joules` raise it, until they can be read again."""
        try:
            watts = self._watts()
        except MeterUnavailable as error:
            self._failure = error
            raise
        self._failure = None
        at = now()
        self._last = (at, watts, self._joules(at))

    def joules(self) -> float:
        """Joules until now, without a new reading."""
        if self._failure is not None:
            raise MeterUnavailable(str(self._failure))
        return self._joules(now())

    def _joules(self, at: float) -> float:
        then, watts, joules = self._last
        return joules + watts * (at - then)


def meter_text(path: Path, denied: str) -> str:
    """The text of a meter's file. Raises MeterUnavailable, with the cure `denied` if the file may not be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except PermissionError as error:
        raise MeterUnavailable(f"{path} may not be read by this user: {denied}") from error
    except OSError as error:
        raise MeterUnavailable(f"{path} cannot be read ({error.strerror})") from error


def whole(path: Path, text: str) -> int:
    """`text`, which was read from `path`, as a number. Raises MeterUnavailable if it is not a whole number."""
    if not text.strip().isdecimal():
        raise MeterUnavailable(f"{path} holds {text.strip()[:40]!r}, not a number")
    return int(text)
