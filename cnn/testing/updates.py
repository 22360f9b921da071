"""Cases of the optimizers' updates, in place.

Each result has a few roundings, counted on magnitudes: where a difference loses digits, the bound is relative to its
operands.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.testing.case import Arrays, Case
from cnn.words import counted

LR, MOMENTUM, RHO, BETA1, BETA2, EPSILON = 0.05, 0.9, 0.95, 0.9, 0.999, 1e-8


def make_state(squares: tuple[str, ...], others: tuple[str, ...], shape: tuple[int, ...]) -> Any:
    """Makes normal arrays `others` and positive ones `squares`."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        arrays = {name: rng.standard_normal(shape) for name in others}
        arrays |= {name: 0.1 + rng.random(shape) for name in squares}
        return {name: array.astype(dtype) for name, array in arrays.items()}

    return make


def gradient_sizes(inputs: Arrays, decay: float) -> Array:
    """|g| + decay * |w|."""
    sizes: Array = np.abs(inputs["g"]) + decay * np.abs(inputs["w"])
    return sizes


def sgd_case(shape: tuple[int, ...], momentum: float, decay: float, nesterov: bool, outside: bool = False) -> Case:
    """At most six roundings per element in the velocity, and two more in the weight."""
    inner, outer = (1.0, LR) if outside else (LR, 1.0)

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        a = arrays
        backend.sgd_update(
            *(a["w"], a["g"], a["velocity"], scratch),
            lr=LR,
            momentum=momentum,
            decay=decay,
            nesterov=nesterov,
            outside=outside,
        )

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        step = momentum * np.abs(inputs["velocity"]) + inner * gradient_sizes(inputs, decay)
        return {"velocity": 6 * step, "w": 2 * np.abs(inputs["w"]) + 8 * outer * (1 + momentum) * step}

    name = f"{shape}, momentum {momentum:g}, decay {decay:g}" + (", nesterov" if nesterov else "")
    name += ", rate outside" if outside else ""
    make = make_state((), ("w", "g", "velocity"), shape)
    return Case(name, "sgd_update", make, call, bound, updated=("w", "velocity"))


def rmsprop_case(shape: tuple[int, ...], decay: float) -> Case:
    """The mean square has a relative error, as all its terms are positive except the gradient's own difference."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        a = arrays
        backend.rmsprop_update(*(a["w"], a["g"], a["square"], scratch), lr=LR, rho=RHO, epsilon=EPSILON, decay=decay)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        gradient, square = gradient_sizes(inputs, decay), expected["square"]
        square_size = RHO * inputs["square"] + (1 - RHO) * gradient**2
        step = LR * gradient / (np.sqrt(square) + EPSILON) * square_size / square
        return {"square": 8 * square_size, "w": 2 * np.abs(inputs["w"]) + 16 * step}

    make = make_state(("square",), ("w", "g"), shape)
    return Case(f"{shape}, decay {decay:g}", "rmsprop_update", make, call, bound, updated=("w", "square"))


def adam_case(shape: tuple[int, ...], decay: float, time: int) -> Case:
    """As RMSprop, also with a mean of the gradient; 1 - beta and the corrections must be computed in float64."""

    def call(time: int, backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        a = arrays
        backend.adam_update(
            *(a["w"], a["g"], a["first"], a["second"], scratch),
            lr=LR,
            beta1=BETA1,
            beta2=BETA2,
            epsilon=EPSILON,
            decay=decay,
            time=time,
        )

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        gradient, second = gradient_sizes(inputs, decay), expected["second"]
        first_size = BETA1 * np.abs(inputs["first"]) + (1 - BETA1) * gradient
        second_size = BETA2 * inputs["second"] + (1 - BETA2) * gradient**2
        rate = LR / (1 - BETA1**time)
        step = rate * first_size / (np.sqrt(second / (1 - BETA2**time)) + EPSILON) * second_size / second
        return {"first": 8 * first_size, "second": 8 * second_size, "w": 2 * np.abs(inputs["w"]) + 16 * step}

    make = make_state(("second",), ("w", "g", "first"), shape)
    name, updated = f"{shape}, decay {decay:g}, step {time}", ("w", "first", "second")
    return Case(name, "adam_update", make, partial(call, time), bound, updated=updated)


def squared_norm_case(count: int) -> Case:
    """A sum of positive numbers: in blocks, a number is in no more than 32 additions and is squared once."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> tuple[float, int]:
        return backend.squared_norm(arrays["g"]), 0

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        return {"loss": 33 * expected["loss"], "correct": np.zeros(())}

    return Case(f"{counted(count, 'number')}", "squared_norm", make_state((), ("g",), (count,)), call, bound)


def update_cases() -> list[Case]:
    """With and without momentum, decay and Nesterov; early and late steps; a vector and a filter."""
    cases: list[Case] = []
    for shape in ((7,), (3, 3, 4, 6)):
        for momentum, decay, nesterov in ((0.0, 0.0, False), (MOMENTUM, 0.01, False), (MOMENTUM, 0.01, True)):
            cases.append(sgd_case(shape, momentum, decay, nesterov))
        cases += [sgd_case(shape, MOMENTUM, 0.01, nesterov, outside=True) for nesterov in (False, True)]
        cases += [rmsprop_case(shape, 0.0), rmsprop_case(shape, 0.01)]
        cases += [adam_case(shape, 0.0, 1), adam_case(shape, 0.01, 3), adam_case(shape, 0.0, 1000)]
    # Whole blocks of the kernel's, parts of them, and enough for several threads.
    cases += [squared_norm_case(count) for count in (1, 4095, 4099, 40_000)]
    return cases
