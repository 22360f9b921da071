"""Cases of maximum and average pooling and their gradients."""

import numpy as np
import numpy.typing as npt

from cnn import registry
from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.convolution import Window
from cnn.testing.case import Arrays, Case, exact, linear_case, normal

WINDOWS = {
    "2/2": Window((6, 8), (2, 2), (2, 2)),
    "2/2, last row and column unread": Window((7, 5), (2, 2), (2, 2)),
    "2/2 ceil": Window((7, 5), (2, 2), (2, 2), ceil=True),
    "3/2 overlapping": Window((7, 9), (3, 3), (2, 2)),
    "3/2 ceil": Window((8, 6), (3, 3), (2, 2), ceil=True),
    "3/2 padded": Window((7, 8), (3, 3), (2, 2), (1, 1, 1, 1)),
    "3/2 padded, ceil": Window((8, 7), (3, 3), (2, 2), (1, 1, 1, 1), ceil=True),
    "3/1 asymmetric padding": Window((5, 6), (3, 3), (1, 1), (0, 2, 1, 0)),
    "3x2/1x2": Window((6, 7), (3, 2), (1, 2)),
    "2/3 with gaps": Window((8, 9), (2, 2), (3, 3)),
    "3x2/2x1 dilated by 2x3": Window((8, 9), (3, 2), (2, 1), (1, 0, 2, 1), dilation=(2, 3)),
    "2/2 dilated by 2, ceil": Window((8, 7), (2, 2), (2, 2), ceil=True, dilation=(2, 2)),
    "whole image": Window((4, 5), (4, 5), (4, 5)),
    "5/3 wider than the image, ceil": Window((3, 4), (5, 5), (3, 3), ceil=True),
}


def max_pool_case(name: str, window: Window, n: int, c: int, ties: bool = False) -> Case:
    """The largest element and where it was first: a selection, so exact. With `ties`, elements are small integers."""
    out = (n, *window.out, c)

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        shape = (n, *window.size, c)
        # All below zero, so that a padding of zeros would win.
        x = rng.integers(-3, 0, shape) if ties else -1 - rng.random(shape)
        return {"x": x.astype(dtype)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.max_pool2d(arrays["x"], window, arrays["out"], arrays["winners"], scratch)

    return Case(
        name + (" ties" if ties else ""),
        "max_pool2d",
        make,
        call,
        exact,
        outputs={"out": out, "winners": out},
        whole=("winners",),
    )


def max_pool_inference_case(name: str, window: Window, n: int, c: int) -> Case:
    """The largest element alone, as in inference."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.max_pool2d(arrays["x"], window, arrays["out"], None, scratch)

    make = max_pool_case(name, window, n, c).make
    return Case(f"{name} without winners", "max_pool2d", make, call, exact, outputs={"out": (n, *window.out, c)})


def max_pool_gradient_case(name: str, window: Window, n: int, c: int) -> Case:
    """A pixel that wins several windows sums their gradients: at most R*S terms."""
    shape = (n, *window.size, c)

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        dy = rng.standard_normal((n, *window.out, c))
        return {"dy": dy.astype(dtype), "winners": winners_of(rng.standard_normal(shape), window)}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.max_pool2d_gradient(arrays["dy"], arrays["winners"], window, arrays["out"], scratch)

    return linear_case(name, "max_pool2d_gradient", make, call, shape, terms=window.taps)


def avg_pool_case(name: str, window: Window, n: int, c: int) -> Case:
    """A sum of at most R*S elements and one division."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.avg_pool2d(arrays["x"], window, arrays["out"])

    make = normal(x=(n, *window.size, c))
    return linear_case(name, "avg_pool2d", make, call, (n, *window.out, c), terms=window.taps + 1)


def avg_pool_gradient_case(name: str, window: Window, n: int, c: int) -> Case:
    """A sum of at most R*S terms, each divided first."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.avg_pool2d_gradient(arrays["dy"], window, arrays["out"], scratch)

    make = normal(dy=(n, *window.out, c))
    return linear_case(name, "avg_pool2d_gradient", make, call, (n, *window.size, c), terms=window.taps + 1)


def winners_of(x: Array, window: Window) -> Array:
    """The kernel element that wins each window of x, computed by the reference."""
    reference = registry.create(registry.REFERENCE)
    shape = (x.shape[0], *window.out, x.shape[3])
    winners = np.zeros(shape, np.uint8)
    reference.max_pool2d(x, window, np.zeros(shape), winners, Buffers(reference))
    return winners


def pooling_cases() -> list[Case]:
    """Every window; some of them also with ties and in inference."""
    makers = (max_pool_case, max_pool_gradient_case, avg_pool_case, avg_pool_gradient_case)
    cases = [make(name, window, 2, 3) for name, window in WINDOWS.items() for make in makers]
    for name in ("3/2 overlapping", "3/2 padded, ceil"):
        cases.append(max_pool_case(name, WINDOWS[name], 2, 5, ties=True))
        cases.append(max_pool_inference_case(name, WINDOWS[name], 1, 4))
    return cases
