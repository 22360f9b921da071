"""Compiled maximum and average pooling of NHWC float32 images."""

from typing import Any

import numpy as np
from numba import njit, prange

from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.kernels import kernel
from cnn.compiled.parts import BYTES, FLOATS, INNER, INTEGER, PARALLEL, start_of

MAX, MAX_GRADIENT, MEAN, MEAN_GRADIENT = range(4)
"""The steps of `pool`."""

U = np.uintp
ZERO, NEVER = np.float32(0), np.float32(-np.inf)


# As small functions, these become branchless selections before they are inlined; written out in the loops, the same
# expressions stay branches that a CPU mispredicts.


@njit(**INNER)
def _larger(v: float, best: float) -> float:
    """The larger one; NaN counts as the largest."""
    return v if v > best or v != v else best


@njit(**INNER)
def _winner(v: float, best: float, tap: int, won: int) -> int:
    """The tap of v if v is larger, else the previous winner."""
    return tap if v > best else won


@njit(**INNER)
def _max_rows(x: Any, out: Any, winners: Any, g: Any, first: int, last: int) -> None:
    """Output rows first to last of all N * P; taps in the padding are skipped."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    # As wide as the pixels, because a loop over elements of two widths is not vectorised for few channels.
    won = np.empty(U(columns) * c, np.int32)
    for row in range(first, last):
        image, start = row // U(rows), row * U(columns) * c
        h = np.int64(row % U(rows)) * down - g.top
        r_first, r_last = max(0, -h), min(taps_down, height - h)
        for q in range(columns):
            w = q * g.right - g.left
            s_first, s_last = max(0, -w), min(taps_right, width - w)
            there = U(q) * c
            to = start + there
            if taps_down == 2 and taps_right == 2 and r_last - r_first == 2 and s_last - s_first == 2:
                # All four taps at once, without a pass over the results for each.
                a = ((image * U(height) + U(h)) * U(width) + U(w)) * c
                b = a + U(width) * c
                for k in range(c):
                    best, tap = x[a + k], np.int32(0)
                    v = x[a + c + k]
                    tap, best = _winner(v, best, np.int32(1), tap), _larger(v, best)
                    v = x[b + k]
                    tap, best = _winner(v, best, np.int32(2), tap), _larger(v, best)
                    v = x[b + c + k]
                    won[there + k], out[to + k] = _winner(v, best, np.int32(3), tap), _larger(v, best)
                continue
            for k in range(c):
                out[to + k], won[there + k] = NEVER, np.int32(0)
            for r in range(r_first, r_last):
                for s in range(s_first, s_last):
                    at = ((image * U(height) + U(h + r)) * U(width) + U(w + s)) * c
                    tap = np.int32(r * taps_right + s)
                    for k in range(c):
                        v, best = x[at + k], out[to + k]
                        won[there + k], out[to + k] = _winner(v, best, tap, won[there + k]), _larger(v, best)
        for i in range(U(columns) * c):
            winners[start + i] = np.uint8(won[i])


@njit(**INNER)
def _max_gradient_rows(dy: Any, winners: Any, out: Any, g: Any, first: int, last: int) -> None:
    """Input rows first to last of all N * H: each is cleared and receives its gradients while it is in the cache."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    won = np.empty(U(columns) * c, np.int32)
    for row in range(first, last):
        image, h = row // U(height), np.int64(row % U(height)) + g.top
        start = row * U(width) * c
        for i in range(U(width) * c):
            out[start + i] = ZERO
        # Window p covers rows p * down to p * down + taps_down - 1 of the padded image.
        for p in range(max(0, (h - taps_down) // down + 1), min(rows, h // down + 1)):
            base = (image * U(rows) + U(p)) * U(columns) * c
            for i in range(U(columns) * c):
                won[i] = np.int32(winners[base + i])
            for q in range(columns):
                w = q * g.right - g.left
                there = U(q) * c
                at = base + there
                for s in range(max(0, -w), min(taps_right, width - w)):
                    tap = np.int32((h - p * down) * taps_right + s)
                    to = start + U(w + s) * c
                    for k in range(c):
                        out[to + k] += dy[at + k] if won[there + k] == tap else ZERO


@njit(**INNER)
def _pixels(at: int, step: int, before: int, taps: int, size: int, after: int) -> int:
    """Pixels of one axis under window `at`, counting padding but nothing beyond it."""
    start = at * step - before
    return min(start + taps, size + after) - start


@njit(**INNER)
def _mean_rows(x: Any, out: Any, g: Any, first: int, last: int) -> None:
    """Output rows first to last of all N * P."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    for row in range(first, last):
        image, p = row // U(rows), np.int64(row % U(rows))
        h = p * down - g.top
        pixels = _pixels(p, down, g.top, taps_down, height, g.bottom)
        for q in range(columns):
            w = q * g.right - g.left
            to = (row * U(columns) + U(q)) * c
            for k in range(c):
                out[to + k] = ZERO
            for r in range(max(0, -h), min(taps_down, height - h)):
                for s in range(max(0, -w), min(taps_right, width - w)):
                    at = ((image * U(height) + U(h + r)) * U(width) + U(w + s)) * c
                    for k in range(c):
                        out[to + k] += x[at + k]
            weight = np.float32(1 / (pixels * _pixels(q, g.right, g.left, taps_right, width, g.over)))
            for k in range(c):
                out[to + k] *= weight


@njit(**INNER)
def _mean_gradient_rows(dy: Any, out: Any, g: Any, first: int, last: int) -> None:
    """Input rows first to last of all N * H."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    for row in range(first, last):
        image, h = row // U(height), np.int64(row % U(height)) + g.top
        start = row * U(width) * c
        for i in range(start, start + U(width) * c):
            out[i] = ZERO
        for p in range(max(0, (h - taps_down) // down + 1), min(rows, h // down + 1)):
            base = (image * U(rows) + U(p)) * U(columns) * c
            pixels = _pixels(p, down, g.top, taps_down, height, g.bottom)
            for q in range(columns):
                w = q * g.right - g.left
                at = base + U(q) * c
                weight = np.float32(1 / (pixels * _pixels(q, g.right, g.left, taps_right, width, g.over)))
                for s in range(max(0, -w), min(taps_right, width - w)):
                    to = start + U(w + s) * c
                    for k in range(c):
                        out[to + k] += dy[at + k] * weight


@njit(**INNER, inline="always")
def _part(step: int, source: Any, winners: Any, result: Any, g: Any, first: int, last: int) -> None:
    if step == MAX:
        _max_rows(source, result, winners, g, first, last)
    elif step == MAX_GRADIENT:
        _max_gradient_rows(source, winners, result, g, first, last)
    elif step == MEAN:
        _mean_rows(source, result, g, first, last)
    else:
        _mean_gradient_rows(source, result, g, first, last)


@kernel(PARALLEL, INTEGER, FLOATS, BYTES, FLOATS, GEOMETRY, INTEGER, INTEGER)
def pool(step: int, source: Any, winners: Any, result: Any, g: Any, images: int, parts: int) -> None:
    """result = the step on source; winners are written by MAX, read by MAX_GRADIENT and may be empty for the others.

    All four are in one kernel, because the loop over the threads takes long to compile.
    """
    count = images * (g.out_rows if step in (MAX, MEAN) else g.height)
    if parts == 1:
        _part(step, source, winners, result, g, U(0), U(count))
    else:
        for part in prange(parts):
            first, last = start_of(part, parts, count), start_of(part + 1, parts, count)
            _part(step, source, winners, result, g, first, last)
