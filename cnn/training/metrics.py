"""The metrics file of a run: one JSON row per epoch, flushed as it is written."""

import json
from pathlib import Path
from typing import Any

from cnn.errors import CnnError, FileFormatError
from cnn.paths import check_file
from cnn.system.storage import write_atomically
from cnn.training.trainer import Callback, EpochResult, Trainer


class MetricsFile(Callback):
    """Appends one row per epoch to a JSONL file."""

    def __init__(self, path: Path, *, done: int = 0) -> None:
        """Keeps the rows of the first `done` epochs, which a resumed run has completed, and drops the others.

        Raises FileFormatError if they cannot be read, CnnError if the file cannot be written.
        """
        self.path = path
        self.rows = read_metrics(path)[:done] if done else []
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        self.rows.append(result.row())
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[-1], allow_nan=False) + "\n")
        except OSError as error:
            raise CnnError(f"{self.path} could not be written ({error.strerror}); free space and resume.") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file. Raises FileFormatError if the file is missing or a row is damaged."""
    check_file(path, "metrics file")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise FileFormatError(
            f"{path} cannot be read as metrics ({error}); restore it or start the run anew."
        ) from error
