"""Runs a program as one of several processes, so that whatever fails in one ends all, with one message."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from cnn.distributed.launch import launched, speaks
from cnn.distributed.world import World, join
from cnn.errors import CnnError

GRACE = 2.0
"""Seconds that a rank which could not join leaves to rank 0, whose end ends all, before it speaks itself."""


@contextmanager
def job(required: bool = False) -> Iterator[World]:
    """The world of this launch, see `join`; an error within the block that only this rank has ends all processes.

    What every rank raises goes on to the caller: rank 0 is the one to tell (`speaks`).
    """
    try:
        world = join(required)
    except CnnError as error:
        if not speaks():
            time.sleep(GRACE)
            _say(launched().rank, error)  # type: ignore[union-attr]
        raise
    try:
        yield world
    except BaseException as error:
        if world.size == 1 or isinstance(error, SystemExit) or getattr(error, "everywhere", False):
            raise
        if not isinstance(error, CnnError | KeyboardInterrupt | MemoryError):
            traceback.print_exc()
        _say(world.rank, error)
        world.abort(getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1))


def _say(rank: int, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        reason = "interrupted"
    elif isinstance(error, MemoryError):
        reason = "there is not enough memory; use a smaller batch or data set"
    else:
        reason = str(error) if isinstance(error, CnnError) else f"{type(error).__name__}: {error}"
    print(f"cnn: rank {rank}: {reason}", file=sys.stderr, flush=True)
