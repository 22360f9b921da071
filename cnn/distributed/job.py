"""Joins the processes of a launch, and runs a program as one of them: a failure in one ends all, with one message."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from cnn.distributed.launch import launched, speaks
from cnn.errors import CnnError, UsageError
from cnn.paths import named, sentence
from cnn.terminal.printing import output_may_fail, tell
from cnn.terminal.visible import visible
from cnn.training.world import World

GRACE, TURN, TURNS = 2.0, 0.1, 50
"""Seconds that a rank waits for rank 0 and for each rank before it to report first, and how many ranks it waits for."""
HEARING = 1.0
"""Seconds left for the launcher to pass on output: Hydra drops what it has not read when a rank aborts."""

SHARED, ROOM = "/dev/shm", 2_000_000
"""Where the MPI libraries of Linux put the messages between the ranks of a host, and the bytes for each rank."""


def join(required: bool = False) -> World:
    """The processes of this launch, each on its own CPUs; a world of one process if there was no launcher.

    Raises UsageError if a launcher is `required` and there was none, CnnError if MPI is missing or does not match the
    launcher.
    """
    launch = launched()
    if launch is None:
        if required:
            raise UsageError("--distributed needs a launcher; start it as: mpiexec -n N cnn train ... --distributed.")
        return World()
    if launch.size != 1:
        _check_room(launch.local_size or 1)
    try:
        from cnn.distributed.mpi import MpiWorld
    except ImportError as error:
        if launch.size == 1 and not required:
            return World()
        raise CnnError(
            f"{launch.launcher} started this as one of several processes, but MPI cannot be loaded ({error}); "
            "pip install 'cnn-blas[mpi]' for every rank."
        ) from error
    world = MpiWorld()
    if launch.size not in (None, world.size):
        raise CnnError(
            f"{launch.launcher} started {launch.size} processes, but {world.library} sees {world.size}; "
            "launch with the mpiexec of that library, or build mpi4py for the launcher's."
        )
    return world if world.size > 1 else World()


def _check_room(ranks: int) -> None:
    """Raises CnnError if the ranks of this host have no room for messages: MPI takes it without asking, and crashes."""
    try:
        system = os.statvfs(SHARED)
    except (OSError, AttributeError):
        return
    free, needed = system.f_bavail * system.f_frsize, ranks * ROOM
    if free < needed:
        raise CnnError(
            f"{SHARED} has only {free / 1e6:.1f} MB free, and MPI needs about {needed / 1e6:.0f} MB there; delete what "
            "is in it, or start the container with a larger one (docker run --shm-size=1g)."
        )


@contextmanager
def job(required: bool = False) -> Iterator[World]:
    """The world of this launch, see `join`; an error within the block on any rank ends all processes.

    Ranks leave the block together; one that leaves while another waits for it is an error too.
    An error that every rank is known to raise is passed on to the caller, and rank 0 reports it (`speaks`).
    """
    try:
        world = join(required)
    except CnnError as error:
        if not speaks():
            _say_in_turn(launched().rank, error)  # type: ignore[union-attr]
        error.everywhere = True
        raise
    try:
        try:
            yield world
        except SystemExit as leaving:
            world.leave(f"ended by sys.exit({leaving.code})")
            raise
        world.leave("left its job")
    except BaseException as error:
        if world.size == 1 or isinstance(error, SystemExit) or getattr(error, "everywhere", False):
            raise
        _say_in_turn(world.rank, error)
        time.sleep(HEARING)
        world.abort(getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1))


def end_launch(error: BaseException) -> None:
    """Ends all processes of a launch because of an error that this one met before it joined them.

    They would wait for it for ever. If rank 0 met it, its caller has reported it.
    """
    launch = launched()
    if launch is None or launch.size == 1 or getattr(error, "everywhere", False):
        return
    try:
        from cnn.distributed.mpi import abort
    except ImportError:
        return
    if not speaks():
        _say_in_turn(launch.rank, error)
    time.sleep(HEARING)
    abort(getattr(error, "exit_code", 1))


def _say_in_turn(rank: int, error: BaseException) -> None:
    """Prints why this rank ends, unless an earlier rank reports its error and ends all while this one waits."""
    if rank:
        time.sleep(GRACE + TURN * min(rank, TURNS))
    if isinstance(error, KeyboardInterrupt):
        reason = "interrupted"
    elif isinstance(error, MemoryError):
        reason = "there is not enough memory; use a smaller batch or data set"
    elif isinstance(error, CnnError):
        reason = str(error)
    elif isinstance(error, OSError):
        reason = sentence(named(error), error, "file or folder")
    else:
        with output_may_fail("stderr"):
            traceback.print_exception(error)
        reason = f"{type(error).__name__}: {error}"
    tell(f"cnn: rank {rank}: {visible(reason, sys.stderr.encoding)}")
