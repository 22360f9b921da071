"""Cases of bias, activations, scaling and running means.

Each elementary function may have an error of 8 epsilon of its value: vendors' fast versions promise 4 units in the
last place.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers, Shape
from cnn.backend import Backend
from cnn.ops.elementwise import ACTIVATIONS, FUSED
from cnn.testing.case import Arrays, Case, exact, linear_case, normal

SELECTING = ("relu", "relu6")
"""Activations that compute nothing, but take an element or a constant."""

SHAPES: tuple[Shape, ...] = ((1, 1), (3, 7), (2, 3, 5, 4), (6, 11, 13, 8))


def activation_bound(name: str, x: Array, y: Array) -> Array:
    """8 epsilon of the value; for what multiplies x by a factor within 0 and 1, of x, as the factor errs absolutely."""
    return 8 * np.abs(x if name in ("gelu", "silu", "hard_swish") else y)


def activation_case(name: str, shape: Shape) -> Case:
    """One activation; relu and relu6 only select, and are exact."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation(name, arrays["x"], arrays["out"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": activation_bound(name, inputs["x"], expected["out"])}

    chosen = exact if name in SELECTING else bound
    return Case(f"{name} {shape}", "activation", wide_inputs(shape), call, chosen, outputs={"out": shape})


def activation_in_place_case(name: str, shape: Shape) -> Case:
    """As `activation_case`, with x as `out`."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation(name, arrays["x"], arrays["x"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"x": activation_bound(name, inputs["x"], expected["x"])}

    chosen = exact if name in SELECTING else bound
    return Case(f"{name} {shape} in place", "activation", wide_inputs(shape), call, chosen, updated=("x",))


def slope_case(shape: Shape) -> Case:
    """A leaky relu with a slope of its own: a selection and one product."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation("leaky_relu", arrays["x"], arrays["out"], slope=0.3)
        backend.activation_gradient("leaky_relu", arrays["x"], arrays["dy"], arrays["dx"], slope=0.3)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"out": 2 * np.abs(expected["out"]), "dx": 2 * np.abs(expected["dx"])}

    make = normal(x=shape, dy=shape)
    return Case(
        f"leaky_relu {shape} of slope 0.3", "activation", make, call, bound, outputs={"out": shape, "dx": shape}
    )


def activation_gradient_case(name: str, shape: Shape) -> Case:
    """The gradient of a fused one from its output: 1 - y * y or y - y * y errs by an epsilon of 1, then the product.

    That of another from its input: a few sums and products with |x| as a factor, none above 1 + |x|.
    """

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        x = wide_inputs(shape)(rng, np.float64)["x"]
        outputs = {"relu": np.maximum(x, 0), "tanh": np.tanh(x), "sigmoid": 1 / (1 + np.exp(-x))}
        source = outputs.get(name, x)
        return {"source": source.astype(dtype), "dy": rng.standard_normal(shape).astype(dtype)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation_gradient(name, arrays["source"], arrays["dy"], arrays["out"])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        factor = 4 if name in FUSED else 8 * (1 + np.abs(inputs["source"]))
        return {"out": factor * np.abs(inputs["dy"])}

    chosen = exact if name in SELECTING else bound
    return Case(f"{name} {shape}", "activation_gradient", make, call, chosen, outputs={"out": shape})


def wide_inputs(shape: Shape) -> Callable[[np.random.Generator, npt.DTypeLike], Arrays]:
    """x of deviation 3, so that every piece of every activation is met, and some elements 0."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        x = 3 * rng.standard_normal(shape)
        x.flat[::7] = 0
        return {"x": x.astype(dtype)}

    return make


def activation_bias_gradient_case(name: str, shape: Shape) -> Case:
    """`activation_gradient_case` of a fused one, and the sum of its results over all axes but the last."""
    gradients = activation_gradient_case(name, shape)
    terms = int(np.prod(shape[:-1]))

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.activation_bias_gradient(name, arrays["source"], arrays["dy"], arrays["out"], arrays["bias"])

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


def add_case(activation: str | None, shape: Shape, out: str) -> Case:
    """One sum per element, rounded once, which an activation keeps; `out` is "out", or the input that it replaces."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.add(arrays["x"], arrays["y"], activation, arrays[out])

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        rounding = 0 if activation in (None, "relu") else 8 * np.abs(expected[out])
        return {out: np.abs(inputs["x"]) + np.abs(inputs["y"]) + rounding}

    places = {"outputs": {"out": shape}} if out == "out" else {"updated": (out,)}
    return Case(f"{activation} {shape} to {out}", "add", normal(x=shape, y=shape), call, bound, **places)


def copy_channels_case(shape: Shape, width: int, source: int, target: int, channels: int) -> Case:
    """Some channels of x to others of out; nothing is rounded, and the rest of out stays."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.copy_channels(arrays["x"], arrays["out"], channels=channels, source=source, target=target)

    name = f"{channels} of {shape} from {source} to {target} of {width}"
    make = normal(x=shape, out=(*shape[:-1], width))
    return Case(name, "copy_channels", make, call, exact, updated=("out",))


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
    makers = (activation_case, activation_in_place_case, activation_gradient_case)
    cases = [make(name, shape) for make in makers for name in ACTIVATIONS for shape in SHAPES]
    cases += [activation_bias_gradient_case(name, shape) for name in FUSED for shape in SHAPES]
    cases += [bias_activation_case(name, shape) for name in (None, *FUSED) for shape in SHAPES]
    cases += [add_case(name, shape, "out") for name in (None, *FUSED) for shape in SHAPES]
    cases += [add_case("relu", (3, 7), "x"), add_case(None, (6, 11, 13, 8), "y")]
    cases += [bias_gradient_case(shape) for shape in SHAPES]
    cases += [scale_case(shape, shape) for shape in SHAPES]
    cases += [copy_channels_case((2, 3, 5, 4), 9, 0, 4, 4), copy_channels_case((5, 8), 3, 4, 1, 2)]
    cases += [copy_channels_case((6, 11, 13, 8), 24, 0, 16, 8), slope_case((6, 11, 13, 8))]
    return [*cases, scale_case((3, 3, 4, 6), (4, 6)), running_mean_case((11,))]
