"""Finds, by measuring, the threads, batch size and backend options with which a network runs fastest."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from cnn.config import require
from cnn.errors import CnnError, Interrupted
from cnn.measure.benchmark import Job
from cnn.measure.speedup import LUCK, Speedup
from cnn.system.threads import limit_threads
from cnn.system.timing import repeat, sustained
from cnn.terminal.progress_bar import progress_bar
from cnn.words import counted

TURN = 0.1
"""The least seconds that a setting runs in one turn."""

WARM_UP = 2
"""Runs before each turn that are not timed."""

SCREENING = 3
"""Turns after which the slower half of several candidates drops out."""

PASSES = 2
"""The most times that a choice is searched: again if another one has changed meanwhile."""

FRESH = 4
"""Rounds after which the two settings compared are built again."""


@dataclass(frozen=True)
class Setting:
    """What a network runs with."""

    threads: int
    batch_size: int
    options: Mapping[str, Any]

    def value(self, name: str) -> Any:
        """`threads`, `batch_size`, or the option of the backend with that name."""
        return getattr(self, name) if name in ("threads", "batch_size") else self.options[name]

    def changed(self, name: str, value: Any) -> "Setting":
        """The setting with another value."""
        if name in ("threads", "batch_size"):
            return replace(self, **{name: value})
        return replace(self, options={**self.options, name: value})


@dataclass(frozen=True)
class Trial:
    """A value that was tried: its speed, and that speed over the one of the value in force, or why it cannot run.

    Both are on the scale of the last comparison: a value that dropped out is as much slower than the best one as it was
    in the turns that they had in common, so that a machine that was busy for a while cannot make it look faster.
    """

    value: Any
    images_per_second: float | None = None
    ratio: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Finding:
    """The result of one choice: the value before, the best other value that can run, if any, and their comparison."""

    name: str
    before: Any
    best: Any
    comparison: Speedup | None
    trials: tuple[Trial, ...]

    @property
    def value(self) -> Any:
        """The value chosen."""
        return self.best if self.comparison and self.comparison.faster else self.before


class Contender:
    """A setting that is measured, by a job of its own."""

    def __init__(self, setting: Setting, job: Callable[[Setting], Job]) -> None:
        self._threads, self._job = setting.threads, job(setting)

    def turn(self) -> float:
        """Seconds per image, after runs that allocate memory, wake the threads and fill the caches."""
        with limit_threads(self._threads):
            repeat(self._job.run, WARM_UP)
            runs, elapsed = sustained(self._job.run, TURN)
        return elapsed / (runs * self._job.images)


@dataclass
class Tuner:
    """Searches one choice after the other, each from the best setting known.

    Of several candidates the slower half drops out after some turns, until one is left. That one is compared with the
    value in force, and replaces it only if it is faster by more than the noise of the comparison. `job` makes the job
    of a setting, on a backend of its own. Raises UsageError for too few rounds to show a gain.
    """

    job: Callable[[Setting], Job]
    setting: Setting
    candidates: Mapping[str, Sequence[Any]]
    rounds: int = 15
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(
            0.5**self.rounds <= LUCK, f"{counted(self.rounds, 'round')} cannot tell a gain from noise; give at least 6."
        )
        self.start = self.setting
        self._stop_reason: str | None = None

    def request_stop(self, reason: str) -> None:
        """Asks the search to stop after the current turn; may be called from a signal handler."""
        self._stop_reason = reason

    def run(self, on_finding: Callable[[Finding], None] = lambda finding: None) -> Speedup | None:
        """Searches every choice and reports each finding; returns the gain of all together, None if nothing changed.

        Raises Interrupted after `request_stop`, and CnnError if the setting to start from cannot run; `setting` and
        `findings` are then those found so far.
        """
        with progress_bar(total=0, unit=" turns", leave=False) as self._bar:
            pending = set[str]()
            self._await(pending, self.candidates)
            for _ in range(PASSES):
                for name in self.candidates:
                    if name in pending:
                        pending.remove(name)
                        finding = self._search(name)
                        if finding.value != finding.before:
                            self.setting = self.setting.changed(name, finding.value)
                            self._await(pending, set(self.candidates) - {name})
                        self.findings.append(finding)
                        on_finding(finding)
            changes = [finding for finding in self.findings if finding.value != finding.before]
            if len(changes) < 2:
                return changes[0].comparison if changes else None
            self._bar.set_description("all choices")
            return self._compare(self.start, self.setting)

    def _await(self, pending: set[str], names: Iterable[str]) -> None:
        """Adds the names that have other values to try, and their turns to the total of the bar."""
        for name in names:
            count = len(self._others(name))
            if count and name not in pending:
                pending.add(name)
                self._bar.total += 2 * self.rounds
                for _ in range(_halvings(count)):
                    self._bar.total += SCREENING * (1 + count)
                    count = (count + 1) // 2

    def _others(self, name: str) -> list[Any]:
        return [value for value in self.candidates[name] if value != self.setting.value(name)]

    def _search(self, name: str) -> Finding:
        """Screens the other values and compares the best one with that in force."""
        self._bar.set_description(name)
        trials = [Trial(value) for value in self._others(name)]
        left = list(range(len(trials)))
        screenings = list[dict[int, float]]()
        for _ in range(_halvings(len(trials))):
            speeds = self._screen(name, trials, left)
            screenings.append(speeds)
            left = sorted(left, key=lambda place: -speeds[place])[: (len(left) + 1) // 2]
        before = self.setting.value(name)
        if not left:
            return Finding(name, before, before, None, tuple(trials))
        best = trials[left[0]].value
        comparison = self._compare(self.setting, self.setting.changed(name, best))
        for speeds in screenings:
            # A later screening overwrites an earlier one.
            for place, speed in speeds.items():
                if trials[place].reason is not None:
                    continue
                ratio = comparison.ratio * speed / speeds[left[0]]
                trials[place] = Trial(trials[place].value, comparison.before * ratio, ratio)
        trials[left[0]] = Trial(best, comparison.after, comparison.ratio)
        return Finding(name, before, best, comparison, tuple(trials))

    def _screen(self, name: str, trials: list[Trial], left: list[int]) -> dict[int, float]:
        """Measures the trials at the places `left` in turns; returns the speeds, and drops those that cannot run.

        The value in force takes turns too, because it must be able to run.
        """
        seconds: dict[int, list[float]] = {place: [] for place in left}
        for _ in range(SCREENING):
            self._turn(Contender(self.setting, self.job))
            for place in tuple(left):
                value = trials[place].value
                # One at a time: each may hold a process, or all the memory of a card.
                try:
                    seconds[place].append(self._turn(Contender(self.setting.changed(name, value), self.job)))
                except Interrupted:
                    raise
                except (CnnError, MemoryError) as error:
                    left.remove(place)
                    trials[place] = Trial(value, reason=str(error) or "there is not enough memory")
        return {place: 1 / median(seconds[place]) for place in left}

    def _compare(self, before: Setting, after: Setting) -> Speedup:
        """Measures both settings in turns."""
        seconds: list[tuple[float, float]] = []
        while len(seconds) < self.rounds:
            seconds += self._pairs(before, after, min(FRESH, self.rounds - len(seconds)))
        return Speedup.of(seconds)

    def _pairs(self, before: Setting, after: Setting, rounds: int) -> Iterator[tuple[float, float]]:
        """Seconds per image of both, built again: the speed also depends on where arrays and code lie in memory."""
        first, second = Contender(before, self.job), Contender(after, self.job)
        for number in range(rounds):
            # Neither setting always comes second.
            if number % 2:
                new, old = self._turn(second), self._turn(first)
            else:
                old, new = self._turn(first), self._turn(second)
            yield old, new

    def _turn(self, contender: Contender) -> float:
        if self._stop_reason is not None:
            raise Interrupted(f"Stopped by {self._stop_reason}")
        self._bar.update()
        return contender.turn()


def _halvings(count: int) -> int:
    """How often the slower half of `count` must drop out until one is left; at least once, as that may not run."""
    return max(1, (count - 1).bit_length())
