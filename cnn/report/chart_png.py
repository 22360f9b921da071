"""Charts as one PNG picture, drawn by matplotlib."""

from collections.abc import Sequence

from cnn.errors import UsageError
from cnn.report.chart import Chart
from cnn.report.drawing import LIGHT, Axes, Figure, PercentFormatter, plain, png

COLUMNS, ROW = 2, 3.2
"""Charts beside one another, and inches of a row of them."""


def charts_picture(charts: Sequence[Chart], title: str) -> bytes:
    """The charts that have something to show under a title, as PNG. Raises UsageError if none has."""
    shown = [each for each in charts if not each.empty]
    if not shown:
        raise UsageError("There is nothing to draw: no epoch has ended; leave out --png.")
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, chart in zip(grid.flat, shown, strict=False):
            _draw(axes, chart)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)

    return png(draw, 0.6 + ROW * rows)


def _draw(axes: Axes, chart: Chart) -> None:
    for each in chart.series:
        colour = LIGHT[each.colour]
        y = [float("nan") if value is None else value for value in each.y]
        if each.kind == "points":
            axes.scatter(each.x, y, s=each.sizes or 40.0, color=colour, label=each.label, alpha=0.8, linewidths=0)
        else:
            style = "--" if each.dashed else "-"
            axes.plot(each.x, y, color=colour, label=each.label, linewidth=1.6, linestyle=style)
            if len(each.x) == 1:
                axes.plot(each.x, y, color=colour, marker="o", markersize=4)
        for x, value, text in zip(each.x, each.y, each.texts, strict=False):
            if value is not None:
                axes.annotate(text, (x, value), (5, 4), textcoords="offset points", fontsize=8)
    if chart.mark is not None:
        axes.axvline(chart.mark[0], color=LIGHT["muted"], linewidth=0.8, linestyle=":")
    axes.set_title(chart.title, loc="left")
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if chart.x_log:
        axes.set_xscale("log")
    if chart.y_log:
        axes.set_yscale("log")
    axes.set_xlim(*chart.x_range())
    if chart.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    plain(axes)
    if sum(bool(each.label) for each in chart.series) > 1:
        axes.legend(fontsize=8)
