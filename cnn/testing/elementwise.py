"""Cases of bias, activations, scaling and running means.

Each elementary function may have an error of 8 epsilon of its value: vendors' fast versions promise 4 units in the
last place.
"""

import numpy as np
import numpy.typing as npt

from cnn.arrays import Buffers, Shape
from cnn.backend import Backend
from cnn.ops.elementwise import ACTIVATIONS
from cnn.testing.case import Arrays, Case, exact, linear_case, normal

SHAPES: tuple[Shape, ...] = ((1, 1), (3, 7), (2, 3, 5, 4), (6, 11, 13, 8))


def activation_case(name: str, shape: Shape) -> Case:
    """One activation; relu only selects, and is exact."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation(name, arrays["x"], arrays["out"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": 8 * np.abs(expected["out"])}

    chosen = exact if name == "relu" else bound
    return Case(f"{name} {shape}", "activation", normal(x=shape), call, chosen, outputs={"out": shape})


def activation_in_place_case(name: str, shape: Shape) -> Case:
    """As `activation_case`, with x as `out`."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation(name, arrays["x"], arrays["x"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"x": 8 * np.abs(expected["x"])}

    chosen = exact if name == "relu" else bound
    return Case(f"{name} {shape} in place", "activation", normal(x=shape), call, chosen, updated=("x",))


def activation_gradient_case(name: str, shape: Shape) -> Case:
    """The gradient from the output: 1 - y * y or y - y * y errs by an epsilon of 1, then the product by half of one."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        x = rng.standard_normal(shape)
        y = {"relu": np.maximum(x, 0), "tanh": np.tanh(x), "sigmoid": 1 / (1 + np.exp(-x))}[name]
        return {"y": y.astype(dtype), "dy": rng.standard_normal(shape).astype(dtype)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation_gradient(name, arrays["y"], arrays["dy"], arrays["out"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": 4 * np.abs(inputs["dy"])}

    chosen = exact if name == "relu" else bound
    return Case(f"{name} {shape}", "activation_gradient", make, call, chosen, outputs={"out": shape})


def activation_bias_gradient_case(name: str, shape: Shape) -> Case:
    """`activation_gradient_case`, and the sum of its results over all axes but the last."""
    gradients = activation_gradient_case(name, shape)
    terms = int(np.prod(shape[:-1]))

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation_bias_gradient(name, arrays["y"], arrays["dy"], arrays["out"], arrays["bias"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        rounding = gradients.bound(inputs, {"out": expected["out"]})["out"]
        each = rounding + (terms + 2) * np.abs(expected["out"])
        return {"out": rounding, "bias": each.reshape(-1, shape[-1]).sum(axis=0)}

    outputs = {"out": shape, "bias": shape[-1:]}
    return Case(f"{name} {shape}", "activation_bias_gradient", gradients.make, call, bound, outputs=outputs)


def bias_activation_case(activation: str | None, shape: Shape) -> Case:
    """The sum in place has an error of half an epsilon, which an activation, with a derivative of at most 1, keeps."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.bias_activation(arrays["y"], arrays["bias"], activation)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        rounding = 0 if activation in (None, "relu") else 8 * np.abs(expected["y"])
        return {"y": np.abs(inputs["y"]) + np.abs(inputs["bias"]) + rounding}

    return Case(
        f"{activation} {shape}", "bias_activation", normal(y=shape, bias=shape[-1:]), call, bound, updated=("y",)
    )


def bias_gradient_case(shape: Shape) -> Case:
    """A sum over all axes but the last."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.bias_gradient(arrays["dy"], arrays["out"])

    terms = int(np.prod(shape[:-1]))
    return linear_case(f"{shape}", "bias_gradient", normal(dy=shape), call, shape[-1:], terms=terms)


def scale_case(shape: Shape, factors: Shape) -> Case:
    """A product of two numbers per element."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.scale(arrays["x"], arrays["factors"], arrays["out"])

    return linear_case(f"{shape} by {factors}", "scale", normal(x=shape, factors=factors), call, shape, terms=1)


def add_case(shape: Shape) -> Case:
    """One sum per element, rounded once."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.add(arrays["x"], arrays["out"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": np.abs(expected["out"])}

    return Case(f"{shape}", "add", normal(x=shape, out=shape), call, bound, updated=("out",))


def running_mean_case(shape: Shape) -> Case:
    """Two factors, two products and a sum, each rounded."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.running_mean(arrays["running"], arrays["new"], momentum=0.9)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"running": 4 * (0.9 * np.abs(inputs["running"]) + 0.1 * np.abs(inputs["new"]))}

    make = normal(running=shape, new=shape)
    return Case(f"{shape}", "running_mean", make, call, bound, updated=("running",))


def elementwise_cases() -> list[Case]:
    """Every activation on every shape, and the other operations."""
    makers = (activation_case, activation_in_place_case, activation_gradient_case, activation_bias_gradient_case)
    cases = [make(name, shape) for make in makers for name in ACTIVATIONS for shape in SHAPES]
    cases += [bias_activation_case(name, shape) for name in (None, *ACTIVATIONS) for shape in SHAPES]
    cases += [bias_gradient_case(shape) for shape in SHAPES]
    cases += [scale_case(shape, shape) for shape in SHAPES]
    return [*cases, scale_case((3, 3, 4, 6), (4, 6)), add_case((3, 7)), running_mean_case((11,))]
