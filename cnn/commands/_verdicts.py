"""What `cnn info` concludes: what is wrong here, or could be faster, each with its cure."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnn import registry
from cnn.data.dataset import DatasetStatus
from cnn.energy.meters import ReaderStatus
from cnn.errors import CnnError
from cnn.measure.benchmark import BUSY
from cnn.measure.other_work import OtherWork
from cnn.registry import BackendStatus
from cnn.system.cache import cache_folder, distrust
from cnn.system.threads import OPENMP_VARIABLE, VARIABLE, LoadedLibrary, ThreadBudget, in_words, openmp_warning
from cnn.system.timing import in_turns
from cnn.words import counted

SIDE, ROUNDS = 768, 9
"""Of the square matrices whose product is timed, and how often, for each backend."""
NOTICEABLE = 1.1
"""By how much another backend must be faster to be worth a word."""
LOOKED_AT = 0.3
"""Seconds during which other work is looked for."""
OLD_KERNELS = 50e6
"""Bytes of kernels of older releases that are worth a word."""


@dataclass(frozen=True)
class Verdict:
    """One conclusion; `fine` if nothing need be done, else with the cure."""

    fine: bool
    text: str
    cure: str | None = None

    def __str__(self) -> str:
        return f"{'ok' if self.fine else 'look'}: {self.text}" + (f"; {self.cure}" if self.cure else "")


def verdicts(
    backends: Sequence[BackendStatus],
    budget: ThreadBudget,
    libraries: list[LoadedLibrary],
    meters: Sequence[ReaderStatus],
    data: Sequence[DatasetStatus],
) -> list[Verdict]:
    """All conclusions that need no measurement but a look at what else runs."""
    found = [_threads(budget), _openmp(libraries), _busy(), _meters(meters), _data(data), *_cache()]
    if not any(each.library for each in backends):
        found.insert(0, Verdict(False, "no backend is ready", "see above why, and install one of them"))
    return found


def _threads(budget: ThreadBudget) -> Verdict:
    words = f"{in_words(budget.count)} on {counted(budget.affinity, 'CPU')}"
    wanted = {"--threads or " + VARIABLE: budget.requested, OPENMP_VARIABLE: budget.openmp}
    for name, number in wanted.items():
        if number is not None and number > budget.count:
            return Verdict(
                False, f"{name} asks for {number}, but {in_words(budget.count)} is all that may run here", "lower it"
            )
    if budget.openmp is not None and budget.openmp < budget.affinity and budget.requested is None:
        cure = f"unset {OPENMP_VARIABLE}, or set {VARIABLE}, if this process may have all"
        return Verdict(False, f"{words}, as {OPENMP_VARIABLE} is {budget.openmp}", cure)
    return Verdict(True, words)


def _openmp(libraries: list[LoadedLibrary]) -> Verdict:
    warning = openmp_warning(libraries)
    if warning is None:
        return Verdict(True, "no two OpenMP runtimes share this process")
    text, _, cure = warning.rstrip(".").partition("; ")
    return Verdict(False, text, cure)


def _busy() -> Verdict:
    with OtherWork() as others:
        time.sleep(LOOKED_AT)
    if others.share is None:
        return Verdict(True, "whether other work is going on cannot be seen on this system")
    words = f"other work takes {others.share:.0%} of the processors"
    if others.share > BUSY:
        return Verdict(False, words, "wait for it, or what is measured now will be too slow")
    return Verdict(True, words)


def _meters(meters: Sequence[ReaderStatus]) -> Verdict:
    ready = [each.name for each in meters if each.covers]
    if ready:
        return Verdict(True, f"energy is measured by {', '.join(ready)}")
    barred = next((each for each in meters if each.reason and "may not" in each.reason), None)
    if barred is not None:
        return Verdict(False, f"there is an energy meter ({barred.name}) that this user may not read", barred.reason)
    return Verdict(False, "no energy meter is ready", "give `cnn train --watts W`, or run `cnn calibrate`")


def _data(data: Sequence[DatasetStatus]) -> Verdict:
    absent = [each.name for each in data if not each.present and "cnn data get" in each.reason]
    if not absent:
        return Verdict(True, "every data set that can be downloaded is there")
    return Verdict(False, f"not there yet: {', '.join(absent)}", f"`cnn data get {absent[0]}` downloads one")


def _cache() -> list[Verdict]:
    folder = cache_folder()
    doubt = distrust(folder)
    if doubt is not None:
        text, _, cure = doubt.partition("; ")
        return [Verdict(False, f"the cache is not used: {text}", cure)]
    from cnn.compiled.store import STORE

    old = sum(
        path.stat().st_size
        for path in (folder / "kernels").glob("*/*")
        if path.parent != STORE.wanted and path.is_file()
    )
    if old > OLD_KERNELS:
        text = f"the cache holds {old / 1e6:,.0f} MB of kernels of other versions"
        return [Verdict(False, text, f"remove all folders but {STORE.wanted.name} in {folder / 'kernels'}")]
    sizes: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            part = path.relative_to(folder).parts[0]
            sizes[part] = sizes.get(part, 0) + path.stat().st_size / 1e6
    parts = ", ".join(f"{name} {size:,.0f} MB" for name, size in sorted(sizes.items()) if size >= 1)
    return [
        Verdict(True, f"the cache in {folder} has {sum(sizes.values()):,.0f} MB" + (f" ({parts})" if parts else ""))
    ]


def fastest(backends: Sequence[BackendStatus], current: str | None, count: int) -> Verdict:
    """Which backend multiplies fastest with `count` threads, which are in force: takes some seconds."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((SIDE, SIDE), np.float32) for _ in range(2)]
    out = np.empty((SIDE, SIDE), np.float32)
    names = [each.name for each in backends if each.library and each.name != registry.REFERENCE]
    jobs = []
    for name in names:
        try:
            backend = registry.create(name)
        except CnnError:
            continue
        jobs.append((name, lambda backend=backend: backend.gemm(*arrays, out=out)))
    if not jobs:
        return Verdict(False, "no backend could be measured")
    times = in_turns([job for _, job in jobs], ROUNDS, warm_up=2)
    rates = {name: 2e-9 * SIDE**3 / float(np.median(each)) for (name, _), each in zip(jobs, times, strict=True)}
    said = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in sorted(rates.items(), key=lambda pair: -pair[1]))
    best = max(rates, key=lambda name: rates[name])
    words = f"products of {SIDE} x {SIDE} matrices with {in_words(count)}: {said}"
    if current in rates and rates[best] > NOTICEABLE * rates[current]:
        return Verdict(False, words, f"try --backend {best}, or CNN_BACKEND={best}")
    return Verdict(True, words)
