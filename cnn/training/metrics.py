"""The metrics file of a run: one JSON row per epoch."""

import json
from pathlib import Path

from cnn.errors import FileFormatError, UsageError
from cnn.meter import UNCOUNTED
from cnn.paths import check_file, parsed_json
from cnn.system.storage import write_atomically
from cnn.training.results import EpochResult
from cnn.training.trainer import Callback, Trainer

SINCE = {"joules": None, "joules_per_image": None, "energy": UNCOUNTED.kind, "energy_source": UNCOUNTED.source}
"""What the rows of older releases lack, with the values that they would have had."""


class MetricsFile(Callback):
    """Writes the rows of a run to a JSONL file, which is always whole: the checkpoint has them, too."""

    def __init__(self, path: Path, trainer: Trainer) -> None:
        """Writes the rows of the epochs done; takes them from the file if the checkpoint is so old that it lacks them.

        Raises FileFormatError if they cannot be read, CnnError if the file cannot be written.
        """
        self.path = path
        if len(trainer.results) < trainer.position.epoch:
            trainer.results = read_metrics(path, trainer.position.epoch)
        self._write(trainer.results)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        self._write(trainer.results)

    def _write(self, results: list[EpochResult]) -> None:
        text = "".join(json.dumps(each.row(), allow_nan=False) + "\n" for each in results)
        write_atomically(self.path, text.encode())


def read_metrics(path: Path, epochs: int | None = None) -> list[EpochResult]:
    """The rows of a metrics file, of the first `epochs`. A last row that a full disk or a kill cut off is left out.

    Raises FileFormatError if the file is missing, a row is damaged or an epoch is missing.
    """
    check_file(path, "metrics file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        results = []
        for number, line in enumerate(lines[:epochs], 1):
            row = parsed_json(line)
            results.append(EpochResult.from_row(SINCE | row if isinstance(row, dict) else row))
            if results[-1].epoch != number:
                raise UsageError(f"row {number} is of epoch {results[-1].epoch}")
        if epochs is not None and len(results) < epochs:
            raise UsageError(f"it has {len(results)} epochs of {epochs}")
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise FileFormatError(
            f"{path} cannot be read as metrics ({error}); restore it or start the run anew."
        ) from error
    return results
