"""Checks a backend's contract: correct numbers, unchanged inputs, no state, threads, errors instead of crashes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn import registry
from cnn.arrays import Array, Buffers, Shape
from cnn.backend import Backend
from cnn.errors import ShapeError
from cnn.ops.input import Changes, change
from cnn.testing.case import Case
from cnn.testing.cases import CASES
from cnn.testing.comparison import ContractViolation, compare
from cnn.testing.concurrency import check_threads


@dataclass
class Report:
    """How many runs a check made, and each operation's largest error relative to its bound (1 is the limit)."""

    backend: str
    runs: int = 0
    worst: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.backend}: {self.runs} runs within the contract; largest error / bound:"]
        return "\n".join([*lines, *(f"  {name:24} {worst:.3f}" for name, worst in sorted(self.worst.items()))])


class PoisonedBuffers(Buffers):
    """Buffers that are filled with NaN, or the largest integer, when first used after `poison`."""

    def __init__(self, backend: Backend, dtype: npt.DTypeLike) -> None:
        super().__init__(backend, dtype)
        self._backend = backend
        self._clean: set[str] = set()

    def poison(self) -> None:
        """Makes every buffer be filled again when it is next requested."""
        self._clean.clear()

    def get(self, name: str, shape: Shape, dtype: npt.DTypeLike | None = None) -> Array:
        before = self._flat.get(name)
        array = super().get(name, shape, dtype)
        flat = self._flat[name]
        if name not in self._clean or flat is not before:
            self._clean.add(name)
            rubbish: Any = np.nan if flat.dtype.kind == "f" else np.bitwise_not(np.zeros((), flat.dtype))
            self._backend.copy(np.full(flat.shape, rubbish, flat.dtype), flat)
        return array


def check_backend(backend: Backend | str, cases: Iterable[Case] = CASES, *, seed: int = 0) -> Report:
    """Runs every case in each of the backend's types, then the checks of memory, errors and threads.

    Raises ContractViolation with the case, the type, the element, its value, the expected value and the bound;
    UsageError or BackendUnavailable if the named backend is unknown or cannot run.
    """
    chosen = list(cases)
    backend = registry.create(backend) if isinstance(backend, str) else backend
    report = Report(backend.name)
    check_memory(backend)
    check_input(backend)
    check_errors(backend)
    for dtype in backend.dtypes:
        for case in chosen:
            if case.only_float32 and np.dtype(dtype) != np.float32:
                continue
            check_case(backend, case, dtype, report, seed)
    check_threads(backend, chosen, seed)
    return report


def check_case(backend: Backend, case: Case, dtype: npt.DTypeLike, report: Report | None = None, seed: int = 0) -> None:
    """Checks one case in one type: correct numbers, unchanged inputs, and the same bytes from a second run."""
    where = f"{backend.name}: {case.operation} ({case.name}) in {np.dtype(dtype)}"
    inputs = case.make(np.random.default_rng(seed), dtype)
    expected = case.expected(inputs)
    allowed = case.allowed(inputs, expected, dtype)
    scratch = PoisonedBuffers(backend, dtype)
    bound = case.bind(backend, inputs, scratch)
    runs = []
    for _ in range(2):
        bound.reset()
        scratch.poison()
        bound.run()
        runs.append(bound.results())
        worst = compare(where, runs[-1], expected, allowed)
        changed = bound.changed()
        if changed:
            raise ContractViolation(f"{where}: the input {', '.join(changed)} was changed; only `out` may be.")
    for name, first in runs[0].items():
        if first.tobytes() != runs[1][name].tobytes():
            raise ContractViolation(f"{where}: {name} differs from one run to the next on the same inputs.")
    if report is not None:
        report.runs += 1
        report.worst[case.operation] = max(worst, report.worst.get(case.operation, 0.0))


def check_memory(backend: Backend) -> None:
    """Checks that arrays are copied in and out unchanged, that zeros are zero, and that NaN and infinity are found."""
    for dtype in backend.dtypes:
        host = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
        where = f"{backend.name} in {host.dtype}"
        array = backend.asarray(host, dtype)
        kept = host.copy()
        host += 1
        _require(_same(backend.to_numpy(array), kept), f"{where}: asarray does not copy, or changes the numbers.")
        backend.to_numpy(array)[...] = 0
        _require(_same(backend.to_numpy(array), kept), f"{where}: to_numpy does not copy.")
        _require(_same(backend.to_numpy(backend.zeros((2, 3), dtype)), np.zeros((2, 3), dtype)), f"{where}: zeros.")
        other = backend.empty((3, 5), dtype)
        _require(other.shape == (3, 5) and other.dtype == host.dtype, f"{where}: empty gives {other.shape}.")
        backend.copy(kept, other)
        _require(_same(backend.to_numpy(other), kept), f"{where}: copy changes the numbers.")
        for value, finite in ((0.0, True), (np.nan, False), (np.inf, False), (-np.inf, False)):
            kept[1, 2] = value
            said = backend.all_finite(backend.asarray(kept, dtype))
            _require(said is finite, f"{where}: all_finite says {said} of an array that holds {value}.")


def check_input(backend: Backend) -> None:
    """Checks that load_batch gathers, mirrors, shifts and normalises pixels with at most 4 roundings."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 6, 5, 3), np.uint8)
    order = rng.permutation(9)[:7]
    changes = Changes(rng.random(7) < 0.5, rng.integers(0, 5, (7, 2)), 2)
    holed = Changes(holes=rng.integers(0, (6, 5), (7, 2)), hole=3)
    mean, std = rng.random((6, 5, 3)).astype(np.float32), rng.random(3).astype(np.float32) + 1
    for chosen in (Changes(), changes, changes._replace(reflect=True), holed):
        pixels = change(images[order], chosen).astype(np.float64)
        for dtype in backend.dtypes:
            out = backend.asarray(np.full((7, 6, 5, 3), np.nan), dtype)
            backend.load_batch(images, order, chosen, out, scale=1 / 256, mean=mean, std=std)
            expected = (pixels / 256 - mean) / std
            chosen.cut(expected)
            error = np.abs(backend.to_numpy(out) - expected)
            allowed = 4 * float(np.finfo(np.dtype(dtype)).eps) * (pixels / 256 + mean) / std
            _require(bool((error <= allowed).all()), f"{backend.name}: load_batch is {error.max():.3g} off in {dtype}.")


def check_errors(backend: Backend) -> None:
    """Checks that gemm raises ShapeError for arrays that do not fit, instead of accessing memory beyond an array."""
    dtype = np.dtype(backend.dtypes[0])
    others = [np.dtype(each) for each in backend.dtypes[1:]]

    def make(*shape: int, dtype: npt.DTypeLike = dtype) -> Array:
        return backend.zeros(shape, dtype)

    wrong: dict[str, tuple[Array, Array, Array]] = {
        "depths 3 and 4": (make(2, 3), make(4, 5), make(2, 5)),
        "out of other rows": (make(2, 3), make(3, 5), make(3, 5)),
        "out of other columns": (make(2, 3), make(3, 5), make(2, 4)),
        "a vector": (make(3), make(3, 5), make(1, 5)),
        "a stack of matrices": (make(1, 2, 3), make(3, 5), make(2, 5)),
        "a column-major matrix": (make(3, 2).T, make(3, 5), make(2, 5)),
        "every other column": (make(2, 6)[:, ::2], make(3, 5), make(2, 5)),
        "rows backwards": (make(2, 3)[::-1], make(3, 5), make(2, 5)),
        "the same row again and again": (np.broadcast_to(make(1, 3), (2, 3)), make(3, 5), make(2, 5)),
        "column-major out": (make(2, 3), make(3, 5), make(5, 2).T),
        **{f"b in {other}": (make(2, 3), make(3, 5, dtype=other), make(2, 5)) for other in others},
        **{f"out in {other}": (make(2, 3), make(3, 5), make(2, 5, dtype=other)) for other in others},
    }
    for what, (a, b, out) in wrong.items():
        try:
            backend.gemm(a, b, out=out)
        except ShapeError:
            continue
        except Exception as error:
            raise ContractViolation(
                f"{backend.name}: gemm with {what} raises {type(error).__name__}, not ShapeError."
            ) from error
        raise ContractViolation(f"{backend.name}: gemm with {what} raises no ShapeError.")


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractViolation(message)
