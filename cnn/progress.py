"""Shows a training run: a bar on a terminal, plain lines elsewhere."""

import shutil
import sys
from typing import TextIO

from tqdm import tqdm

from cnn.training import Callback, EpochResult, Trainer


def progress(epochs: int, stream: TextIO | None = None) -> Callback:
    """A bar if `stream` (standard error) is a terminal, else plain lines."""
    stream = sys.stderr if stream is None else stream
    return Bar(epochs, stream) if stream.isatty() else PlainLines(epochs)


class PlainLines(Callback):
    """A line an epoch on standard output."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        print(epoch_line(result, self.epochs), flush=True)


class Bar(Callback):
    """One bar over the whole run: images done, images/s, time left, loss and accuracy of the epoch so far."""

    def __init__(self, epochs: int, stream: TextIO) -> None:
        self.epochs = epochs
        self.stream = stream
        self.bar: tqdm[None] | None = None

    def on_batch(self, trainer: Trainer) -> None:
        position = trainer.position
        done = position.epoch * len(trainer.train) + position.seen
        if self.bar is None:
            # A terminal may say that it is 0 columns wide; tqdm would then show nothing.
            width = shutil.get_terminal_size().columns
            total = self.epochs * len(trainer.train)
            self.bar = tqdm(total=total, initial=done, file=self.stream, unit=" images", leave=False, ncols=width)
        loss, accuracy = position.loss / position.seen, position.correct / position.seen
        self.bar.set_description(f"epoch {position.epoch + 1}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(f"loss {loss:.4f}, accuracy {accuracy:.2%}", refresh=False)
        self.bar.update(done - self.bar.n)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        tqdm.write(epoch_line(result, self.epochs))

    def on_end(self) -> None:
        if self.bar is not None:
            self.bar.close()


def epoch_line(result: EpochResult, epochs: int) -> str:
    """One epoch in words."""
    line = f"epoch {result.epoch:>{len(str(epochs))}}/{epochs}"
    line += f"  loss {result.train_loss:.4f}  accuracy {result.train_accuracy:.2%}"
    if result.val_loss is not None and result.val_accuracy is not None:
        line += f"  validation loss {result.val_loss:.4f}  accuracy {result.val_accuracy:.2%}"
    return f"{line}  {result.images_per_second:,.0f} images/s  {result.seconds:.1f} s"
