"""One operation of a backend on one set of arrays: its inputs, its call, and the allowed error of its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn import registry
from cnn.arrays import Array, Buffers, Shape
from cnn.backend import Backend

Arrays = dict[str, Array]
Make = Callable[[np.random.Generator, npt.DTypeLike], Arrays]
Scores = tuple[float, int] | None
Call = Callable[[Backend, Arrays, Buffers], Scores]


@dataclass(frozen=True)
class Case:
    """An operation, for tests and for benchmarks.

    `make` draws the host inputs; `outputs` gives the shape of each array the operation overwrites; `whole` names those
    of integers (uint8); `updated` names the inputs it changes in place, and no others may change. `bound` takes inputs
    and expected results in float64 and gives each result's allowed error, element by element, in units of the machine
    epsilon of the tested type. `flops` counts a multiply-accumulate as 2 and everything else as 0. `only_float32` is
    for an operation on no other type.
    """

    name: str
    operation: str
    make: Make
    call: Call
    bound: Callable[[Arrays, Arrays], Arrays]
    outputs: Mapping[str, Shape] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    flops: int = 0
    only_float32: bool = False

    def bind(self, backend: Backend, inputs: Arrays, scratch: Buffers | None = None) -> "Bound":
        """The case ready to run on `backend`, with all arrays allocated and the inputs copied in."""
        return Bound(self, backend, inputs, scratch)

    def expected(self, inputs: Arrays) -> Arrays:
        """The results of the reference backend for the inputs in float64."""
        return run_reference(self, inputs)

    def allowed(self, inputs: Arrays, expected: Arrays, dtype: npt.DTypeLike) -> Arrays:
        """The error allowed for each element of each result computed in `dtype`.

        In float64 the reference has errors of the same size, so the bound is doubled. Results that are not exact may
        also lose anything below the type's smallest normal number.
        """
        limits = np.finfo(np.dtype(dtype))
        unit = float(limits.eps) * (2 if limits.dtype == np.float64 else 1)
        bound = self.bound({name: widened(x) for name, x in inputs.items()}, expected)
        return {
            name: np.broadcast_to(value * unit + np.where(value > 0, float(limits.tiny), 0), expected[name].shape)
            for name, value in bound.items()
        }


class Bound:
    """A case on one backend. `run` computes; `results` returns the results in host memory."""

    def __init__(self, case: Case, backend: Backend, inputs: Arrays, scratch: Buffers | None = None) -> None:
        self.case = case
        self.backend = backend
        self.hosts = inputs
        self.dtype = float_type(inputs)
        self.scratch = scratch or Buffers(backend, self.dtype)
        self.arrays = {name: backend.asarray(x, x.dtype) for name, x in inputs.items()}
        self.arrays |= {name: backend.asarray(x, x.dtype) for name, x in poisoned(case, self.dtype).items()}
        self.scores: Scores = None

    def run(self) -> None:
        """Computes once; an array that is updated in place changes with every run."""
        self.scores = self.case.call(self.backend, self.arrays, self.scratch)

    def reset(self) -> None:
        """Restores all arrays: inputs to their first values, outputs to NaN."""
        for name, host in (self.hosts | poisoned(self.case, self.dtype)).items():
            self.backend.copy(host, self.arrays[name])

    def results(self) -> Arrays:
        """Every output and updated array, and the sums that a loss returns as `loss` and `correct`."""
        names = (*self.case.outputs, *self.case.updated)
        return with_scores({name: self.backend.to_numpy(self.arrays[name]) for name in names}, self.scores)

    def changed(self) -> list[str]:
        """The inputs that have changed although the operation must not change them."""
        kept = (name for name in self.hosts if name not in self.case.updated)
        return [n for n in kept if self.backend.to_numpy(self.arrays[n]).tobytes() != self.hosts[n].tobytes()]


def run_reference(case: Case, inputs: Arrays, call: Call | None = None) -> Arrays:
    """The results of the case, or of `call` instead, on the reference backend in float64."""
    reference = registry.create(registry.REFERENCE)
    arrays = {name: widened(x) for name, x in inputs.items()} | poisoned(case, np.float64)
    scores = (call or case.call)(reference, arrays, Buffers(reference, np.float64))
    return with_scores({name: arrays[name] for name in (*case.outputs, *case.updated)}, scores)


def exact(inputs: Arrays, expected: Arrays) -> Arrays:
    """No error is allowed: the operation only selects among its inputs."""
    return {name: np.zeros(x.shape) for name, x in expected.items()}


def linear_case(name: str, operation: str, make: Make, call: Call, out: Shape, *, terms: int, flops: int = 0) -> Case:
    """A case whose `out` is a sum of at most `terms` products or quotients of its inputs.

    The error may be terms + 2 epsilon times the same sum of absolute values, as `products` explains.
    """

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        sums = run_reference(case, {name: np.abs(x) for name, x in inputs.items()})["out"]
        return {"out": (terms + 2) * sums}

    case = Case(name, operation, make, call, bound, outputs={"out": out}, flops=flops)
    return case


def normal(**shapes: Shape) -> Make:
    """Makes arrays of these names and shapes with standard normal elements."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    return make


def poisoned(case: Case, dtype: npt.DTypeLike) -> Arrays:
    """Arrays for the case's outputs, filled with a value that must not remain: NaN, or 255 for integers."""
    return {
        name: np.full(shape, 255, np.uint8) if name in case.whole else np.full(shape, np.nan, dtype)
        for name, shape in case.outputs.items()
    }


def widened(x: Array) -> Array:
    """A copy: of a float array in float64, of any other array in its own type."""
    return x.astype(np.float64 if x.dtype.kind == "f" else x.dtype)


def float_type(arrays: Arrays) -> np.dtype[Any]:
    """The type of the first floating-point array."""
    return next(x.dtype for x in arrays.values() if x.dtype.kind == "f")


def with_scores(results: Arrays, scores: Scores) -> Arrays:
    """The results and the values that a loss returned, as arrays without axes."""
    if scores is None:
        return results
    return results | {"loss": np.array(scores[0]), "correct": np.array(scores[1])}
