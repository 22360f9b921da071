"""Compiled maximum and average pooling of NHWC images."""

from typing import Any

import numpy as np
from numba import njit, prange

from cnn.compiled.geometry import GEOMETRY
from cnn.compiled.parts import BYTES, INNER, INTEGER, PARALLEL, start_of
from cnn.compiled.widening import STORED, memory_for, place_in, read, twin_kernels, wide, write

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
def _max_rows(x: Any, out: Any, winners: Any, g: Any, first: Any, last: Any) -> None:
    """Output rows first to last of all N * P; taps in the padding are skipped."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    line, out_line = U(width) * c, U(columns) * c
    # As wide as the pixels, because a loop over elements of two widths is not vectorised for few channels.
    won = np.empty(out_line, np.int32)
    largest, one, two = memory_for(out, out_line), memory_for(x, line), memory_for(x, line)
    for row in range(first, last):
        image, start = row // U(rows), row * out_line
        to = place_in(out, start)
        h = np.int64(row % U(rows)) * down - g.top
        r_first, r_last = max(0, -h), min(taps_down, height - h)
        four = taps_down == 2 and taps_right == 2 and r_last - r_first == 2
        if four:
            # All four taps at once, without a pass over the results for each.
            at = (image * U(height) + U(h)) * line
            above, below = read(x, at, at + line, one), read(x, at + line, at + line + line, two)
            for q in range(columns):
                w = q * g.right - g.left
                if w < 0 or w + 2 > width:
                    continue
                there = U(q) * c
                here, a, b = to + there, above + U(w) * c, below + U(w) * c
                for k in range(c):
                    best, tap = one[a + k], np.int32(0)
                    v = one[a + c + k]
                    tap, best = _winner(v, best, np.int32(1), tap), _larger(v, best)
                    v = two[b + k]
                    tap, best = _winner(v, best, np.int32(2), tap), _larger(v, best)
                    v = two[b + c + k]
                    won[there + k], largest[here + k] = _winner(v, best, np.int32(3), tap), _larger(v, best)
        if not four or g.left > 0 or (columns - 1) * g.right - g.left + 2 > width:
            _max_taps(x, largest, to, won, g, image, h, four)
        for i in range(out_line):
            winners[start + i] = np.uint8(won[i])
        write(largest, out, start, start + out_line)


@njit(**INNER)
def _max_taps(x: Any, largest: Any, to: int, won: Any, g: Any, image: int, h: int, partial: bool) -> None:
    """The largest elements of one row of windows, whose first row is h; with `partial`, only where columns lack."""
    height, width, columns, taps_right, c = g.height, g.width, g.out_columns, g.kernel_columns, U(g.channels)
    line = U(width) * c
    for q in range(columns):
        w, there = q * g.right - g.left, U(q) * c
        if not partial or w < 0 or w + taps_right > width:
            for k in range(c):
                largest[to + there + k], won[there + k] = NEVER, np.int32(0)
    for r in range(max(0, -h), min(g.kernel_rows, height - h)):
        start = (image * U(height) + U(h + r)) * line
        for q in range(columns):
            w, there = q * g.right - g.left, U(q) * c
            if partial and w >= 0 and w + taps_right <= width:
                continue
            for s in range(max(0, -w), min(taps_right, width - w)):
                at, here, tap = start + U(w + s) * c, to + there, np.int32(r * taps_right + s)
                for k in range(c):
                    v, best = wide(x[at + k]), largest[here + k]
                    won[there + k], largest[here + k] = _winner(v, best, tap, won[there + k]), _larger(v, best)


@njit(**INNER)
def _max_gradient_rows(dy: Any, winners: Any, out: Any, g: Any, first: Any, last: Any) -> None:
    """Input rows first to last of all N * H: each is cleared and receives its gradients while it is in the cache."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    line, dy_line = U(width) * c, U(columns) * c
    won = np.empty(dy_line, np.int32)
    sums, gradients = memory_for(out, line), memory_for(dy, dy_line)
    for row in range(first, last):
        image, h = row // U(height), np.int64(row % U(height)) + g.top
        start = row * line
        place = place_in(out, start)
        for i in range(line):
            sums[place + i] = ZERO
        # Window p covers rows p * down to p * down + taps_down - 1 of the padded image.
        for p in range(max(0, (h - taps_down) // down + 1), min(rows, h // down + 1)):
            base = (image * U(rows) + U(p)) * dy_line
            at = read(dy, base, base + dy_line, gradients)
            for i in range(dy_line):
                won[i] = np.int32(winners[base + i])
            for q in range(columns):
                w = q * g.right - g.left
                there = U(q) * c
                for s in range(max(0, -w), min(taps_right, width - w)):
                    tap = np.int32((h - p * down) * taps_right + s)
                    to, here = place + U(w + s) * c, at + there
                    for k in range(c):
                        sums[to + k] += gradients[here + k] if won[there + k] == tap else ZERO
        write(sums, out, start, start + line)


@njit(**INNER)
def _pixels(at: int, step: int, before: int, taps: int, size: int, after: int) -> int:
    """Pixels of one axis under window `at`, counting padding but nothing beyond it."""
    start = at * step - before
    return min(start + taps, size + after) - start


@njit(**INNER)
def _mean_rows(x: Any, out: Any, g: Any, first: Any, last: Any) -> None:
    """Output rows first to last of all N * P."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    line, out_line = U(width) * c, U(columns) * c
    sums = memory_for(out, out_line)
    for row in range(first, last):
        image, p = row // U(rows), np.int64(row % U(rows))
        start = row * out_line
        place = place_in(out, start)
        h = p * down - g.top
        count = _pixels(p, down, g.top, taps_down, height, g.bottom)
        for i in range(out_line):
            sums[place + i] = ZERO
        for r in range(max(0, -h), min(taps_down, height - h)):
            at = (image * U(height) + U(h + r)) * line
            for q in range(columns):
                w = q * g.right - g.left
                to = place + U(q) * c
                for s in range(max(0, -w), min(taps_right, width - w)):
                    here = at + U(w + s) * c
                    for k in range(c):
                        sums[to + k] += wide(x[here + k])
        for q in range(columns):
            weight = np.float32(1 / (count * _pixels(q, g.right, g.left, taps_right, width, g.over)))
            to = place + U(q) * c
            for k in range(c):
                sums[to + k] *= weight
        write(sums, out, start, start + out_line)


@njit(**INNER)
def _mean_gradient_rows(dy: Any, out: Any, g: Any, first: Any, last: Any) -> None:
    """Input rows first to last of all N * H."""
    height, width, rows, columns = g.height, g.width, g.out_rows, g.out_columns
    taps_down, taps_right, down, c = g.kernel_rows, g.kernel_columns, g.down, U(g.channels)
    line, dy_line = U(width) * c, U(columns) * c
    sums, gradients = memory_for(out, line), memory_for(dy, dy_line)
    for row in range(first, last):
        image, h = row // U(height), np.int64(row % U(height)) + g.top
        start = row * line
        place = place_in(out, start)
        for i in range(line):
            sums[place + i] = ZERO
        for p in range(max(0, (h - taps_down) // down + 1), min(rows, h // down + 1)):
            base = (image * U(rows) + U(p)) * dy_line
            at = read(dy, base, base + dy_line, gradients)
            pixels = _pixels(p, down, g.top, taps_down, height, g.bottom)
            for q in range(columns):
                w = q * g.right - g.left
                there = U(q) * c
                weight = np.float32(1 / (pixels * _pixels(q, g.right, g.left, taps_right, width, g.over)))
                for s in range(max(0, -w), min(taps_right, width - w)):
                    to, here = place + U(w + s) * c, at + there
                    for k in range(c):
                        sums[to + k] += gradients[here + k] * weight
        write(sums, out, start, start + line)


@njit(**INNER, inline="always")
def _part(step: int, source: Any, winners: Any, result: Any, g: Any, first: Any, last: Any) -> None:
    if step == MAX:
        _max_rows(source, result, winners, g, first, last)
    elif step == MAX_GRADIENT:
        _max_gradient_rows(source, winners, result, g, first, last)
    elif step == MEAN:
        _mean_rows(source, result, g, first, last)
    else:
        _mean_gradient_rows(source, result, g, first, last)


@twin_kernels(PARALLEL, INTEGER, STORED, BYTES, STORED, GEOMETRY, INTEGER, INTEGER)
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
