"""The curves of a run as TensorBoard's event files, written by the package tensorboardX."""

from pathlib import Path
from typing import Any

from cnn.errors import CnnError
from cnn.training.results import EpochResult
from cnn.training.trainer import Callback, Trainer

CURVES = {
    "loss/training": "train_loss",
    "loss/validation": "val_loss",
    "accuracy/training": "train_accuracy",
    "accuracy/validation": "val_accuracy",
    "learning rate": "learning_rate",
    "images per second": "images_per_second",
    "joules per image": "joules_per_image",
}
"""The curves by name, and the field of an epoch's result that each shows; what is None is left out."""


class TensorBoard(Callback):
    """Adds a point to each curve after each epoch, in event files in `folder`; show them with `tensorboard --logdir`.

    The epochs that a resumed run has behind it are written first. Raises CnnError if tensorboardX is missing or the
    folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise CnnError(
                "TensorBoard's files are written by tensorboardX, which is missing: "
                "pip install 'cnn-blas[tensorboard]'."
            ) from error
        try:
            self._writer: Any = SummaryWriter(str(folder))
        except OSError as error:
            raise CnnError(f"{folder} cannot be written ({error.strerror or error}); name another folder.") from error
        self._written = 0

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        for each in trainer.results:
            if each.epoch > self._written:
                self._add(each)
        self._writer.flush()

    def on_end(self) -> None:
        self._writer.close()

    def _add(self, result: EpochResult) -> None:
        for name, field in CURVES.items():
            value = getattr(result, field)
            if value is not None:
                self._writer.add_scalar(name, value, result.epoch)
        self._written = result.epoch
