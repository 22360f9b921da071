"""Compiled batch normalisation: sums over the rows, then one pass in blocks that stay in the first-level cache.

A block holds whole rows, and the numbers of the channels are repeated to its size, so that few channels still make
long loops.
"""

from math import sqrt
from typing import Any

import numpy as np
from numba import njit, prange, types

from cnn.compiled.elementwise import ZERO, block_size, repeated
from cnn.compiled.kernels import kernel
from cnn.compiled.parts import FLAG, FLOATS, INNER, INTEGER, PARALLEL, SINGLE, start_of
from cnn.compiled.widening import STORED, memory_for, place_in, twin_kernels, wide, write

BLOCK = 1024
"""The approximate elements of a block."""

D, U = np.float64, np.uintp


@njit(**INNER)
def _tables(numbers: Any, step: int) -> Any:
    """Each row of numbers (K, C) repeated to `step` elements."""
    tables = np.empty((numbers.shape[0], step), np.float32)
    for k in range(numbers.shape[0]):
        tables[k] = repeated(numbers[k], step)
    return tables


@njit(**INNER)
def _add_part(
    x: Any, dy: Any, tables: Any, relu: bool, first: Any, last: Any, step: Any, sums: Any, products: Any
) -> None:
    """Adds up all blocks of elements first to last; tables hold the pivot, the factor and the shift of `normalise`."""
    pivot, factor, shift = tables[0], tables[1], tables[2]
    for start in range(first, last, step):
        count = min(step, last - start)
        if relu:
            for i in range(count):
                distance = wide(x[start + i]) - pivot[i]
                gradient = D(wide(dy[start + i]) if distance * factor[i] + shift[i] > ZERO else ZERO)
                sums[i] += gradient
                products[i] += gradient * D(distance)
        elif dy.size:
            for i in range(count):
                gradient = D(wide(dy[start + i]))
                sums[i] += gradient
                products[i] += gradient * D(wide(x[start + i]) - pivot[i])
        else:
            for i in range(count):
                distance = D(wide(x[start + i]) - pivot[i])
                sums[i] += distance
                products[i] += distance * distance


@twin_kernels(PARALLEL, STORED, STORED, *[FLOATS] * 4, types.float64, FLAG, FLOATS, FLOATS, INTEGER)
def moments(
    x: Any,
    dy: Any,
    mean: Any,
    variance: Any,
    gamma: Any,
    beta: Any,
    epsilon: float,
    relu: bool,
    first: Any,
    second: Any,
    parts: int,
) -> None:
    """first (C,) = dbeta and second = dgamma of `batch_norm_sums`; without dy, mean and variance of x itself."""
    channels = U(first.size)
    rows, step = U(x.size) // channels, block_size(channels, BLOCK)
    numbers = np.zeros((3, first.size), np.float32)
    for c in range(channels):
        # Distances from a row lose no digits if the mean is far from zero.
        numbers[0, c] = mean[c] if dy.size else wide(x[c])
        if relu:
            numbers[1, c] = gamma[c] * (1 / sqrt(D(variance[c]) + epsilon))
            numbers[2, c] = beta[c]
    tables = _tables(numbers, step)
    # The sums of the parts lie cache lines apart.
    sums, products = np.zeros((parts, int(step) + 16)), np.zeros((parts, int(step) + 16))
    for part in prange(parts):
        begin, end = channels * start_of(part, parts, rows), channels * start_of(part + 1, parts, rows)
        _add_part(x, dy, tables, relu, begin, end, step, sums[part], products[part])
    for c in range(channels):
        total, product = 0.0, 0.0
        for part in range(parts):
            for i in range(c, step, channels):
                total += sums[part, i]
                product += products[part, i]
        if dy.size:
            first[c] = total
            second[c] = product / sqrt(D(variance[c]) + epsilon)
        else:
            total /= rows
            first[c] = D(wide(x[c])) + total
            second[c] = max(0.0, product / rows - total * total)


@njit(**INNER)
def _apply_part(x: Any, dy: Any, tables: Any, relu: bool, first: Any, last: Any, out: Any) -> None:
    """out = (x - mean) * factor + shift, or with dy, (x - mean) * slope + intercept + dz * factor.

    Tables hold these five in the order mean, factor, shift, slope, intercept.
    """
    step = U(tables.shape[1])
    mean, factor, shift, slope, intercept = tables[0], tables[1], tables[2], tables[3], tables[4]
    memory = memory_for(out, step)
    for start in range(first, last, step):
        end = min(start + step, last)
        to = place_in(out, start)
        block = memory[to : to + (end - start)]
        # Loops with few arrays, because one whose input and output might overlap is not vectorised.
        for i in range(U(block.size)):
            block[i] = wide(x[start + i]) - mean[i]
        if not dy.size:
            for i in range(U(block.size)):
                block[i] *= factor[i]
            for i in range(U(block.size)):
                block[i] += shift[i]
            if relu:
                for i in range(U(block.size)):
                    block[i] = ZERO if block[i] <= ZERO else block[i]
        elif relu:
            for i in range(U(block.size)):
                dz = wide(dy[start + i]) if block[i] * factor[i] + shift[i] > ZERO else ZERO
                block[i] = block[i] * slope[i] + intercept[i] + dz * factor[i]
        else:
            for i in range(U(block.size)):
                block[i] *= slope[i]
            for i in range(U(block.size)):
                block[i] += intercept[i]
            for i in range(U(block.size)):
                block[i] += wide(dy[start + i]) * factor[i]
        write(memory, out, start, end)


@twin_kernels(PARALLEL, STORED, STORED, *[FLOATS] * 4, types.float64, FLAG, FLOATS, FLOATS, INTEGER, STORED, INTEGER)
def normalise(
    x: Any,
    dy: Any,
    mean: Any,
    variance: Any,
    gamma: Any,
    beta: Any,
    epsilon: float,
    relu: bool,
    dgamma: Any,
    dbeta: Any,
    rows: int,
    out: Any,
    parts: int,
) -> None:
    """out = `batch_norm` of x; or, unless dy is empty, `batch_norm_gradient`."""
    channels = U(mean.size)
    numbers = np.zeros((5, mean.size), np.float32)
    for c in range(channels):
        inverse = 1 / sqrt(D(variance[c]) + epsilon)
        numbers[0, c] = mean[c]
        numbers[1, c] = gamma[c] * inverse
        numbers[2, c] = beta[c]
        if dy.size:
            numbers[3, c] = -gamma[c] * inverse * inverse * dgamma[c] / rows
            numbers[4, c] = -gamma[c] * inverse * dbeta[c] / rows
    step = block_size(channels, BLOCK)
    tables = _tables(numbers, step)
    count = U(x.size) // channels
    for part in prange(parts):
        begin, end = channels * start_of(part, parts, count), channels * start_of(part + 1, parts, count)
        _apply_part(x, dy, tables, relu, begin, end, out)


@kernel(SINGLE, FLOATS, FLOATS, types.float64)
def running_mean(running: Any, new: Any, momentum: float) -> None:
    """running = momentum * running + (1 - momentum) * new."""
    for c in range(running.size):
        running[c] = momentum * running[c] + (1 - momentum) * new[c]
