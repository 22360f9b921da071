"""The folder of a training run: nobody else writes there, no run overwrites another, and no file of it is lost."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from cnn.errors import CnnError, FileFormatError, UsageError
from cnn.model.modelfile import FILE
from cnn.paths import check_file, parsed_json, reading, shown
from cnn.system.lock import FolderLock
from cnn.system.storage import remove_parts, write_atomically
from cnn.terminal.printing import note
from cnn.training.results import EpochResult
from cnn.training.run_files import CHECKPOINT, FILES, METRICS, SETTINGS, SUMMARY
from cnn.training.trainer import Callback, Trainer

__all__ = ["CHECKPOINT", "METRICS", "SETTINGS", "SUMMARY", "RunFolder", "read_settings", "refuse_a_run"]


class RunFolder(Callback):
    """The folder, held by this process until `release`; as a listener it notices that the folder was removed."""

    def __init__(self, out: str | None, title: str, *, resume: bool) -> None:
        """Takes the folder `out`, or a new one in `runs` named after the time and `title`.

        Raises UsageError if another process holds it or, without `resume`, if there is a run in it; FileFormatError if
        it has results of a run to resume, but no checkpoint.
        """
        self.path = Path(out) if out else _new_folder(Path(f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{title}"))
        self._settings = b""
        self._made = not out or not self.path.exists()
        self._lock = FolderLock(self.path)
        try:
            # Only now, as the run that held it before may have changed what is there.
            if resume:
                self._check_resumable()
            else:
                refuse_a_run(self.path)
            remove_parts(self.path)
        except CnnError:
            self._lock.release()
            raise

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a state to continue from."""
        return (self.path / CHECKPOINT).exists()

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Writes what a resumed run needs to know, and what the run is."""
        self._settings = json.dumps(settings, indent=2).encode()
        write_atomically(self.path / SETTINGS, self._settings)

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        self.complete()

    def complete(self) -> None:
        """Writes the settings again if somebody removed the folder; the run itself writes all other files again."""
        if self._lock.lost or not (self.path / SETTINGS).exists():
            note(f"{self.path} or a file in it was removed during the run; what is missing is written again")
            self._lock.renew()
            write_atomically(self.path / SETTINGS, self._settings)

    def _check_resumable(self) -> None:
        metrics = self.path / METRICS
        done = [name for name in (FILE, SUMMARY) if (self.path / name).exists()]
        if metrics.exists() and metrics.stat().st_size:
            done.append(METRICS)
        if done and not self.has_checkpoint:
            raise FileFormatError(
                f"{self.path} has {', '.join(sorted(done))}, but no {CHECKPOINT} to resume from; restore it, or start "
                "a new run with another --out."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()
        if self._made:
            with suppress(OSError):  # as long as nothing is in it, it was made for nothing
                self.path.rmdir()


def refuse_a_run(folder: Path) -> None:
    """Raises UsageError if there are files of a run in the folder."""
    if any((folder / name).exists() for name in FILES):
        raise UsageError(f"{folder} already holds a run; continue it with --resume, or choose another --out.")


def read_settings(folder: Path) -> dict[str, Any]:
    """The options that a run was started with, without those that had no value. Raises FileFormatError."""
    path = folder / SETTINGS
    with reading(path, "settings file"):
        if not path.exists():
            raise FileFormatError(f"There is no run to resume in {shown(folder)}; correct --out or start a new run.")
        content = path.read_bytes()
    try:
        stored = parsed_json(content)
        options = stored.get("options", stored)  # an older release wrote the options alone
        return {name: value for name, value in options.items() if value is not None}
    except (ValueError, AttributeError, RecursionError) as error:
        raise FileFormatError(
            f"{shown(path)} cannot be read ({error}); there is no run to resume in that folder."
        ) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """The result of the run in a folder. Raises FileFormatError if it cannot be read."""
    path = folder / SUMMARY
    check_file(path, "summary")
    try:
        with reading(path, "summary"):
            found = parsed_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{shown(path)} cannot be read ({error}); restore or remove it.") from error
    if not isinstance(found, dict):
        raise FileFormatError(f"{shown(path)} is not the summary of a run; restore or remove it.")
    return found


def _new_folder(wanted: Path) -> Path:
    """Creates the folder; with -2, -3, ... behind its name if another run has it: a clock may be set back."""
    number, folder = 1, wanted
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
        except OSError as error:
            raise CnnError(
                f"The folder {wanted} cannot be created ({error.strerror or error}); name another one with --out."
            ) from error
        else:
            return folder
