"""Cases of operations on arrays that are bfloat16 in memory.

Their inputs are bfloat16 from the start, and each result is that of the same operation rounded once more, which is off
by at most 2**-8 of it; what only selects stays exact. A backend that stores no bfloat16 is given the same numbers as
float32.
"""

from collections.abc import Collection
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from cnn.arrays import Buffers
from cnn.backend import Backend
from cnn.convolution import Convolution
from cnn.ops.elementwise import ACTIVATIONS, FUSED
from cnn.precision import BFLOAT16, SHORT, shortened, widened
from cnn.testing import bfloat16, elementwise, normalization, pooling, products
from cnn.testing.case import Arrays, Case, Scores

ROUNDING = 1.01 * 2.0**-8 / float(np.finfo(np.float32).eps)
"""Of a result, in epsilons of float32."""

ANY = ("3x3 same", "3x3 stride 2 same, even", "1x1")
"""Windows of convolutions."""

POOLS = ("2/2", "2/2, last row and column unread", "3/2 overlapping", "3/2 padded, ceil", "whole image")


def stored(case: Case, names: Collection[str]) -> Case:
    """The case on the backend that rounds, with the arrays of these names in SHORT."""

    def make(rng: np.random.Generator, dtype: npt.DTypeLike) -> Arrays:
        arrays = case.make(rng, np.float32)
        return arrays | {name: widened(shortened(arrays[name])) for name in names if name in arrays}

    def call(backend: Backend, arrays: Arrays, scratch: Buffers) -> Scores:
        twin = backend.in_precision(BFLOAT16)
        if not twin.stores_bfloat16:
            return case.call(twin, arrays, scratch)
        short = {name: twin.asarray(shortened(twin.to_numpy(arrays[name])), SHORT) for name in names}
        scores = case.call(twin, arrays | short, scratch)
        for name in {*case.outputs, *case.updated}.intersection(names):
            twin.copy(widened(twin.to_numpy(short[name])), arrays[name])
        return scores

    def bound(inputs: Arrays, expected: Arrays) -> Arrays:
        found = {name: 1.01 * value for name, value in case.bound(inputs, expected).items()}
        for name in set(found).intersection(names):
            found[name] = found[name] + np.where(found[name] > 0, ROUNDING * np.abs(expected[name]), 0)
        return found

    name = f"{case.name} with {' and '.join(sorted(names))} stored in bfloat16"
    return replace(case, name=name, make=make, call=call, bound=bound, only_float32=True)


def stored_cases() -> list[Case]:
    """What networks do with activations and gradients in SHORT, on some of the shapes of each operation."""
    cases = list[Case]()
    for pool in POOLS:
        window = pooling.WINDOWS[pool]
        for size in ((2, 3), (1, 20)):
            name = f"{pool} of {size}"
            cases.append(stored(pooling.max_pool_case(name, window, *size), ("x", "out")))
            cases.append(stored(pooling.max_pool_inference_case(name, window, *size), ("x", "out")))
            cases.append(stored(pooling.max_pool_gradient_case(name, window, *size), ("dy", "out")))
            cases.append(stored(pooling.avg_pool_case(name, window, *size), ("x", "out")))
            cases.append(stored(pooling.avg_pool_gradient_case(name, window, *size), ("dy", "out")))
    for shape in elementwise.SHAPES:
        for name in ACTIVATIONS:
            cases.append(stored(elementwise.activation_case(name, shape), ("x", "out")))
            cases.append(stored(elementwise.activation_gradient_case(name, shape), ("source", "dy", "out")))
        for name in FUSED:
            cases.append(stored(elementwise.activation_in_place_case(name, shape), ("x",)))
            cases.append(stored(elementwise.activation_bias_gradient_case(name, shape), ("source", "dy", "out")))
        for activation, out in (("relu", "out"), (None, "x"), (None, "y")):
            cases.append(stored(elementwise.add_case(activation, shape, out), {"x", "y", out}))
        cases.append(stored(elementwise.bias_gradient_case(shape), ("dy",)))
    cases.append(stored(elementwise.copy_channels_case((6, 11, 13, 8), 24, 0, 16, 8), ("x", "out")))
    for shape in ((6, 1), (16, 5), (3, 5, 4, 7)):
        cases.append(stored(normalization.batch_statistics_case(shape), ("x",)))
        for relu in (False, True):
            cases.append(stored(normalization.batch_norm_case(shape, relu), ("x", "out")))
            cases.append(stored(normalization.batch_norm_sums_case(shape, relu), ("x", "dy")))
            cases.append(stored(normalization.batch_norm_gradient_case(shape, True, relu), ("x", "dy", "out")))
    for name, counts in product(ANY, ((1, 8), (37, 5), (32, 50))):
        convolution = Convolution(products.WINDOWS[name], *counts)
        makers = (
            (products.conv_forward_case, ("x", "out")),
            (products.conv_weight_case, ("x", "dy")),
            (products.conv_data_case, ("dy", "out")),
        )
        for make, (first, second) in makers:
            case = make(f"{name} {counts}", convolution, 2)
            cases += [stored(case, names) for names in ((first,), (second,), (first, second))]
        for activation in FUSED:
            case = products.conv_forward_case(f"{name} {counts}", convolution, 2, activation=activation)
            cases.append(stored(case, ("x", "out")))
    for sizes, transpose_a, transpose_b in product(bfloat16.SIZES, (False, True), (False, True)):
        case = bfloat16.product_case(*sizes, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=False)
        cases += [stored(case, names) for names in (("a",), ("b",), ("a", "b"), ("a", "out"))]
    return cases
