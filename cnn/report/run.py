"""A training run as its folder tells it: settings, epochs and result, whatever release wrote them."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from cnn.errors import FileFormatError
from cnn.paths import check_file, parsed_json, reading, shown
from cnn.toml import flat, toml_text
from cnn.training.metrics import read_metrics
from cnn.training.results import EpochResult
from cnn.training.run_files import METRICS, MODEL, SETTINGS, SUMMARY

OLD = "not recorded by the release that wrote the run"


@dataclass(frozen=True)
class Run:
    """What is known of a run: `settings` what it was made of, `options` how to start it again, `result` its summary.

    Each is empty if its file is missing: a run that was killed has no result, one of an old release fewer settings.
    """

    folder: Path
    label: str
    epochs: tuple[EpochResult, ...]
    settings: dict[str, Any]
    options: dict[str, Any]
    result: dict[str, Any]

    @property
    def model_file(self) -> Path | None:
        """The saved model, None if there is none."""
        path = self.folder / MODEL
        return path if path.is_file() else None

    @property
    def model(self) -> str:
        """The name of the network."""
        return str(self.settings.get("model") or self.result.get("model") or "unknown network")

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        known = self.settings.get("dataset") or self.result.get("dataset") or self.options.get("dataset")
        return str(known or "unknown data")

    @property
    def seconds(self) -> float:
        """Of the training steps of all epochs."""
        return sum(each.seconds for each in self.epochs)

    @property
    def joules(self) -> float | None:
        """Of the training steps of all epochs, None if those of an epoch are unknown."""
        known = [each.joules for each in self.epochs if each.joules is not None]
        return sum(known) if known and len(known) == len(self.epochs) else None

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the lowest validation loss, None without validation images."""
        losses = {each.epoch: each.val_loss for each in self.epochs if each.val_loss is not None}
        return min(losses, key=losses.__getitem__) if losses else None

    @property
    def again(self) -> str | None:
        """A command with every option of the run, None if they are not recorded."""
        return command(self.options) if self.options else None


def read_run(folder: Path, label: str | None = None, *, least: int = 1) -> Run:
    """The run in a folder.

    Raises FileFormatError if fewer than `least` epochs have ended, or a file cannot be read.
    """
    with reading(folder, "folder of a run"):
        if not folder.is_dir():
            raise FileFormatError(f"There is no folder {shown(folder)}; name one that cnn train wrote.")
    if not (folder / METRICS).is_file():
        raise FileFormatError(f"{shown(folder)} has no {METRICS}; name a folder that cnn train wrote.")
    epochs = read_metrics(folder / METRICS)
    if len(epochs) < least:
        raise FileFormatError(f"The run in {shown(folder)} has not ended an epoch; report it when it has.")
    stored, result = _table(folder / SETTINGS), _table(folder / SUMMARY)
    settings, options = stored.get("run"), stored.get("options", stored)
    _check_numbers(folder / SETTINGS, settings if isinstance(settings, dict) else {}, {"test_images": math.inf})
    bounds = {"test_accuracy": 1, "tta_test_accuracy": 1, "test_loss": math.inf, "saved_epoch": math.inf}
    _check_numbers(folder / SUMMARY, result, bounds)
    return Run(
        folder,
        label or folder.resolve().name,
        tuple(epochs),
        settings if isinstance(settings, dict) else {},
        {name: value for name, value in options.items() if value is not None} if isinstance(options, dict) else {},
        result,
    )


def _check_numbers(path: Path, table: dict[str, Any], most: dict[str, float]) -> None:
    """Raises FileFormatError unless what the file has of these is a number from 0 to the most that it may be."""
    for name, limit in most.items():
        value = table.get(name)
        if value is not None and not (type(value) in (int, float) and 0 <= value <= min(limit, sys.float_info.max)):
            raise FileFormatError(f"{shown(path)} has {name} {value!r:.50}; restore or remove it.")


def labels(folders: list[Path]) -> list[str]:
    """A name for each folder: its own, or its path where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]


def command(options: dict[str, Any]) -> str:
    """The command line of `cnn train` that gives every option of a settings file."""
    words = ["cnn", "train", *([str(options["dataset"])] if "dataset" in options else [])]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "dataset" or value is None:
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, dict) and name == "recipe":
            words += [word for key, each in flat(value) for word in ("--set", f"{key}={toml_text(each)}")]
        elif isinstance(value, dict):
            words += [word for key, each in value.items() for word in ("--backend-option", f"{key}={each}")]
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return " ".join(map(quote, words))


def _table(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if there is no such file."""
    if not path.exists():
        return {}
    check_file(path, "file of a run")
    try:
        found = parsed_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{shown(path)} cannot be read ({error}); restore or remove it.") from error
    if not isinstance(found, dict):
        raise FileFormatError(f"{shown(path)} holds no table; restore or remove it.")
    return found
