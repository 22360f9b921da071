"""A chart as an SVG element that takes its colours from the page: no library, and small enough to redraw live."""

from html import escape
from pathlib import Path
from textwrap import wrap

from cnn.report.chart import Chart, Series, placed_labels, radius, share, tick_text, ticks

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, BOTTOM = 54, 12, 36
"""Margins of the frame."""
LETTER = (6.1, 12.0)
"""Width and height of a letter."""
TITLE = 7.8
"""Width of a letter of the title."""
MOST_TEXT = 34
"""Letters of a legend's entry."""


TEMPLATES = Path(__file__).parent / "page-templates"


def chart_svg(chart: Chart, width: int = WIDTH, height: int = HEIGHT) -> str:
    """The element; empty where there is nothing to draw."""
    if chart.empty:
        return ""
    return _Drawing(chart, width, height).text()


def standalone(chart: Chart, width: int = 720, height: int = 420) -> str:
    """The chart as a file of its own, light or dark as the system is."""
    style = (TEMPLATES / "chart.css").read_text(encoding="utf-8")
    space = 'xmlns="http://www.w3.org/2000/svg" style="background:var(--page)"'
    text = chart_svg(chart, width, height).replace("<svg", f'<svg {space} width="{width}" height="{height}"', 1)
    return text.replace(">", f"><style>{style}</style>", 1) + "\n"


class _Drawing:
    def __init__(self, chart: Chart, width: int, height: int) -> None:
        self.chart, self.width, self.height = chart, width, height
        self.x_low, self.x_high = chart.x_range()
        self.y_low, self.y_high = chart.y_range()
        self.title = wrap(chart.title, int(width / TITLE))
        self.legend = self._legend(13 + 15 * len(self.title))
        self.top = 10 + 15 * len(self.title) + 14 * len(self.legend)
        self.right, self.bottom = width - RIGHT, height - BOTTOM

    def x(self, value: float) -> float:
        return LEFT + (self.right - LEFT) * share(value, self.x_low, self.x_high, self.chart.x_log)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * share(value, self.y_low, self.y_high, self.chart.y_log)

    def text(self) -> str:
        chart = self.chart
        parts = [
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(chart.title)}">',
            *(_text(0, 13 + 15 * k, line, "title") for k, line in enumerate(self.title)),
            *self.legend,
            *self._axes(),
        ]
        if chart.mark is not None and self.x_low <= chart.mark[0] <= self.x_high:
            at = self.x(chart.mark[0])
            parts.append(f'<path class="mark" d="M{at:.1f} {self.top}V{self.bottom}"/>')
            side = "end" if at > (LEFT + self.right) / 2 else "start"
            # Losses fall and accuracies rise: beside the mark there is room above the one and below the other.
            height = self.bottom - 6 if chart.percent else self.top + 9
            parts.append(_text(at + (-4 if side == "end" else 4), height, chart.mark[1], "small", side))
        for each in chart.series:
            parts += self._points(each) if each.kind == "points" else [self._line(each)]
        parts += self._labels()
        return "".join(parts) + "</svg>"

    def _legend(self, first: int) -> list[str]:
        """Lines of entries below the title, as many as fit beside one another; none for a single series."""
        shown = [each for each in self.chart.series if each.label]
        if len(shown) < 2:
            return []
        rows: list[list[str]] = [[]]
        at = 0.0
        for each in shown:
            label = each.label if len(each.label) <= MOST_TEXT else f"{each.label[: MOST_TEXT - 1]}…"
            size = 20 + len(label) * LETTER[0] + 12
            if at and at + size > self.width:
                rows.append([])
                at = 0.0
            y = first - 1 + 14 * (len(rows) - 1)
            colour = f"var(--{each.colour})"
            if each.kind == "points":
                rows[-1].append(f'<circle cx="{at + 7:.0f}" cy="{y - 4}" r="4" fill="{colour}"/>')
            else:
                dash = ' stroke-dasharray="4 3"' if each.dashed else ""
                rows[-1].append(
                    f'<path d="M{at:.0f} {y - 4}h14" stroke="{colour}" stroke-width="2" fill="none"{dash}/>'
                )
            rows[-1].append(_text(at + 18, y, label, "small"))
            at += size
        return ["".join(row) for row in rows]

    def _axes(self) -> list[str]:
        chart, parts = self.chart, []
        most = max(2, (self.right - LEFT) // 62)
        whole = chart.x_label in ("epoch", "run of the history")
        for value in ticks(self.x_low, self.x_high, int(most), chart.x_log, whole=whole):
            at = self.x(value)
            parts.append(f'<path class="grid" d="M{at:.1f} {self.top}V{self.bottom}"/>')
            parts.append(_text(at, self.bottom + 14, tick_text(value), "small", "middle"))
        for value in ticks(self.y_low, self.y_high, max(2, int(self.bottom - self.top) // 34), chart.y_log):
            at = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{self.right}"/>')
            parts.append(_text(LEFT - 6, at + 4, tick_text(value, percent=chart.percent), "small", "end"))
        frame = f'<path class="axis" d="M{LEFT} {self.top}V{self.bottom}H{self.right}"/>'
        label = f"{chart.x_label}, logarithmic" if chart.x_log else chart.x_label
        return [*parts, frame, _text(self.right, self.height - 6, label, "small", "end")]

    def _line(self, series: Series) -> str:
        path, pen = [], "M"
        for x, y in zip(series.x, series.y, strict=True):
            if y is None or (self.chart.y_log and y <= 0) or (self.chart.x_log and x <= 0):
                pen = "M"
                continue
            path.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
            pen = "L"
        dash = ' stroke-dasharray="5 3"' if series.dashed else ""
        low = [(x, ends[0]) for x, ends in zip(series.x, series.band, strict=False)]
        high = [(x, ends[1]) for x, ends in zip(series.x, series.band, strict=False)]
        band = "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in [*low, *reversed(high)])
        shade = f'<path fill="var(--{series.colour})" fill-opacity=".13" d="M{band}Z"/>' if band else ""
        drawn = f'{shade}<path class="line" style="stroke:var(--{series.colour})" d="{"".join(path)}"{dash}/>'
        if len(path) > 1:
            return drawn
        # A line of one point would not be seen.
        dots = (f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" ' for x, y in series.points())
        return "".join(f'{each}fill="var(--{series.colour})"/>' for each in dots)

    def _points(self, series: Series) -> list[str]:
        sizes = series.sizes or (40.0,) * len(series.x)
        bars = "".join(
            f"M{self.x(x):.1f} {self.y(low):.1f}V{self.y(high):.1f}"
            for x, (low, high) in zip(series.x, series.band, strict=False)
        )
        drawn = [f'<path style="stroke:var(--{series.colour})" stroke-opacity=".4" d="{bars}"/>'] if bars else []
        return drawn + [
            f'<circle class="dot" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius(size):.1f}" '
            f'style="fill:var(--{series.colour})"/>'
            for x, y, size in zip(series.x, series.y, sizes, strict=True)
            if y is not None
        ]

    def _labels(self) -> list[str]:
        frame = (LEFT + 2.0, float(self.top), float(self.width), float(self.bottom))
        return [
            _text(left, bottom - 2, text, "small label")
            for _, (left, bottom), text in placed_labels(self.chart, self.x, self.y, frame, LETTER)
        ]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{where}>{escape(text)}</text>'
