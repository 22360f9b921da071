"""Chooses the algorithm for a convolution by timing all of them once per shape; stores the times on disk."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from cnn.errors import CnnError
from cnn.system.cache import cache_folder, distrust, keep, read_trusted, tell_once
from cnn.system.environment import choice
from cnn.system.lock import FolderLock
from cnn.system.machine import this_machine
from cnn.system.timing import in_turns
from cnn.terminal.printing import tell

TRIALS, SECONDS = 5, 0.03
"""Each algorithm runs at least TRIALS times, and all for at least SECONDS: other programs may disturb one run."""

COLD_BYTES = 1 << 20
"""Weights of this size have left a core's second-level cache by the next pass over a network."""

CACHE_BYTES = 1 << 26
"""More than the caches that a few cores share."""


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
        self._taken: dict[str, str] = {}
        self._announced = False

    def choose(
        self,
        shape: str,
        candidates: Mapping[str, Callable[[], None]],
        default: str,
        alike: re.Pattern[str] | None = None,
        weights: int = 0,
    ) -> str:
        """The name of the fastest of `candidates` for `shape`; a new shape is timed on the current arrays.

        `alike` matches the shapes that differ in the number of images only, which is its group 1: if one with less
        than twice as many images, or more than half, has been timed, its fastest is taken.
        With `weights` of many bytes, they are timed as if they had to come from memory, as they do within a network.
        If measuring is off, or the algorithm named by CNN_ALGORITHM does not apply, it is `default`.
        Raises UsageError for a value that either variable does not have.
        """
        forced = choice("CNN_ALGORITHM")
        if forced != "auto":
            return forced if forced in candidates else default
        if len(candidates) == 1 or not self.measures:
            return default
        times = self.times()
        if shape not in times or set(times[shape]) != set(candidates):
            near = _near(shape, alike, (known for known in times if set(times[known]) == set(candidates)))
            if near is not None:
                self._taken[shape] = shape = near
            else:
                self._announce()
                times[shape] = _best_times(candidates, cold=weights >= COLD_BYTES)
                self._save()
        return min(times[shape], key=times[shape].__getitem__)

    def measured(self, shape: str) -> tuple[str, dict[str, float]]:
        """The shape, perhaps of another number of images, and the times by which an algorithm was chosen for `shape`.

        Without a choice, no times.
        """
        source = self._taken.get(shape, shape)
        return source, self.times().get(source, {}) if self.measures else {}

    @property
    def measures(self) -> bool:
        """Whether the environment leaves the choice to measuring."""
        return choice("CNN_ALGORITHM") == "auto" and choice("CNN_DETERMINISTIC") != "1"

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            tell("timing algorithms, once per shape")

    def times(self) -> dict[str, dict[str, float]]:
        """Seconds of every algorithm measured so far, by shape."""
        if self._times is None:
            self._times = _read(self._path).get(self._owner, {})
        return self._times

    def _save(self) -> None:
        """Adds the times of this process to the file; if that cannot be written, they are not stored."""
        try:
            with FolderLock(self._path.parent, wait=True):  # another process may be adding its own
                stored = _read(self._path)
                stored[self._owner] = stored.get(self._owner, {}) | self.times()
                keep(self._path, json.dumps(stored, indent=1).encode())
        except CnnError as error:
            if distrust(self._path) is None:  # else reading it has told why
                tell_once(f"the times of algorithms are not kept: {error}")


def _near(shape: str, alike: re.Pattern[str] | None, known: Iterable[str]) -> str | None:
    """The first of the known shapes that differs from `shape` by a factor of images below 2; others come after it."""
    own = alike and alike.fullmatch(shape)
    if not alike or not own:
        return None
    images = int(own[1])
    for each in known:
        found = alike.fullmatch(each)
        if found and images < 2 * int(found[1]) and int(found[1]) < 2 * images:
            return each
    return None


def _read(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The stored times by owner and shape; empty if the file is missing or damaged, or may be another user's."""
    try:
        stored = json.loads(read_trusted(path))
        return {
            owner: {shape: {name: float(time) for name, time in times.items()} for shape, times in shapes.items()}
            for owner, shapes in stored.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, CnnError) as error:
        tell_once(f"algorithms are timed anew: {error}")
    except (ValueError, TypeError, AttributeError, RecursionError):
        tell_once(f"algorithms are timed anew, because {path} is damaged")
    return {}


def _best_times(candidates: Mapping[str, Callable[[], None]], *, cold: bool) -> dict[str, float]:
    """The shortest time of each, with trials in turns, after a first run that allocates.

    If `cold`, nothing is in the caches when a run starts.
    """
    # Reading fills the caches; writing so much at once may go past them.
    others = np.ones(CACHE_BYTES // 4 if cold else 0, np.float32)
    times = in_turns([*candidates.values()], TRIALS, seconds=SECONDS, before=others.max if cold else None)
    return {name: own.least for name, own in zip(candidates, times, strict=True)}
