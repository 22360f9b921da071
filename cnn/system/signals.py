"""Lets Ctrl-C, SIGTERM and the end of the terminal end a long run without losing what it has done so far."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):
    NAMES[signal.SIGHUP] = "SIGHUP, the end of its terminal"


_asked = False


def stop_requested() -> bool:
    """Whether a signal has asked the run of `stop_on_signals` to stop, which it has not done yet."""
    return _asked


class Stoppable(Protocol):
    """A run that stops soon after a request."""

    def request_stop(self, reason: str) -> None: ...


@contextmanager
def stop_on_signals(run: Stoppable) -> Iterator[None]:
    """Within the block, the first signal asks the run to stop; a second one acts as it did before the block.

    A signal that is ignored, as SIGHUP under nohup, stays so.
    """
    global _asked
    handlers = {number: signal.getsignal(number) for number in NAMES}
    before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

    def ask(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = True
        run.request_stop(NAMES[signal.Signals(number)])
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        _asked = False
        for number, handler in before.items():
            signal.signal(number, handler)
