"""Compiled losses over the scores of a batch, row by row in one thread: batches of scores are small."""

from math import log
from typing import Any

import numpy as np
from numba import njit, types

from cnn.compiled.elementwise import exp_negative
from cnn.compiled.kernels import kernel
from cnn.compiled.parts import FLOATS, INNER, INTEGER, INTEGERS, SINGLE

U = np.uintp
ZERO = np.float32(0)


@njit(**INNER)
def _largest(scores: Any, start: int, k: int) -> int:
    """The index of the row's first largest score; NaN counts as the largest, as in np.argmax."""
    best = start
    for i in range(start + U(1), start + k):
        if scores[i] > scores[best] or (scores[i] != scores[i] and scores[best] == scores[best]):
            best = i
    return best


@njit(**INNER)
def _exponentials(scores: Any, start: int, k: int, top: Any, row: Any) -> Any:
    """row = exp(scores - top); returns its sum in float64."""
    for i in range(k):
        row[i] = exp_negative(scores[start + i] - top)
    total = 0.0
    for i in range(k):
        total += row[i]
    return total


@kernel(SINGLE, FLOATS, FLOATS, INTEGER)
def softmax(scores: Any, out: Any, k: int) -> None:
    """out = exp(scores) / its sum, for rows of k."""
    width = U(k)
    row = np.empty(k, np.float32)
    for start in range(U(0), U(scores.size), width):
        top = scores[_largest(scores, start, width)]
        factor = np.float32(1 / _exponentials(scores, start, width, top, row))
        for i in range(width):
            out[start + i] = row[i] * factor


@kernel(SINGLE, FLOATS, FLOATS, types.float64, types.float64, INTEGER)
def target_probabilities(scores: Any, out: Any, low: float, high: float, k: int) -> None:
    """out = the part above `low` / its sum, for rows of k that are first raised until their largest reaches `high`."""
    width = U(k)
    for start in range(U(0), U(scores.size), width):
        missing = np.float32(high) - scores[_largest(scores, start, width)]
        lift = (ZERO if missing < ZERO else missing) - np.float32(low)
        total = 0.0
        for i in range(start, start + width):
            height = scores[i] + lift
            out[i] = ZERO if height < ZERO else height
            total += out[i]
        factor = np.float32(1 / total)
        for i in range(start, start + width):
            out[i] *= factor


@kernel(SINGLE, FLOATS, INTEGERS, FLOATS, types.float64, INTEGER)
def cross_entropy(scores: Any, labels: Any, out: Any, smoothing: float, k: int) -> Any:
    """(loss, correct answers); out, unless empty, = (softmax(scores) - target) / N.

    The target is smoothing / k everywhere, and 1 - smoothing on top at the label.
    If a label is not in the row, the count is -1 and nothing is read there."""
    width, count = U(k), labels.size
    row = np.empty(k, np.float32)
    loss, right = 0.0, 0
    images = np.float32(count)
    share, rest = np.float32(smoothing / k), np.float32(1 - smoothing)
    for n in range(U(count)):
        start, label = n * width, U(labels[n])
        if label >= width:
            return loss, -1
        best = _largest(scores, start, width)
        total = _exponentials(scores, start, width, scores[best], row)
        chosen = np.float64(scores[start + label] - scores[best])
        if smoothing:
            mean = 0.0
            for i in range(width):
                mean += np.float64(scores[start + i] - scores[best])
            chosen = (1 - smoothing) * chosen + smoothing * (mean / k)
        loss += log(total) - chosen
        right += best == start + label
        if out.size:
            factor = np.float32(1 / total)
            for i in range(width):
                out[start + i] = row[i] * factor - share
            out[start + label] -= rest
            for i in range(width):
                out[start + i] /= images
    return loss, right


@kernel(SINGLE, FLOATS, INTEGERS, types.float64, types.float64, FLOATS, INTEGER)
def squared_error(scores: Any, labels: Any, low: float, high: float, out: Any, k: int) -> Any:
    """(loss, correct answers); out, unless empty, = 2 (score - target) / (N * K). A count of -1 as in cross_entropy."""
    width, count = U(k), labels.size
    loss, right = 0.0, 0
    base, lift = np.float32(low), np.float32(high - low)
    factor = np.float32(2 / max(1, scores.size))
    for n in range(U(count)):
        start, label = n * width, U(labels[n])
        if label >= width:
            return loss, -1
        right += _largest(scores, start, width) == start + label
        for i in range(width):
            error = scores[start + i] - base - (lift if i == label else ZERO)
            loss += np.float64(error) * np.float64(error)
            if out.size:
                out[start + i] = error * factor
    return loss / k, right
