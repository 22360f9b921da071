"""Charts as one PNG picture, drawn by matplotlib."""

from collections.abc import Sequence
from math import ceil
from textwrap import wrap

from cnn.errors import UsageError
from cnn.report.chart import Chart, placed_labels, share
from cnn.report.drawing import LIGHT, Axes, Figure, FigureBase, PercentFormatter, logarithmic, plain, png

COLUMNS, ROW, LINE = 2, 3.2, 60
"""Charts beside one another, inches of a row of them, and letters of a line of a title."""


AXES, LETTER = (300.0, 150.0), (4.6, 9.0)
"""The size of the axes and of a letter in points, about."""


def charts_picture(charts: Sequence[Chart], title: str) -> bytes:
    """The charts that have something to show under a title, as PNG. Raises UsageError if none has."""
    shown = [each for each in charts if not each.empty]
    if not shown:
        raise UsageError("There is nothing to draw: a curve needs two epochs; leave out --png.")

    def draw(figure: Figure) -> None:
        draw_charts(figure, shown)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)

    return png(draw, 0.6 + ROW * ceil(len(shown) / COLUMNS))


def draw_charts(figure: FigureBase, charts: Sequence[Chart]) -> None:
    """Each chart on axes of its own."""
    grid = figure.subplots(ceil(len(charts) / COLUMNS), min(COLUMNS, len(charts)), squeeze=False)
    for axes, chart in zip(grid.flat, charts, strict=False):
        _draw(axes, chart)
    for axes in grid.flat[len(charts) :]:
        axes.set_visible(False)


def _draw(axes: Axes, chart: Chart) -> None:
    for each in chart.series:
        colour = LIGHT[each.colour]
        y = [float("nan") if value is None else value for value in each.y]
        if each.kind == "points":
            axes.scatter(each.x, y, s=each.sizes or 40.0, color=colour, label=each.label, alpha=0.8, linewidths=0)
            if each.band:
                axes.vlines(each.x, *zip(*each.band, strict=True), color=colour, alpha=0.4, linewidth=1)
        else:
            style = "--" if each.dashed else "-"
            axes.plot(each.x, y, color=colour, label=each.label, linewidth=1.6, linestyle=style)
            if len(each.x) == 1:
                axes.plot(each.x, y, color=colour, marker="o", markersize=4)
        if each.band and each.kind == "line":
            lows, highs = zip(*each.band, strict=True)
            axes.fill_between(each.x, lows, highs, color=colour, alpha=0.15, linewidth=0)
    if chart.mark is not None:
        axes.axvline(chart.mark[0], color=LIGHT["muted"], linewidth=0.8, linestyle=":")
    axes.set_title("\n".join(wrap(chart.title, LINE)), loc="left")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if chart.x_log:
        logarithmic(axes, "x")
    if chart.y_log:
        logarithmic(axes, "y")
    axes.set_xlim(*chart.x_range())
    axes.set_ylim(*chart.y_range())
    if chart.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    plain(axes)
    (x_low, x_high), (y_low, y_high) = chart.x_range(), chart.y_range()
    width, height = AXES
    labels = placed_labels(
        chart,
        lambda value: width * share(value, x_low, x_high, chart.x_log),
        lambda value: height * (1 - share(value, y_low, y_high, chart.y_log)),
        (0, 0, width + 20, height),
        LETTER,
    )
    for (at, top), (left, bottom), text in labels:
        # From the point, so that it stays beside it if the axes have another size.
        where = (at / width, 1 - top / height)
        axes.annotate(text, where, (left - at, top - bottom), "axes fraction", textcoords="offset points", fontsize=8)
    if sum(bool(each.label) for each in chart.series) > 1:
        axes.legend(fontsize=8)
