"""How long a run will take on this machine, from its own first steps."""

from collections.abc import Callable

from cnn.training.trainer import Callback, Trainer
from cnn.words import counted

SETTLING = 3
"""Steps that are not counted: in these a pass is allocated, recorded and checked."""
LEAST_STEPS, LEAST_SECONDS = 8, 2.0
"""What is timed at least: by fewer steps a single slow one would decide."""


class Expectation(Callback):
    """Times some steps of the run itself and then says once how much training is left; it computes nothing more.

    `tell` gets the sentence. Validation, saving and pauses are not counted. A run that is over before says nothing.
    """

    def __init__(self, epochs: float, tell: Callable[[str], None]) -> None:
        self.epochs = epochs
        self.seconds: float | None = None
        """Of all training steps of the run, those before a resume included; None until it is known."""
        self._tell = tell
        self._settling = SETTLING
        self._steps = self._images = 0
        self._timed = 0.0
        self._before: tuple[int, int, float] | None = None

    def on_batch(self, trainer: Trainer) -> None:
        if self.seconds is not None:
            return
        position = trainer.position
        epoch, seen, seconds = self._before or (position.epoch, 0, 0.0)
        if epoch != position.epoch:
            seen, seconds = 0, 0.0
        self._before = (position.epoch, position.seen, position.seconds)
        if self._settling:
            self._settling -= 1
            return
        self._steps += 1
        self._images += position.seen - seen
        self._timed += position.seconds - seconds
        if self._steps < LEAST_STEPS or self._timed < LEAST_SECONDS:
            return
        left = round(self.epochs * len(trainer.train)) - position.epoch * len(trainer.train) - position.seen
        rate = self._images / self._timed
        self.seconds = sum(each.seconds for each in trainer.results) + position.seconds + max(0, left) / rate
        if left > 0:
            least = "at most " if trainer.patience else ""
            steps = counted(self._steps, "step")
            self._tell(f"{least}{about(left / rate)} of training to go ({rate:,.0f} images/s over {steps})")


def about(seconds: float) -> str:
    """A time in words, as exactly as it can be known beforehand."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"about {counted(max(1, round(seconds)), 'second')}"
    if minutes < 100:
        return f"about {counted(minutes, 'minute')}"
    return f"about {seconds / 3600:.1f} hours"
