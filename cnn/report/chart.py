"""Charts as plain values: what is drawn, apart from how it becomes SVG, text or a picture."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10, pi, sqrt
from typing import Literal

COLOURS = ("blue", "orange", "green", "purple", "red", "teal")
"""Of the series of a chart, in turns."""
STEPS = 40
"""Parts of a line that keep texts off it."""
ROOM = 0.04
"""Of the range of values, the space left between the outermost ones and the frame."""


@dataclass(frozen=True)
class Series:
    """Points (x, y) with a common look; a y of None is a gap.

    `sizes` are areas of points in square pixels, `texts` their labels, `band` the least and largest y expected at each
    x: a shade around a line, a bar through a point. Each may be empty.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    colour: str = "blue"
    kind: Literal["line", "points"] = "line"
    dashed: bool = False
    sizes: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    band: tuple[tuple[float, float], ...] = ()

    def points(self) -> Iterator[tuple[float, float]]:
        """The points that are known."""
        return ((x, y) for x, y in zip(self.x, self.y, strict=True) if y is not None and isfinite(y))

    def heights(self) -> Iterator[float]:
        """Every y that is drawn."""
        yield from (y for _, y in self.points())
        yield from (end for ends in self.band for end in ends)


@dataclass(frozen=True)
class Chart:
    """Series on common axes. `mark` is an x to stand out, with its text; `unit` multiplies what an axis shows."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    mark: tuple[float, str] | None = None
    x_log: bool = False
    y_log: bool = False
    percent: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(True for each in self.series for _ in each.points())

    def x_range(self) -> tuple[float, float]:
        """The least and the largest x, apart from one another."""
        return _apart([x for each in self.series for x, _ in each.points()], self.x_log)

    def y_range(self, room: float = ROOM) -> tuple[float, float]:
        """The least and the largest y, with `room` beyond them as a share of the distance."""
        low, high = _apart([y for each in self.series for y in each.heights()], self.y_log)
        if self.percent:
            high = min(high, 1.0)
        if self.y_log:
            factor = (high / low) ** room
            return low / factor, high * factor
        return low - room * (high - low), high + room * (high - low)


def share(value: float, low: float, high: float, logarithmic: bool) -> float:
    """How far along an axis a value lies, in 0..1."""
    if logarithmic:
        return (log10(value) - log10(low)) / (log10(high) - log10(low))
    return (value - low) / (high - low)


def _apart(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    shown = [each for each in values if each > 0 or not logarithmic]
    if not shown:
        return (1.0, 10.0) if logarithmic else (0.0, 1.0)
    low, high = min(shown), max(shown)
    if low < high:
        return low, high
    if logarithmic:
        return low / 2, high * 2
    return low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)


def ticks(low: float, high: float, most: int, logarithmic: bool = False, *, whole: bool = False) -> list[float]:
    """Round numbers within a range, about `most` of them; on a logarithmic axis powers of ten, or 1, 2 and 5 times."""
    if logarithmic:
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        inside = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
        tens = [each for each in inside if abs(log10(each) - round(log10(each))) < 1e-9]
        return tens[:: ceil(len(tens) / most)] if len(inside) > most and len(tens) > 1 else inside
    raw = (high - low) / max(1, most)
    base = 10.0 ** floor(log10(raw))
    step = next(m * base for m in (1, 2, 5, 10) if m * base >= raw * 0.999)
    if whole:
        step = max(1.0, step)
    return [round(k * step, 12) for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def tick_text(value: float, *, percent: bool = False) -> str:
    """A number for an axis, with as many digits as it needs, and k, M or G for thousands, millions and billions."""
    if percent:
        return f"{value * 100:.6g} %"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * (10 if unit == "k" else 1):
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def radius(size: float) -> float:
    """Of a point with this area."""
    return sqrt(size / pi)


Label = tuple[tuple[float, float], tuple[float, float], str]
"""Where the point is, where its text begins (left, bottom), and the text."""


def placed_labels(
    chart: Chart,
    x: Callable[[float], float],
    y: Callable[[float], float],
    frame: tuple[float, float, float, float],
    letter: tuple[float, float],
) -> Iterator[Label]:
    """The texts of the points for which there is room beside points, lines and one another.

    `x` and `y` turn values into coordinates, which grow to the right and downwards.
    """
    taken = list[tuple[float, float, float, float]]()
    found = list[tuple[tuple[float, float], str]]()
    for series in chart.series:
        points = [(x(at), y(value)) for at, value in series.points()]
        found += [(point, text) for point, text in zip(points, series.texts, strict=False) if text]
        if series.kind == "points":
            sizes = series.sizes or (40.0,) * len(points)
            for (left, top), size in zip(points, map(radius, sizes), strict=False):
                taken.append((left - size, top - size, left + size, top + size))
            continue
        for (left, top), (right, bottom) in pairwise(points):
            for k in range(STEPS + 1):
                across, down = left + (right - left) * k / STEPS, top + (bottom - top) * k / STEPS
                taken.append((across - 1, down - 1, across + 1, down + 1))
    places = place_labels([point for point, _ in found], [text for _, text in found], frame, letter, taken)
    yield from ((point, place, text) for place, (point, text) in zip(places, found, strict=True) if place is not None)


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: tuple[float, float, float, float],
    letter: tuple[float, float],
    taken: Iterable[tuple[float, float, float, float]] = (),
) -> list[tuple[float, float] | None]:
    """For each point the lower left corner of its text, so that no two texts overlap; None where there is no room.

    Coordinates grow to the right and downwards; `frame` and `taken` are boxes (left, top, right, bottom), `letter` the
    width and height of a letter. Points in front get the better places.
    """
    gap = 1.5 * letter[0]
    used = list(taken)
    found: list[tuple[float, float] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        width, height = len(text) * letter[0], letter[1]
        corners = [
            *((x + gap, y + height / 3), (x - width - gap, y + height / 3)),
            *((x - width / 2, y - gap), (x - width / 2, y + height + gap)),
            *((x + gap, y - gap), (x - width - gap, y - gap)),
            *((x + gap, y + height + gap / 2), (x - width - gap, y + height + gap / 2)),
        ]
        corners += [(left, bottom + k * height) for k in (1, -1, 2, -2) for left, bottom in corners[:2]]
        place = None
        for left, bottom in corners:
            box = (left, bottom - height, left + width, bottom)
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if text and inside and not any(_overlap(box, each) for each in used):
                place = (left, bottom)
                used.append(box)
                break
        found.append(place)
    return found


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
