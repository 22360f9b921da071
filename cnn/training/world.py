"""The processes that train together: here one by itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from cnn.arrays import Array
from cnn.shard import Shard
from cnn.system.timing import now

T = TypeVar("T")


@dataclass
class Traffic:
    """What communication took so far: seconds with any under way, those of them spent doing nothing else, and bytes.

    Seconds include the wait for a slower process. Bytes are those of the arrays that this process had summed.
    """

    seconds: float = 0.0
    exposed: float = 0.0
    bytes: int = 0
    _under_way: int = field(default=0, repr=False)
    _since: float = field(default=0.0, repr=False)

    def begin(self) -> None:
        """Some communication starts."""
        if not self._under_way:
            self._since = now()
        self._under_way += 1

    def end(self) -> None:
        """As many end."""
        self._under_way -= 1
        if not self._under_way:
            self.seconds += now() - self._since

    @property
    def hidden(self) -> float:
        """Seconds of communication in which this process computed."""
        return self.seconds - self.exposed


class Pending(ABC):
    """Sums under way."""

    @abstractmethod
    def add(self, array: Array) -> None:
        """Starts to sum an array over the processes, in place; leave it alone until `finish`."""

    @abstractmethod
    def poke(self) -> None:
        """Lets what is under way move on: most MPI libraries work only while they are called."""

    @abstractmethod
    def finish(self) -> None:
        """Waits for all."""


class World:
    """One process by itself; every method gives at once what it has. `cnn.distributed.mpi` has the one of many.

    Local ranks are those on the same host. All processes must call a method that communicates, in the same order.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def __init__(self) -> None:
        self.traffic = Traffic()

    def shard(self, *, alone: bool = False) -> Shard:
        """What this process computes of every batch; with `alone` batch statistics are of its own images."""
        return Shard()

    def sum(self, *arrays: Array) -> None:
        """Sums each array over the processes, in place; all get the same bytes."""

    def sums(self) -> Pending | None:
        """For sums that go on beside other work; None where there is nothing to sum."""
        return None

    def copy_first(self, *arrays: Array) -> None:
        """Overwrites each array with that of rank 0."""

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of their ranks."""
        return [value]

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, given to all; a CnnError that it raises is raised by all, marked as everyone's."""
        return make()

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """Within the block one process of each host goes ahead; the others enter when it has left."""
        yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """A CnnError of any process within the block is raised by all at its end, marked as everyone's.

        What communicates inside must be reached by all: nothing before it may fail on one process only.
        """
        yield

    def abort(self, code: int) -> NoReturn:
        """Ends all processes at once with this exit code."""
        raise SystemExit(code)

    def describe(self, threads: int, cpus: Sequence[int]) -> dict[str, str]:
        """Lines of a header, by title: ranks and hosts, with threads and CPUs of each; none for a single process."""
        return {}
