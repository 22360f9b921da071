"""What every meter's reader has in common: what it counts, joules since it was opened, and why it could not be."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from cnn.errors import CnnError
from cnn.system.machine import Part
from cnn.system.timing import now


class MeterUnavailable(CnnError):
    """A meter that is not there, may not be read, or gave what is no reading."""


class Reader(ABC):
    """Counts the joules of one part of the computer, by whatever program they are used.

    Opening one raises MeterUnavailable with cause and cure; `root` is the folder that holds `proc` and `sys`.
    """

    name: ClassVar[str]
    part: ClassVar[Part]
    period: ClassVar[float | None] = None
    """Seconds from one `sample` to the next; None where none are needed."""
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
        """Gives back what was opened."""


class Integral:
    """Joules from readings of watts, each of which holds until the next."""

    def __init__(self, watts: Callable[[], float]) -> None:
        self._watts = watts
        # One tuple, so that the thread that asks never meets a sample half taken by the thread that samples.
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
        """Joules until now; reads nothing."""
        if self._failure is not None:
            raise MeterUnavailable(str(self._failure))
        return self._joules(now())

    def _joules(self, at: float) -> float:
        then, watts, joules = self._last
        return joules + watts * (at - then)


def meter_text(path: Path, denied: str) -> str:
    """The text of a meter's file. Raises MeterUnavailable, which says `denied` where the file may not be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except PermissionError as error:
        raise MeterUnavailable(f"{path} may not be read by this user: {denied}") from error
    except OSError as error:
        raise MeterUnavailable(f"{path} cannot be read ({error.strerror})") from error


def whole(path: Path, text: str) -> int:
    """The number that `text`, read from `path`, is. Raises MeterUnavailable if it is none."""
    if not text.strip().isdecimal():
        raise MeterUnavailable(f"{path} holds {text.strip()[:40]!r}, no number")
    return int(text)
