"""Cases of the losses and of the probabilities that they predict.

A softmax has the error of K roundings in its sum, and of the rounding of each difference of scores, which the
exponential turns from absolute into relative error: 2 * max |score| epsilon.
"""

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.testing.case import Arrays, Case, Make, run_reference

LOW, HIGH = -0.8, 0.8


def scored(n: int, k: int, spread: float, ties: bool = False) -> Make:
    """Makes scores (N, K) of deviation `spread`, or integers with ties, and labels (N,)."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        scores = rng.integers(-2, 3, (n, k)) if ties else spread * rng.standard_normal((n, k))
        return {"scores": scores.astype(dtype), "labels": rng.integers(0, k, n)}

    return make


def softmax_cross_entropy_case(
    name: str, make: Make, n: int, k: int, gradient: bool = True, smoothing: float = 0.0
) -> Case:
    """The loss as a sum over the images, the gradient of its mean, and the count, which must be exact."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> tuple[float, int]:
        out = arrays["out"] if gradient else None
        return backend.softmax_cross_entropy(arrays["scores"], arrays["labels"], out, smoothing=smoothing)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        reach = np.abs(inputs["scores"]).max()
        result = {"loss": (n + k + 8) * n * (1 + 2 * reach), "correct": np.zeros(())}
        if gradient:
            # The gradient is (probability - target) / N; these are at least the magnitudes of its two parts.
            parts = softmax_of(inputs["scores"])
            parts[np.arange(n), inputs["labels"]] += 1
            parts += smoothing / k
            result["out"] = (k + 8 + 4 * reach) * parts / n
        return result

    return Case(name, "softmax_cross_entropy", make, call, bound, outputs={"out": (n, k)} if gradient else {})


def squared_error_case(name: str, make: Make, n: int, k: int, gradient: bool = True) -> Case:
    """A difference, its square and its sum over all scores."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> tuple[float, int]:
        out = arrays["out"] if gradient else None
        return backend.squared_error(arrays["scores"], arrays["labels"], out, low=LOW, high=HIGH)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        # A target may be computed in two steps, low and then high - low.
        sizes = np.abs(inputs["scores"]) + abs(LOW) + abs(HIGH - LOW)
        result = {"loss": (n * k + 8) * np.square(sizes).sum() / k, "correct": np.zeros(())}
        if gradient:
            result["out"] = 4 * 2 * sizes / sizes.size
        return result

    return Case(name, "squared_error", make, call, bound, outputs={"out": (n, k)} if gradient else {})


def softmax_case(n: int, k: int, spread: float) -> Case:
    """Probabilities from scores."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.softmax(arrays["scores"], arrays["out"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": (k + 8 + 4 * np.abs(inputs["scores"]).max()) * expected["out"]}

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        return {"scores": (spread * rng.standard_normal((n, k))).astype(dtype)}

    return Case(f"{n}x{k}, deviation {spread:g}", "softmax", make, call, bound, outputs={"out": (n, k)})


def target_probabilities_case(n: int, k: int, spread: float) -> Case:
    """Scores below and above both targets, sometimes all far below, so that the row is raised.

    A score's height has an error of 4 epsilon of its terms, and is then divided by the row's sum.
    """

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        return {"scores": (spread * rng.standard_normal((n, k)) - spread / 2).astype(dtype)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.target_probabilities(arrays["scores"], arrays["out"], low=LOW, high=HIGH)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        scores = inputs["scores"]
        top = scores.max(axis=1, keepdims=True)
        sizes = np.abs(scores) + np.abs(top) + abs(LOW) + abs(HIGH)
        total = (scores + (HIGH - top).clip(0) - LOW).clip(0).sum(axis=1, keepdims=True)
        moved = 4 * (sizes + expected["out"] * sizes.sum(axis=1, keepdims=True)) / total
        return {"out": moved + (k + 4) * expected["out"]}

    return Case(f"{n}x{k}, deviation {spread:g}", "target_probabilities", make, call, bound, outputs={"out": (n, k)})


def softmax_of(scores: Array) -> Array:
    """The softmax of scores (N, K), computed by the reference."""
    case = softmax_case(scores.shape[0], scores.shape[1], spread=1)
    return run_reference(case, {"scores": scores})["out"]


def loss_cases() -> list[Case]:
    """Small and large scores, scores whose exponential overflows, ties, one image, and the loss without a gradient."""
    cases: list[Case] = []
    for loss in (softmax_cross_entropy_case, squared_error_case):
        for n, k, spread in ((1, 2, 1.0), (7, 10, 1.0), (5, 3, 30.0), (4, 10, 300.0)):
            cases.append(loss(f"{n}x{k}, deviation {spread:g}", scored(n, k, spread), n, k))
        cases.append(loss("9x4, ties", scored(9, 4, 1.0, ties=True), 9, 4))
        cases.append(loss("6x5, loss alone", scored(6, 5, 1.0), 6, 5, gradient=False))
    cases += [
        softmax_cross_entropy_case(
            f"{n}x{k}, deviation {spread:g}, smoothing", scored(n, k, spread), n, k, smoothing=0.2
        )
        for n, k, spread in ((7, 10, 1.0), (5, 3, 30.0))
    ]
    cases += [softmax_case(n, k, spread) for n, k, spread in ((1, 1, 1.0), (7, 10, 1.0), (5, 3, 300.0))]
    return [
        *cases,
        target_probabilities_case(1, 2, 1.0),
        target_probabilities_case(7, 10, 1.0),
        target_probabilities_case(5, 10, 0.1),
    ]
