"""Chooses the algorithm for a convolution by timing all of them once per shape; stores the times on disk."""

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

ALGORITHMS = ("im2col", "direct", "product", "winograd2", "winograd4")
TRIALS, SECONDS = 5, 0.03
"""Each algorithm runs at least TRIALS times, and all for at least SECONDS: other programs may disturb one run."""


class Chooser:
    """The algorithms of one backend on this processor.

    CNN_ALGORITHM names the one to use wherever it applies ("auto" measures). CNN_DETERMINISTIC=1 takes the default
    without measuring, so that the bits of a result do not depend on a clock.
    """

    def __init__(self, backend: str, folder: Path | None = None) -> None:
        machine = this_machine()
        self._path = (folder or cache_folder()) / "algorithms.json"
        self._owner = f"{backend} on {machine.cpu}"
        self._times: dict[str, dict[str, float]] | None = None

    def choose(self, shape: str, candidates: Mapping[str, Callable[[], None]], default: str) -> str:
        """The name of the fastest of `candidates` for `shape`; a new shape is timed on the current arrays.

        If measuring is off, or the algorithm named by CNN_ALGORITHM does not apply, it is `default`.
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
        """Adds the times of this process to the file; if that cannot be written, they are not stored."""
        stored = _read(self._path)
        others = stored.get(self._owner)
        stored[self._owner] = (others if isinstance(others, dict) else {}) | self.times()
        with suppress(CnnError):
            write_atomically(self._path, json.dumps(stored, indent=1).encode())


def _read(path: Path) -> dict[str, Any]:
    """The stored times; empty if the file is missing or damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _best_times(candidates: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """The shortest time of each, with trials in turns, after a first run that allocates."""
    times = in_turns([*candidates.values()], TRIALS, seconds=SECONDS)
    return {name: own.least for name, own in zip(candidates, times, strict=True)}
