"""Ctrl-C and SIGTERM end a training run after its step, with its state saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cnn.training import Trainer

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextmanager
def stop_on_signals(trainer: Trainer) -> Iterator[None]:
    """Within the block the first signal asks the trainer to stop; a second one acts as it did before the block."""
    before = {number: signal.getsignal(number) for number in NAMES}

    def ask(number: int, frame: FrameType | None) -> None:
        trainer.request_stop(NAMES[signal.Signals(number)])
        signal.signal(number, before[signal.Signals(number)])

    for number in NAMES:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
