"""The picture of a comparison: bars of time and energy, layers under each device's roofline, and curves over nodes."""

from math import ceil

from cnn.errors import UsageError
from cnn.report.bar_plot import draw_bars
from cnn.report.chart_png import COLUMNS, ROW, draw_charts
from cnn.report.comparison import Comparison
from cnn.report.comparison_charts import comparison_charts
from cnn.report.drawing import Figure, png


def picture(comparison: Comparison) -> bytes:
    """All drawings under one another, as PNG. Raises UsageError if there is nothing to draw."""
    charts = [each for each in comparison_charts(comparison) if not each.empty]
    timed = [row for row in comparison.rows if row.seconds]
    if not charts and not timed:
        raise UsageError("There is nothing to draw: no row was measured or predicted; leave out --png.")
    heights = [1.5 + 0.55 * len(comparison.rows)] * bool(timed) + [ROW * ceil(len(charts) / COLUMNS)] * bool(charts)

    def draw(figure: Figure) -> None:
        parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        if timed:
            draw_bars(parts.pop(0), comparison)
        if charts:
            draw_charts(parts.pop(0), charts)

    return png(draw, sum(heights))
