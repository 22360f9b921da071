"""Cases whose cost is a matrix product: gemm, convolution and its two gradients.

A product of depth K may have an error of (K + 2) epsilon (|A| @ |B|), element by element; accumulating adds an epsilon
of the magnitude already there. Each of the K products and additions, in any order, has an error of half an epsilon of
its operands, K / 2 epsilon of the sum of magnitudes to first order (Higham 2002, section 3.1); the rest is room for
terms of higher order. A convolution is such a product of depth R*S*C, its weight gradient one of depth N*P*Q, and its
data gradient sums R*S*K terms, with C and K per group; the bias is one more term.
"""

from functools import partial
from itertools import product
from math import prod

import numpy as np

from cnn.arrays import Buffers, Shape
from cnn.backend import Backend
from cnn.convolution import Convolution, Window
from cnn.testing.case import Arrays, Case, exact, linear_case, normal, run_reference

SIZES = (
    (1, 1, 1),
    (1, 7, 3),
    (5, 1, 4),
    (7, 13, 1),
    (1, 1, 33),
    (16, 16, 16),
    (17, 19, 23),
    (65, 3, 129),
    (3, 257, 2),
    (2, 5, 600),
)
"""(M, N, K): ones, odd numbers, one power of two, and matrices much longer than wide."""


def gemm_case(m: int, n: int, k: int, *, transpose_a: bool, transpose_b: bool, accumulate: bool, gap: int = 0) -> Case:
    """out (M, N) = or += op(a) @ op(b), with `gap` elements between the rows of every matrix, which must not change."""
    rows_a, columns_a = (k, m) if transpose_a else (m, k)
    rows_b, columns_b = (n, k) if transpose_b else (k, n)
    a, b, out = (rows_a, columns_a + gap), (rows_b, columns_b + gap), (m, n + gap)

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.gemm(
            arrays["a"][:, :columns_a],
            arrays["b"][:, :columns_b],
            out=arrays["out"][:, :n],
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            accumulate=accumulate,
        )

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        left, right = np.abs(inputs["a"][:, :columns_a]), np.abs(inputs["b"][:, :columns_b])
        # Between the rows, which must not change, no error is allowed.
        allowed = np.zeros(out)
        allowed[:, :n] = (k + 2) * ((left.T if transpose_a else left) @ (right.T if transpose_b else right))
        if accumulate:
            allowed[:, :n] += np.abs(inputs["out"][:, :n])
        return {"out": allowed}

    name = f"{m}x{n}x{k} {'t' if transpose_a else 'n'}{'t' if transpose_b else 'n'}"
    return Case(
        name + (" accumulate" if accumulate else "") + (f" gap {gap}" if gap else ""),
        "gemm",
        normal(a=a, b=b, out=out) if accumulate else normal(a=a, b=b),
        call,
        bound,
        outputs={} if accumulate else {"out": out},
        updated=("out",) if accumulate else (),
        flops=2 * m * n * k,
    )


def gemm_cases() -> list[Case]:
    """Every size in all four transpositions, overwriting and accumulating, with contiguous rows and with gaps."""
    flags = (False, True)
    return [
        gemm_case(m, n, k, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate, gap=gap)
        for m, n, k in SIZES
        for transpose_a, transpose_b, accumulate, gap in product(flags, flags, flags, (0, 3))
    ]


def conv_forward_case(
    name: str, convolution: Convolution, n: int, *, bias: bool = True, activation: str | None = None
) -> Case:
    """A convolution of N images.

    The derivatives of all activations are at most 1, so they do not increase the error of the sum; their own rounding
    is the one in `elementwise.activation_case`.
    """

    def call_with(activation: str | None, backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        bias_array = arrays["bias"] if bias else None
        backend.conv2d(arrays["x"], arrays["w"], bias_array, convolution, activation, arrays["out"], scratch)

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        magnitudes = {name: np.abs(x) for name, x in inputs.items()}
        sums = run_reference(case, magnitudes, partial(call_with, None))["out"]
        rounding = 0 if activation in (None, "relu") else 8 * np.abs(expected["out"])
        return {"out": (convolution.depth + bias + 2) * sums + rounding}

    shapes: dict[str, Shape] = {"x": (n, *convolution.input_shape), "w": convolution.weights_shape}
    if bias:
        shapes["bias"] = (convolution.filters,)
    case = Case(
        " ".join([name, *(["bias"] if bias else []), *([activation] if activation else [])]),
        "conv2d",
        normal(**shapes),
        partial(call_with, activation),
        bound,
        outputs={"out": (n, *convolution.output_shape)},
        flops=2 * n * convolution.macs,
    )
    return case


def conv_weight_case(name: str, convolution: Convolution, n: int) -> Case:
    """The gradient of the filters, summed over N images."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.conv2d_weight_gradient(arrays["x"], arrays["dy"], convolution, arrays["out"], scratch)

    return linear_case(
        name,
        "conv2d_weight_gradient",
        normal(x=(n, *convolution.input_shape), dy=(n, *convolution.output_shape)),
        call,
        convolution.weights_shape,
        terms=n * prod(convolution.out),
        flops=2 * n * convolution.macs,
    )


def conv_data_case(name: str, convolution: Convolution, n: int) -> Case:
    """The gradient with respect to N images."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.conv2d_data_gradient(arrays["dy"], arrays["w"], convolution, arrays["out"], scratch)

    return linear_case(
        name,
        "conv2d_data_gradient",
        normal(dy=(n, *convolution.output_shape), w=convolution.weights_shape),
        call,
        (n, *convolution.input_shape),
        terms=convolution.taps * convolution.group.filters,
        flops=2 * n * convolution.macs,
    )


def im2col_case(name: str, window: Window, n: int, c: int) -> Case:
    """The column matrix of N images: copies and zeros, exact."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.im2col(arrays["x"], window, arrays["out"], scratch)

    make = normal(x=(n, *window.size, c))
    return Case(name, "im2col", make, call, exact, outputs={"out": columns_shape(window, n, c)})


def col2im_case(name: str, window: Window, n: int, c: int) -> Case:
    """The transpose of im2col: a pixel sums at most R*S elements."""

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> None:
        backend.col2im(arrays["columns"], window, arrays["out"])

    make = normal(columns=columns_shape(window, n, c))
    return linear_case(name, "col2im", make, call, (n, *window.size, c), terms=window.taps)


def columns_shape(window: Window, n: int, c: int) -> Shape:
    """(N*P*Q, R*S*C)."""
    return n * window.out[0] * window.out[1], window.taps * c


def conv_cases(name: str, convolution: Convolution, n: int) -> list[Case]:
    """Forward with a bias, weight gradient and data gradient of one convolution of N images."""
    return [make(name, convolution, n) for make in (conv_forward_case, conv_weight_case, conv_data_case)]


WINDOWS = {
    "1x1": Window((5, 6), (1, 1)),
    "1x1 stride 2": Window((6, 5), (1, 1), (2, 2)),
    "1x1 padded": Window((3, 4), (1, 1), padding=(1, 1, 1, 1)),
    "3x3 valid": Window((7, 6), (3, 3)),
    "3x3 same": Window((6, 7), (3, 3), padding=(1, 1, 1, 1)),
    "3x3 stride 2 same, even": Window((8, 8), (3, 3), (2, 2), (0, 1, 0, 1)),
    "3x3 stride 2, last row and column unread": Window((8, 10), (3, 3), (2, 2)),
    "3x3 stride 4 with gaps, last two unread": Window((9, 13), (3, 3), (4, 4)),
    "5x5 valid": Window((9, 8), (5, 5)),
    "5x5 same": Window((6, 6), (5, 5), padding=(2, 2, 2, 2)),
    "2x4 kernel, 2x1 stride": Window((7, 8), (2, 4), (2, 1)),
    "3x1 kernel, asymmetric padding": Window((5, 6), (3, 1), (1, 2), (2, 0, 1, 3)),
    "kernel as large as the image": Window((4, 5), (4, 5)),
    "windows that see padding only": Window((2, 3), (3, 2), padding=(4, 3, 2, 5)),
    "kernel larger than the image": Window((2, 3), (5, 5), padding=(2, 2, 2, 2)),
    "3x3 dilated by 2, same": Window((7, 8), (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
    "3x2 dilated by 2x3, stride 2x1": Window((9, 8), (3, 2), (2, 1), (0, 1, 2, 0), dilation=(2, 3)),
    "dilated with elements beside the image": Window((2, 3), (3, 3), padding=(3, 3, 3, 2), dilation=(3, 2)),
}
"""Windows of every kind for convolutions; `all_conv_cases` varies batch and channels."""

GROUPED = {
    "3x3 same, 2 groups": Convolution(WINDOWS["3x3 same"], 4, 6, groups=2),
    "3x3 stride 2, a group per channel": Convolution(WINDOWS["3x3 stride 2 same, even"], 5, 10, groups=5),
    "1x1, 3 groups": Convolution(WINDOWS["1x1"], 6, 3, groups=3),
    "kernel as large as the image, 2 groups": Convolution(WINDOWS["kernel as large as the image"], 4, 2, groups=2),
    "3x3 dilated by 2, 2 groups": Convolution(WINDOWS["3x3 dilated by 2, same"], 2, 4, groups=2),
    "5x5 same, 3 groups": Convolution(WINDOWS["5x5 same"], 6, 9, groups=3),
    "3x3 same, depthwise": Convolution(WINDOWS["3x3 same"], 37, 37, groups=37),
    "3x3 stride 2, depthwise": Convolution(WINDOWS["3x3 stride 2 same, even"], 16, 16, groups=16),
    "2x8 kernel, depthwise": Convolution(Window((5, 17), (2, 8), (2, 1), (1, 0, 3, 2)), 9, 9, groups=9),
    "1x1, depthwise": Convolution(WINDOWS["1x1 padded"], 5, 5, groups=5),
    "3x3 stride 4 with gaps, depthwise": Convolution(
        WINDOWS["3x3 stride 4 with gaps, last two unread"], 3, 3, groups=3
    ),
    "3x2 dilated by 2x3, stride 2x1, depthwise": Convolution(
        WINDOWS["3x2 dilated by 2x3, stride 2x1"], 4, 12, groups=4
    ),
    "dilated by more than the stride, depthwise": Convolution(
        Window((9, 11), (3, 3), (2, 2), (3, 3, 4, 4), dilation=(3, 4)), 6, 6, groups=6
    ),
    "windows that see padding only, depthwise": Convolution(WINDOWS["windows that see padding only"], 2, 2, groups=2),
}
"""Convolutions in groups of one or a few channels, down to one filter per group, and with a group per channel."""


def all_conv_cases() -> list[Case]:
    """Every window with several channels, and groups; some also with one image, channel or filter, and activations."""
    cases = [case for name, window in WINDOWS.items() for case in conv_cases(name, Convolution(window, 3, 5), n=2)]
    cases += [case for name, convolution in GROUPED.items() for case in conv_cases(name, convolution, n=2)]
    cases.append(
        conv_forward_case("3x3 same, 2 groups", GROUPED["3x3 same, 2 groups"], 2, bias=False, activation="relu")
    )
    cases += [make(name, window, 2, 3) for name, window in WINDOWS.items() for make in (im2col_case, col2im_case)]
    small = WINDOWS["3x3 same"]
    for n, c, k in ((1, 1, 1), (1, 1, 8), (1, 4, 1), (3, 1, 7), (5, 17, 9)):
        cases += conv_cases(f"3x3 same, {n} images, {c} channels, {k} filters", Convolution(small, c, k), n)
    for name in ("1x1", "3x3 same", "5x5 valid"):
        for bias, activation in product((False, True), (None, "relu", "tanh", "sigmoid")):
            if (bias, activation) != (True, None):
                cases.append(
                    conv_forward_case(name, Convolution(WINDOWS[name], 3, 4), 2, bias=bias, activation=activation)
                )
    return cases
