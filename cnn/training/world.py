"""The processes that train together; in this module, a single one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self, TypeVar

from cnn.arrays import Array
from cnn.shard import Shard
from cnn.system.timing import now

T = TypeVar("T")


@dataclass
class Traffic:
    """Communication so far: seconds with any in progress, the seconds of these not hidden by computing, and bytes.

    Seconds include waiting for a slower process. Bytes are those of the arrays that were summed for this process.
    """

    seconds: float = 0.0
    exposed: float = 0.0
    bytes: int = 0
    _under_way: int = field(default=0, repr=False)
    _since: float = field(default=0.0, repr=False)

    def begin(self) -> None:
        """Called when a communication starts."""
        if not self._under_way:
            self._since = now()
        self._under_way += 1

    def end(self) -> None:
        """Called when a communication ends, once for each `begin`."""
        self._under_way -= 1
        if not self._under_way:
            self.seconds += now() - self._since

    @property
    def hidden(self) -> float:
        """Seconds of communication during which this process computed."""
        return self.seconds - self.exposed


class Pending(ABC):
    """Sums in progress."""

    @abstractmethod
    def add(self, array: Array) -> None:
        """Starts to sum an array over the processes, in place; leave it alone until `finish`."""

    @abstractmethod
    def poke(self) -> None:
        """Lets sums in progress advance: most MPI libraries work only while they are called."""

    @abstractmethod
    def finish(self) -> None:
        """Waits until all sums are done."""


class World:
    """A single process, whose methods return at once. `cnn.distributed.mpi` has the world of several processes.

    Local ranks are those on the same host. All processes must call a method that communicates, in the same order.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def __init__(self) -> None:
        self.traffic = Traffic()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # the processes are not copied with a run

    def shard(self, *, alone: bool = False) -> Shard:
        """The part of every batch that this process computes; with `alone`, batch statistics cover only its images."""
        return Shard()

    def sum(self, *arrays: Array) -> None:
        """Sums each array over the processes, in place; all get the same bytes."""

    def sums(self) -> Pending | None:
        """For sums that run in parallel with other work; None if there is nothing to sum."""
        return None

    def copy_first(self, *arrays: Array) -> None:
        """Overwrites each array with that of rank 0."""

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of their ranks."""
        return [value]

    def from_first(self, make: Callable[[], T]) -> T:
        """The result of `make` on rank 0, for all; if it raises a CnnError, all raise it, with `everywhere` set."""
        return make()

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """One process of each host enters the block first; the others enter when it has left."""
        yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """A CnnError of any process within the block is raised by all at its end, with `everywhere` set.

        Communication inside the block must be reached by all: nothing before it may fail on one process only.
        """
        yield

    def leave(self, how: str) -> None:
        """Waits until every process leaves; `how` is what one that waits for this one says, and raises as CnnError."""

    def abort(self, code: int) -> NoReturn:
        """Ends all processes at once with this exit code."""
        raise SystemExit(code)

    def describe(self, threads: int, cpus: Sequence[int]) -> dict[str, str]:
        """Header lines by title: ranks and hosts, with the threads and CPUs of each; empty for a single process."""
        return {}
