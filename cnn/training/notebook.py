"""A bar for programs and notebooks: whichever of tqdm's the place can show."""

import warnings
from typing import Any

from cnn.terminal.printing import output_may_fail
from cnn.training.results import EpochResult
from cnn.training.trainer import Callback, Trainer

with warnings.catch_warnings():
    # It says that it cannot show a notebook's bar, and then shows another.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


class NotebookBar(Callback):
    """One bar over the whole run, with loss and accuracy; it cannot end the run."""

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs
        self.bar: Any = None

    def on_batch(self, trainer: Trainer) -> None:
        position = trainer.position
        done = position.epoch * len(trainer.train) + position.seen
        with output_may_fail("stderr"):
            if self.bar is None:
                self.bar = tqdm(total=round(self.epochs * len(trainer.train)), unit=" images")
            self.bar.set_postfix_str(
                f"epoch {position.epoch + 1}/{self.epochs:.7g}, loss {position.loss / position.seen:.3f}, "
                f"accuracy {position.correct / position.seen:.1%}",
                refresh=False,
            )
            self.bar.update(done - self.bar.n)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        if result.val_accuracy is not None and self.bar is not None:
            with output_may_fail("stderr"):
                self.bar.set_postfix_str(
                    f"epoch {result.epoch}/{self.epochs:.7g}, loss {result.train_loss:.3f}, accuracy "
                    f"{result.train_accuracy:.1%}, validation {result.val_accuracy:.1%}"
                )

    def on_end(self) -> None:
        if self.bar is not None:
            with output_may_fail("stderr"):
                self.bar.close()
