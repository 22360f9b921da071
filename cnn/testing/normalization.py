"""Cases of batch normalisation and local response normalisation.

The bounds count the roundings of the textbook formula, each on the largest magnitude it can meet. A variance computed
as the mean of squares minus the square of the mean fails: on inputs with an offset it loses the digits that count.
"""

from itertools import product

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers, Shape
from cnn.backend import Backend
from cnn.convolution import Window
from cnn.testing.case import Arrays, Case, normal, run_reference

ALPHA, BETA, K, EPSILON = 0.3, 0.75, 1.5, 1e-3
RELU = ("", " with relu")


def batch_statistics_case(shape: Shape) -> Case:
    """Inputs around 20 with deviation 1: the mean has the error of a sum of M terms, the variance also its square."""
    channels, count = shape[-1:], int(np.prod(shape[:-1]))

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        return {"x": (20 + rng.standard_normal(shape)).astype(dtype)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.batch_statistics(arrays["x"], arrays["mean"], arrays["variance"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        mean = (count + 2) * np.abs(inputs["x"]).reshape(count, -1).mean(axis=0)
        # An error of e in the mean adds e**2 to the variance: e is 1 epsilon times `mean`, and epsilon at most 2**-23.
        return {"mean": mean, "variance": (count + 4) * expected["variance"] + mean**2 * 2.0**-23}

    return Case(f"{shape}", "batch_statistics", make, call, bound, outputs={"mean": channels, "variance": channels})


def batch_norm_inputs(shape: Shape, rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
    """x with about its own statistics, gamma and beta."""
    x = 0.5 + rng.standard_normal(shape)
    axes = tuple(range(len(shape) - 1))
    gamma, beta = rng.standard_normal((2, shape[-1]))
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    # Away from where the result is 0, because there a relu's gradient jumps.
    normal = (x - mean) / np.sqrt(variance + EPSILON)
    x += np.where(np.abs(normal * gamma + beta) < 1e-3 * np.abs(gamma), 4e-3 * np.sqrt(variance + EPSILON), 0)
    arrays = {"x": x, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    return {name: array.astype(dtype) for name, array in arrays.items()}


def batch_norm_case(shape: Shape, relu: bool) -> Case:
    """A difference, a root, a quotient, a product and a sum; the scale and shift may be combined first."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        return batch_norm_inputs(shape, rng, dtype)

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        names = "x", "mean", "variance", "gamma", "beta", "out"
        backend.batch_norm(*(arrays[name] for name in names), epsilon=EPSILON, relu=relu)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": 8 * (magnitude(inputs) * np.abs(inputs["gamma"]) + np.abs(inputs["beta"]))}

    return Case(f"{shape}{RELU[relu]}", "batch_norm", make, call, bound, outputs={"out": shape})


def batch_norm_sums_case(shape: Shape, relu: bool) -> Case:
    """Two sums of M terms. With relu no element before it is so close to 0 that rounding could change its sign."""
    channels, count = shape[-1:], int(np.prod(shape[:-1]))

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        return batch_norm_inputs(shape, rng, dtype) | {"dy": rng.standard_normal(shape).astype(dtype)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        a = arrays
        inputs = a["x"], a["dy"], a["mean"], a["variance"], a["gamma"], a["beta"]
        backend.batch_norm_sums(*inputs, a["dgamma"], a["dbeta"], scratch, epsilon=EPSILON, relu=relu)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        dgamma, dbeta = magnitude_sums(inputs)
        return {"dgamma": (count + 8) * dgamma, "dbeta": (count + 2) * dbeta}

    outputs = {"dgamma": channels, "dbeta": channels}
    return Case(f"{shape}{RELU[relu]}", "batch_norm_sums", make, call, bound, outputs=outputs)


def batch_norm_gradient_case(shape: Shape, whole: bool, relu: bool) -> Case:
    """A difference of three parts; x is the batch of the statistics, or the half that one of two processes has."""
    rows = int(np.prod(shape[:-1])) * (1 if whole else 2)

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        arrays = batch_norm_inputs(shape, rng, dtype) | {"dy": rng.standard_normal(shape).astype(dtype)}
        sums = run_reference(batch_norm_sums_case(shape, relu), arrays)
        return arrays | {name: (sums[name] * (1 if whole else 1.7)).astype(dtype) for name in ("dgamma", "dbeta")}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        names = "x", "dy", "mean", "variance", "gamma", "beta", "dgamma", "dbeta", "out"
        backend.batch_norm_gradient(*(arrays[name] for name in names), epsilon=EPSILON, rows=rows, relu=relu)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        sizes = {name: np.abs(inputs[name]) for name in ("dy", "dgamma", "dbeta")}
        parts = sizes["dy"] + (sizes["dbeta"] + magnitude(inputs) * sizes["dgamma"]) / rows
        factor = np.abs(inputs["gamma"]) / np.sqrt(inputs["variance"] + EPSILON)
        return {"out": 16 * factor * parts}

    name = f"{shape}{RELU[relu]}{'' if whole else ', half of a batch'}"
    return Case(name, "batch_norm_gradient", make, call, bound, outputs={"out": shape})


def magnitude_sums(inputs: Arrays) -> tuple[Array, Array]:
    """The sums of the absolute terms of dgamma and dbeta, (C,) each."""
    channels = inputs["x"].shape[-1]
    dy, x = np.abs(inputs["dy"]).reshape(-1, channels), magnitude(inputs).reshape(-1, channels)
    return (dy * x).sum(axis=0), dy.sum(axis=0)


def magnitude(inputs: Arrays) -> Array:
    """(|x| + |mean|) / deviation: the magnitudes of the two terms of the normalised x."""
    sizes: Array = np.abs(inputs["x"]) + np.abs(inputs["mean"])
    return sizes / np.sqrt(inputs["variance"] + EPSILON)


def lrn_scale_case(name: str, shape: Shape, size: int, window: Window | None) -> Case:
    """A sum of squares, all of one sign: the error is relative, an epsilon per term and a few more."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.lrn_scale(arrays["x"], arrays["out"], scratch, size=size, window=window, alpha=ALPHA, k=K)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": (terms(size, window) + 4) * expected["out"]}

    return Case(name, "lrn_scale", normal(x=shape), call, bound, outputs={"out": shape})


def lrn_case(shape: Shape, beta: float = BETA) -> Case:
    """A power, with an error of 8 epsilon of its value, and a product."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.lrn(arrays["x"], arrays["scale"], arrays["out"], beta=beta)

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        return {"x": rng.standard_normal(shape).astype(dtype), "scale": (1 + 3 * rng.random(shape)).astype(dtype)}

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": 10 * np.abs(expected["out"])}

    name = f"{shape}" if beta == BETA else f"{shape}, beta {beta}"
    return Case(name, "lrn", make, call, bound, outputs={"out": shape})


def lrn_gradient_case(name: str, shape: Shape, size: int, window: Window | None) -> Case:
    """The direct part, and a sum over all outputs that read the pixel; both bounds use magnitudes."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        x, dy = rng.standard_normal((2, *shape))
        scale = run_reference(lrn_scale_case(name, shape, size, window), {"x": x})["out"]
        arrays = {"x": x, "y": x * scale**-BETA, "dy": dy, "scale": scale}
        return {name: array.astype(dtype) for name, array in arrays.items()}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        a = arrays
        inputs = a["x"], a["y"], a["dy"], a["scale"]
        backend.lrn_gradient(*inputs, a["out"], scratch, size=size, window=window, alpha=ALPHA, beta=BETA)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        sizes = {name: np.abs(x) for name, x in inputs.items()}
        direct = sizes["dy"] * inputs["scale"] ** -BETA
        # With -|dy| all terms but the direct one are positive, because the sum enters with a minus.
        spread = run_reference(case, sizes | {"dy": -sizes["dy"]})["out"] + direct
        return {"out": (terms(size, window) + 12) * (direct + spread)}

    case = Case(name, "lrn_gradient", make, call, bound, outputs={"out": shape})
    return case


def terms(size: int, window: Window | None) -> int:
    """Elements of a neighbourhood."""
    return size if window is None else window.taps


def normalization_cases() -> list[Case]:
    """Few and many rows; across an odd, an even and a too large number of channels; within squares."""
    shapes: tuple[Shape, ...] = ((6, 1), (16, 5), (3, 5, 4, 7))
    cases = [batch_statistics_case(shape) for shape in shapes]
    for shape, relu in product(shapes, (False, True)):
        cases += [batch_norm_case(shape, relu), batch_norm_sums_case(shape, relu)]
        cases += [batch_norm_gradient_case(shape, whole, relu) for whole in (True, False)]
    cases += [*(lrn_case(shape) for shape in shapes), lrn_case((3, 5, 4, 7), beta=0.6)]
    image: Shape = (2, 5, 6, 9)
    for name, size, window in (
        ("across 5", 5, None),
        ("across 4, even", 4, None),
        ("across 2, even", 2, None),
        ("across 12, more than there are", 12, None),
        ("across 1", 1, None),
        ("within 3", 3, Window((5, 6), (3, 3), padding=(1, 1, 1, 1))),
        ("within 5", 5, Window((5, 6), (5, 5), padding=(2, 2, 2, 2))),
    ):
        cases += [lrn_scale_case(name, image, size, window), lrn_gradient_case(name, image, size, window)]
    return cases
