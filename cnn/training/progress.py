"""Shows a training run: a bar on a terminal, plain lines elsewhere."""

import sys

from tqdm import tqdm

from cnn.meter import joules_text
from cnn.terminal.printing import is_terminal, output_may_fail, text_lines
from cnn.terminal.progress_bar import progress_bar
from cnn.training.guessing import guessing
from cnn.training.results import EpochResult
from cnn.training.trainer import Callback, Trainer

BAR = "{desc} {percentage:3.0f}%|{bar}| {rate_noinv_fmt}, {remaining} left{postfix}"


def progress(epochs: float) -> "PlainLines":
    """A progress bar if standard error is a terminal, else plain lines; neither ends the run if it cannot print."""
    return Bar(epochs) if is_terminal(sys.stderr) else PlainLines(epochs)


class PlainLines(Callback):
    """Prints one line per epoch on standard output."""

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs
        self._warned = False

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        lines = [epoch_line(result, self.epochs)]
        hint = None if self._warned else guessing(trainer, result)
        if hint:
            self._warned = True
            lines += text_lines(f"note: {hint}")
        self.tell(lines)

    def tell(self, lines: list[str]) -> None:
        """Prints lines, above a bar."""
        with output_may_fail():
            for line in lines:
                self._print(line)

    def _print(self, line: str) -> None:
        print(line, flush=True)


class Bar(PlainLines):
    """One bar over the whole run: images done, images/s, time left, loss and accuracy of the epoch so far."""

    def __init__(self, epochs: float) -> None:
        super().__init__(epochs)
        self.bar: tqdm[None] | None = None

    def on_batch(self, trainer: Trainer) -> None:
        position = trainer.position
        done = position.epoch * len(trainer.train) + position.seen
        loss, accuracy = position.loss / position.seen, position.correct / position.seen
        with output_may_fail("stderr"):
            if self.bar is None:
                total = round(self.epochs * len(trainer.train))
                self.bar = progress_bar(total=total, initial=done, unit=" images", leave=False, bar_format=BAR)
            self.bar.set_description(f"epoch {position.epoch + 1}/{self.epochs:.7g}", refresh=False)
            self.bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}", refresh=False)
            self.bar.update(done - self.bar.n)

    def _print(self, line: str) -> None:
        tqdm.write(line)

    def on_end(self) -> None:
        if self.bar is not None:
            with output_may_fail("stderr"):
                self.bar.close()


def epoch_line(result: EpochResult, epochs: float) -> str:
    """The results of one epoch as a line of text: loss and accuracy, in training and validation, speed and energy."""
    total = f"{epochs:.7g}"
    line = f"epoch {result.epoch:>{len(total)}}/{total}  loss {result.train_loss:.4f} {result.train_accuracy:.1%}"
    if result.val_loss is not None and result.val_accuracy is not None:
        line += f"  validation {result.val_loss:.4f} {result.val_accuracy:.1%}"
    line += f"  {result.images_per_second:,.0f} images/s  {result.seconds:.1f} s"
    # Why there is no energy stands above all epochs.
    return line if result.joules is None else f"{line}  {joules_text(result.joules)} ({result.energy})"
