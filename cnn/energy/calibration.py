"""What `cnn calibrate` measures of this machine for one backend and thread count, and the file that keeps it.

SGEMM over the shapes that convolutions have, the STREAM triad and the overhead of a call describe the machine as the
catalogue describes a device. For what the roofline leaves out there is also a law for each kind of task, fitted to the
layers of networks drawn at random, run as the backend runs them (direct and Winograd convolution included).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import inf, log, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import lsq_linear

from cnn.arithmetic import Sizes
from cnn.arrays import Buffers
from cnn.backend import Backend
from cnn.compiled.stream import triad_bytes_per_second
from cnn.config import settle
from cnn.cost import count
from cnn.energy.law import Law, Point, from_table, to_table
from cnn.energy.probes import Probe, probes
from cnn.energy.tasks import SIZES, tasks
from cnn.errors import CnnError, UsageError
from cnn.measure.benchmark import random_batch
from cnn.measure.profiler import LayerPass, least_times
from cnn.precision import FLOAT32, chosen
from cnn.system.cache import cache_folder, keep, read_trusted, tell_once
from cnn.system.lock import FolderLock
from cnn.system.machine import this_machine
from cnn.system.threads import in_words, limit_threads
from cnn.system.timing import series

MINUTES = "3 to 9 minutes"
"""How long it takes on an idle machine of two cores, for one backend and number of threads."""
VERSION = 2
"""Of the file and of what its laws depend on."""
PASSES = 5
"""How often all probes are measured: a disturbance of one pass has ended by another."""
LEAST_RUNS, MOST_RUNS, SECONDS = 3, 20, 0.06
"""Runs of a probe in a pass: as many as take SECONDS, within bounds."""
PRODUCT_RUNS, CALL_RUNS = 12, 200
"""Runs of each product of SGEMM, and of the smallest product."""

SGEMM = [
    Sizes(m, n, k)
    for m in (64, 1024, 8192)
    for n, k in ((16, 25), (20, 64), (32, 75), (64, 147), (50, 500), (64, 576), (128, 1152), (256, 2304), (500, 800))
] + [Sizes(1024, 1024, 1024), Sizes(2048, 2048, 512)]


class Place(NamedTuple):
    """Where a measured task was: its law, its probe, whether the probe was trained, and its layer and direction."""

    law: str
    probe: str
    training: bool
    layer: LayerPass


@dataclass(frozen=True)
class Calibration:
    """One backend on this machine: rates in FLOP/s and bytes/s, times in seconds, watts where the user gave them.

    All of it is of one precision: `sgemm_rate` is the peak of products in it, and the laws are of networks in it.
    `half` is the length of a side at which a product reaches half its rate, as in `cnn.energy.model`. `step_spread` is
    the standard deviation of the logarithm of a step's time that the laws' own deviations do not explain.
    """

    backend: str
    library: str
    threads: int
    cpu: str
    date: str
    sgemm_rate: float
    sgemm_error: float
    half: float
    triad_rate: float
    call_seconds: float
    products: tuple[tuple[Sizes, float], ...]
    laws: dict[str, Law]
    step_spread: float = 0.0
    idle_watts: float | None = None
    busy_watts: float | None = None
    precision: str = FLOAT32


def measure(backend: Backend, threads: int, progress: Callable[[str], None] = lambda text: None) -> Calibration:
    """Calibrates `backend` at `threads` in the precision asked for, in MINUTES.

    `progress` is told what is being measured.
    """
    backend = backend.in_precision(chosen())
    with limit_threads(threads):
        progress("SGEMM and triad")
        rate, half, error, products = _sgemm(backend)
        triad = triad_bytes_per_second()
        call = _call_seconds(backend)
        least = _least(backend, progress)
        progress("what the laws leave")
        laws = _laws(least)
        spread = step_spread(laws, least)
    return Calibration(
        backend=backend.name,
        library=str(backend.library),
        threads=threads,
        cpu=this_machine().cpu or "unknown",
        date=datetime.now(UTC).date().isoformat(),
        sgemm_rate=rate,
        sgemm_error=error,
        half=half,
        triad_rate=triad,
        call_seconds=call,
        products=tuple(products),
        laws=laws,
        step_spread=spread,
        precision=chosen(),
    )


def _sgemm(backend: Backend) -> tuple[float, float, float, list[tuple[Sizes, float]]]:
    """Peak rate and half-rate side fitted to the products of SGEMM, the fit's error, and the times."""
    rng, scratch = np.random.default_rng(0), Buffers(backend)
    measured = []
    for sizes in SGEMM:
        a, b = (
            backend.asarray(rng.standard_normal(shape), np.float32)
            for shape in ((sizes.m, sizes.k), (sizes.k, sizes.n))
        )
        run = partial(backend.product, a, b, out=backend.empty(sizes[:2], np.float32), scratch=scratch)
        measured.append((sizes, series(run, PRODUCT_RUNS).least))
    return *fit_products(measured), measured


def fit_products(measured: list[tuple[Sizes, float]]) -> tuple[float, float, float]:
    """(rate, half, error) of t = 2 M N K / rate (1 + half (1/M + 1/N + 1/K)), by least squares of relative errors.

    `error` is the root mean square of t / measured - 1. The rate is at least that of the fastest product, and at most
    twice that: disturbed times could suggest any peak, or none.
    """
    terms = np.array([[sizes.flops, sizes.flops * sum(1 / n for n in sizes)] for sizes, _ in measured])
    seconds = np.array([time for _, time in measured])
    scaled = terms / seconds[:, None] / 1e11
    best = scaled[:, 0].max()
    weights = lsq_linear(scaled, np.ones(len(seconds)), ([0.5 / best, 0], [1 / best, np.inf]), method="bvls").x
    error = float(np.sqrt(np.mean((scaled @ weights - 1) ** 2)))
    return float(1e11 / weights[0]), float(weights[1] / weights[0]), error


def _call_seconds(backend: Backend) -> float:
    """Seconds of the smallest product: the overhead of a call."""
    a = backend.asarray(np.ones((1, 1)), np.float32)
    out = backend.empty((1, 1), np.float32)
    return series(partial(backend.product, a, a, out=out, scratch=Buffers(backend)), CALL_RUNS).least


def _least(backend: Backend, progress: Callable[[str], None]) -> dict[Place, Point]:
    """The least time of every task of every probe."""
    drawn = list(probes())
    least: dict[Place, Point] = {}
    for number in range(PASSES):
        for place, probe in enumerate(drawn):
            progress(f"pass {number + 1}: {place} of {len(drawn)} networks")
            for key, point in _timed(probe, backend):
                least[key] = min(point, least.get(key, point), key=lambda point: point.seconds)
    return least


def _laws(least: dict[Place, Point]) -> dict[str, Law]:
    """The law of each kind of task."""
    points: dict[str, list[Point]] = {}
    for (law, *_), point in least.items():
        points.setdefault(law, []).append(point)
    # The fastest task of a kind shows the overhead.
    return {law: Law(min(point.seconds for point in found), tuple(found)) for law, found in points.items()}


def step_spread(laws: dict[str, Law], least: dict[Place, Point]) -> float:
    """What a step's time is off beyond the laws' deviations: each probe's steps predicted from all other probes.

    Errors of a network's layers are partly common to them, which no deviation of a single task shows.
    """
    by_probe: dict[str, dict[Place, Point]] = {}
    for key, point in least.items():
        by_probe.setdefault(key.probe, {})[key] = point
    left = []
    for own in by_probe.values():
        others = {}
        for name in {key.law for key in own}:
            mine = {point for key, point in own.items() if key.law == name}
            others[name] = laws[name].without(mine)
        for training in (True, False):
            step = {key: point for key, point in own.items() if key.training == training}
            if step and all(others[key.law].points for key in step):
                left.append(_left(step, others))
    return sqrt(max(0.0, sum(left) / len(left))) if left else 0.0


def _left(step: dict[Place, Point], laws: dict[str, Law]) -> float:
    """The squared logarithm of predicted over measured time of a step, less the variance that the laws predict."""
    total, off = 0.0, dict.fromkeys(laws, 0.0)
    for key, point in step.items():
        seconds, deviation = laws[key.law].seconds(point.sizes, point.work)
        total += seconds
        off[key.law] += seconds * deviation
    measured = sum(point.seconds for point in step.values())
    return log(total / measured) ** 2 - sum((each / total) ** 2 for each in off.values())


def _timed(probe: Probe, backend: Backend) -> Iterator[tuple[Place, Point]]:
    """The minimum seconds of every task of a probe, in training and in classification, by its law and its place."""
    model = probe.architecture.build(backend=backend)
    images, labels = random_batch(model, probe.batch)
    for training in (True, False):
        run = partial(least_times, model, images, labels, training=training)
        once = sum(run(repeats=1).values())
        times = run(repeats=min(MOST_RUNS, max(LEAST_RUNS, int(SECONDS / once))))
        for task in tasks(count(probe.architecture, probe.batch, training=training)):
            key = Place(task.law, probe.architecture.name, training, task.place)
            yield key, Point(task.sizes, task.work, times[task.place])


def calibration_file() -> Path:
    """Where calibrations are kept."""
    return cache_folder() / "calibration.json"


def save(calibration: Calibration) -> None:
    """Keeps it in the cache, in place of an older one for the same processor, backend, threads and precision."""
    with FolderLock(calibration_file().parent, wait=True):  # another process may be adding its own
        rows = [_to_table(each) for each in [*filter(partial(_differ, calibration), _stored()), calibration]]
        keep(calibration_file(), json.dumps({"version": VERSION, "calibrations": rows}).encode())


def _differ(one: Calibration, other: Calibration) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in ("cpu", "backend", "threads", "precision"))


def load_all() -> list[Calibration]:
    """The calibrations kept for this processor; none, with a line that says why, if the file cannot be used."""
    return [each for each in _stored() if each.cpu == (this_machine().cpu or "unknown")]


def _stored() -> list[Calibration]:
    """The calibrations of every processor that uses this cache."""
    path = calibration_file()
    try:
        table = json.loads(read_trusted(path))
        if table["version"] != VERSION:
            tell_once(f"calibrations are not used: {path} is of another release; 'cnn calibrate' replaces it")
            return []
        return [_from_table(row) for row in table["calibrations"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except CnnError as error:
        tell_once(f"calibrations are not used: {error}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        tell_once(f"calibrations are not used, because {path} cannot be read ({error!r}); 'cnn calibrate' replaces it")
    return []


def find(backend: str, threads: int) -> Calibration | None:
    """The calibration of `backend` at `threads` in the precision asked for, None where there is none."""
    key = (backend, threads, chosen())
    return next((each for each in load_all() if (each.backend, each.threads, each.precision) == key), None)


def load(backend: str, threads: int) -> Calibration:
    """The calibration of `backend` at `threads`. Raises CnnError where there is none."""
    found = find(backend, threads)
    if found is None:
        raise CnnError(
            f"This machine is not calibrated for {backend} at {in_words(threads)}{_in_words(chosen())}; "
            f"run 'cnn calibrate --backend {backend} --threads {threads}{_option(chosen())}'."
        )
    return found


def _in_words(precision: str) -> str:
    return "" if precision == FLOAT32 else f" in {precision}"


def _option(precision: str) -> str:
    return "" if precision == FLOAT32 else f" --precision {precision}"


def _to_table(calibration: Calibration) -> dict[str, Any]:
    laws = {name: to_table(law) for name, law in calibration.laws.items()}
    table = {name: value for name, value in vars(calibration).items() if name not in ("laws", "products")}
    return table | {"products": [[*sizes, time] for sizes, time in calibration.products], "laws": laws}


def _from_table(table: dict[str, Any]) -> Calibration:
    """The calibration that `_to_table` wrote. Raises KeyError, TypeError or ValueError for another table."""
    products = tuple((Sizes(*map(int, row[:3])), float(row[3])) for row in table["products"])
    laws = {name: from_table(law) for name, law in table["laws"].items()}
    if any(len(point.sizes) != SIZES for law in laws.values() for point in law.points):
        raise ValueError(f"the points of a law do not have {SIZES} sizes")
    found = Calibration(**(table | {"products": products, "laws": laws}))
    try:
        settle(found)
    except UsageError as error:
        raise ValueError(str(error)) from error
    above = (found.threads, found.sgemm_rate, found.triad_rate, *(seconds for _, seconds in products))
    least = (found.sgemm_error, found.half, found.call_seconds, found.step_spread, found.idle_watts, found.busy_watts)
    if not all(0 < each < inf for each in above) or not all(0 <= each < inf for each in least if each is not None):
        raise ValueError("a rate or a time in it is impossible")
    return found
