"""The plots of a comparison: bars of time and energy, layers on each device's roofline, and curves over nodes."""

from collections.abc import Callable
from math import ceil

from cnn.errors import UsageError
from cnn.report.bar_plot import draw_bars
from cnn.report.comparison import Comparison
from cnn.report.drawing import Figure, FigureBase, png, svg
from cnn.report.published_plot import draw_published
from cnn.report.roofline_plot import COLUMNS, draw_rooflines, with_roof
from cnn.report.scaling_plot import draw_scaling
from cnn.report.table import scaling_sections

Drawing = Callable[[FigureBase, Comparison], None]


def drawings(comparison: Comparison) -> dict[str, tuple[Drawing, float]]:
    """What there is to draw, by name: the function that draws it, and its height in inches."""
    found: dict[str, tuple[Drawing, float]] = {}
    if any(row.seconds for row in comparison.rows):
        found["bars"] = draw_bars, 1.5 + 0.55 * len(comparison.rows)
    if with_roof(comparison):
        found["rooflines"] = draw_rooflines, 1.2 + 2.9 * ceil(len(with_roof(comparison)) / COLUMNS)
    if comparison.checks:
        found["published"] = lambda figure, comparison: draw_published(figure, comparison.checks), 4.4
    if comparison.scaling:
        found["scaling"] = draw_scaling, 0.8 + 3.2 * len(scaling_sections(comparison))
    return found


def inline_svg(comparison: Comparison, name: str) -> str:
    """The SVG element of a drawing."""
    draw, height = drawings(comparison)[name]
    return svg(lambda figure: draw(figure, comparison), height, name)


def picture(comparison: Comparison) -> bytes:
    """All drawings under one another, as PNG. Raises UsageError if there is nothing to draw."""
    found = drawings(comparison).values()
    if not found:
        raise UsageError("There is nothing to draw: no row was measured or predicted; leave out --png.")
    heights = [height for _, height in found]

    def draw_all(figure: Figure) -> None:
        parts = figure.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (draw, _) in zip(parts, found, strict=True):
            draw(part, comparison)

    return png(draw_all, sum(heights))
