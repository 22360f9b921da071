"""The clock of every measurement, and ways to time: one run, runs for some time, several jobs in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter  # noqa: TID251 - this is where the clock is


class Times(list[float]):
    """Seconds of each timed run of one job."""

    @property
    def least(self) -> float:
        """Closest to an undisturbed run: other work on the machine can only add time."""
        return min(self)

    @property
    def median(self) -> float:
        """A typical run."""
        # Takes longer to import than all modules that only read the clock.
        from statistics import median

        return median(self)


@dataclass
class Stopwatch:
    """Seconds counted so far."""

    seconds: float = 0.0


def now() -> float:
    """Seconds since a fixed moment."""
    return perf_counter()


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    started = perf_counter()
    run()
    return perf_counter() - started


def repeat(run: Callable[[], object], times: int) -> None:
    """Calls `run` `times` times: to warm up, or as the argument of `seconds_of`."""
    for _ in range(times):
        run()


def sustained(run: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Calls `run` until `seconds` have passed, at least once; returns the number of runs and the seconds they took."""
    runs, elapsed, started = 0, 0.0, perf_counter()
    while runs == 0 or elapsed < seconds:
        run()
        runs, elapsed = runs + 1, perf_counter() - started
    return runs, elapsed


def in_turns(
    jobs: Sequence[Callable[[], object]],
    trials: int,
    *,
    warm_up: int = 1,
    seconds: float = 0.0,
    before: Callable[[], object] | None = None,
) -> list[Times]:
    """Times jobs in turns, so that a disturbance of the machine affects all of them alike.

    Each runs `warm_up` times untimed, then at least `trials` times, and until all together took `seconds`. `before`
    each timed run comes what is not timed.
    """
    for _ in range(warm_up):
        for run in jobs:
            run()
    times = [Times() for _ in jobs]
    trial, started = 0, perf_counter()
    while trial < trials or perf_counter() - started < seconds:
        for run, own in zip(jobs, times, strict=True):
            if before is not None:
                before()
            own.append(seconds_of(run))
        trial += 1
    return times


def series(run: Callable[[], object], trials: int, *, warm_up: int = 1) -> Times:
    """Times a job by itself: `warm_up` runs untimed, then `trials`."""
    return in_turns([run], trials, warm_up=warm_up)[0]
