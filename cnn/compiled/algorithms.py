"""Chooses among algorithms for a convolution by timing each once per shape, and remembers the choice on disk."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnn.errors import CnnError, UsageError
from cnn.system.cache import cache_folder
from cnn.system.machine import this_machine
from cnn.system.storage import write_atomically
from cnn.system.timing import in_turns

ALGORITHMS = ("im2col", "direct", "winograd2", "winograd4")
TRIALS, SECONDS = 5, 0.03
"""Each algorithm is timed so often at least, and all of them for so long: something else may run for a moment."""


class Chooser:
    """The algorithms of one backend on this processor.

    CNN_ALGORITHM names the one to use wherever it applies ("auto" measures); CNN_DETERMINISTIC=1 takes the default
    without measuring, so that no clock has a say in the bits of a result.
    """

    def __init__(self, backend: str, folder: Path | None = None) -> None:
        machine = this_machine()
        self._path = (folder or cache_folder()) / "algorithms.json"
        self._owner = f"{backend} on {machine.cpu}"
        self._times: dict[str, dict[str, float]] | None = None

    def choose(self, shape: str, candidates: Mapping[str, Callable[[], None]], default: str) -> str:
        """The name of the fastest of `candidates` for `shape`, timing them on the arrays at hand if it is new.

        Where nothing is measured it is `default`, and where the one that is named does not apply.
        Raises UsageError for a CNN_ALGORITHM that does not exist.
        """
        forced = os.environ.get("CNN_ALGORITHM", "auto")
        if forced != "auto":
            if forced not in ALGORITHMS:
                raise UsageError(f"CNN_ALGORITHM is {forced!r}; set it to auto, {', '.join(ALGORITHMS)}.")
            return forced if forced in candidates else default
        if len(candidates) == 1 or os.environ.get("CNN_DETERMINISTIC") == "1":
            return default
        times = self.times()
        if shape not in times or set(times[shape]) != set(candidates):
            times[shape] = _best_times(candidates)
            self._save()
        return min(times[shape], key=times[shape].__getitem__)

    def times(self) -> dict[str, dict[str, float]]:
        """Seconds of every algorithm measured so far, by shape."""
        if self._times is None:
            stored = _read(self._path).get(self._owner)
            self._times = stored if isinstance(stored, dict) else {}
        return self._times

    def _save(self) -> None:
        """Adds what this process measured to the file; a folder that cannot be written costs only the memory."""
        stored = _read(self._path)
        others = stored.get(self._owner)
        stored[self._owner] = (others if isinstance(others, dict) else {}) | self.times()
        with suppress(CnnError):
            write_atomically(self._path, json.dumps(stored, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    """The stored times; a file that is missing or damaged holds none."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _best_times(candidates: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """The least of some trials each, in turns, after a first run, which allocates."""
    times = in_turns([*candidates.values()], TRIALS, seconds=SECONDS)
    return {name: own.least for name, own in zip(candidates, times, strict=True)}
