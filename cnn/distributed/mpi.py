"""The world of several processes over MPI; the only module that imports mpi4py, which starts MPI on import."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from time import sleep
from typing import Any, NoReturn, TypeVar

from cnn.arrays import Array
from cnn.distributed.affinity import cpus_text, divide
from cnn.distributed.shard import Slice
from cnn.errors import CnnError, UsageError
from cnn.system.affinity import allowed_cpus, hold_to
from cnn.system.threads import in_words
from cnn.system.timing import now
from cnn.training.world import Pending, World
from cnn.words import counted

try:
    import mpi4py

    mpi4py.rc.thread_level = "serialized"  # our threads call MPI one at a time
    from mpi4py import MPI as mpi  # noqa: N811 - a module
except RuntimeError as problem:
    # mpi4py found no MPI library to load.
    raise ImportError(str(problem)) from problem

T = TypeVar("T")
SPIN, NAP = 1e-3, 5e-5
"""Seconds of polling for a message without a pause, then seconds between polls, as others may need the CPU."""
PROMPT, LATEST = 1.0, 2.0
"""Seconds until a rank that leaves tells those that have not, and that a rank waits until it asks who has left."""
MOST_HOSTS = 8
"""Hosts that a header lists one by one."""


class MpiWorld(World):
    """The processes of a communicator, by default all that were launched."""

    def __init__(self, communicator: Any = mpi.COMM_WORLD) -> None:
        super().__init__()
        self.communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size
        self.library = " ".join(mpi.Get_library_version().split("\n")[0].replace("Version:", "").split()).split(",")[0]
        self.host = mpi.Get_processor_name()
        self._local = communicator.Split_type(mpi.COMM_TYPE_SHARED, key=self.rank)
        self.local_rank, self.local_size = self._local.rank, self._local.size
        self._leaving = communicator.Dup()
        self._notices: list[Any] = []
        allowed = allowed_cpus()
        self._patience = SPIN
        if allowed is not None:
            sets = self._local.allgather(allowed)
            hold_to(divide(sets, self.local_rank))
            self._patience = SPIN if self.local_size <= len(frozenset().union(*sets)) else 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        raise UsageError("A run of several processes cannot be pickled; give it a checkpoint and resume from that.")

    def shard(self, *, alone: bool = False) -> Slice:
        return Slice(self, alone=alone)

    def sum(self, *arrays: Array) -> None:
        pending = self.sums()
        for array in arrays:
            pending.add(array)
        pending.finish()

    def sums(self) -> "MpiSums":
        return MpiSums(self)

    def copy_first(self, *arrays: Array) -> None:
        self.traffic.begin()
        self.wait([self.communicator.Ibcast(array, root=0) for array in arrays])
        self.traffic.end()

    def gather(self, value: T) -> list[T]:
        self._meet(self.communicator)
        found: list[T] = self.communicator.allgather(value)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        result: tuple[T | None, CnnError | None] = (None, None)
        if self.rank == 0:
            try:
                result = (make(), None)
            except CnnError as error:
                result = (None, error)
        self._meet(self.communicator)
        value, failure = self.communicator.bcast(result, root=0)
        if failure is not None:
            failure.everywhere = True
            raise failure
        made: T = value
        return made

    @contextmanager
    def first_here(self) -> Iterator[None]:
        if self.local_rank:
            self._meet(self._local)
        try:
            yield
        finally:
            if not self.local_rank:
                self._meet(self._local)

    @contextmanager
    def together(self) -> Iterator[None]:
        own = None
        try:
            yield
        except CnnError as error:
            own = error
        errors = self.gather(own)
        failed = [rank for rank, each in enumerate(errors) if each is not None]
        first = next((each for each in errors if each is not None), None)
        if first is None:
            return
        if len({str(each) for each in errors}) > 1:
            which = f"rank {failed[0]} on {self.gather(self.host)[failed[0]]}"
            others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            first.args = (f"{which}{others}: {first}",)
        first.everywhere = True
        raise first

    def leave(self, how: str) -> None:
        everyone, started, told = self._leaving.Ibarrier(), now(), False
        while not everyone.Test():
            if not told and now() - started > PROMPT:
                # Whoever is only late takes no notice; whoever waits for this rank must not wait for ever.
                told = True
                for rank in range(self.size):
                    if rank != self.rank:
                        self._notices.append(self._leaving.isend(f"rank {self.rank} {how}", rank))
            sleep(NAP)

    def abort(self, code: int) -> NoReturn:
        abort(code, self.communicator)

    def describe(self, threads: int, cpus: Sequence[int]) -> dict[str, str]:
        every = sorted(self.gather((self.host, self.rank, threads, tuple(cpus))))
        hosts = {host: list(ranks) for host, ranks in groupby(every, key=lambda each: each[0])}
        lines = {"world": f"{counted(self.size, 'rank')} on {counted(len(hosts), 'host')}, {self.library}"}
        for host, ranks in list(hosts.items())[:MOST_HOSTS]:
            lines[f"host {host}"] = "; ".join(
                f"rank {rank}: {in_words(count)}" + (f" on {cpus_text(where)}" if where else "")
                for _, rank, count, where in ranks
            )
        if len(hosts) > MOST_HOSTS:
            lines["hosts"] = f"and {len(hosts) - MOST_HOSTS} more"
        return lines

    def wait(self, requests: list[Any]) -> None:
        """Waits for requests without blocking the CPU for others, so that signals are still handled."""
        started = now()
        while not mpi.Request.Testall(requests):
            if now() - started > self._patience:
                sleep(NAP)
                self._check_all_are_there(started)
        self.traffic.exposed += now() - started

    def _meet(self, communicator: Any) -> None:
        """A barrier that leaves the CPU to processes that are still computing."""
        request, started = communicator.Ibarrier(), now()
        while not request.Test():
            sleep(NAP)
            self._check_all_are_there(started)

    def _check_all_are_there(self, started: float) -> None:
        """Raises CnnError if another rank has left its job while this one has been waiting since `started`."""
        if now() - started > LATEST and self._leaving.Iprobe():
            raise CnnError(
                f"{self._leaving.recv()} while rank {self.rank} was waiting for it; "
                "end the program on every rank at the same place, or raise an exception, which ends all."
            )


def abort(code: int, communicator: Any = mpi.COMM_WORLD) -> NoReturn:
    """Ends all processes of the launch at once with this exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    communicator.Abort(code)
    os._exit(code)


class MpiSums(Pending):
    """Sums in progress in a communicator."""

    def __init__(self, world: MpiWorld) -> None:
        self._world = world
        self._requests: list[Any] = []

    def add(self, array: Array) -> None:
        started = now()
        if not self._requests:
            self._world.traffic.begin()
        self._requests.append(self._world.communicator.Iallreduce(mpi.IN_PLACE, array, op=mpi.SUM))
        self._world.traffic.bytes += array.nbytes
        self._world.traffic.exposed += now() - started

    def poke(self) -> None:
        if self._requests:
            started = now()
            if mpi.Request.Testall(self._requests):
                self._close()
            self._world.traffic.exposed += now() - started

    def finish(self) -> None:
        if self._requests:
            self._world.wait(self._requests)
            self._close()

    def _close(self) -> None:
        self._requests = []
        self._world.traffic.end()
