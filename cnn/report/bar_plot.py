"""Bars of the time and energy of each row of a comparison."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from cnn.energy.interval import Interval
from cnn.report.chart import ticks
from cnn.report.comparison import Comparison
from cnn.report.drawing import LIGHT, Axes, FigureBase, Patch, logarithmic, plain
from cnn.report.row import Row
from cnn.report.table import interval_text

OF_PROVENANCE = {"measured": "green", "predicted": "blue", "published": "orange"}
WIDE, HATCH = 30, "///"
"""The ratio of the longest to the shortest bar beyond which the axis is logarithmic."""
LINE = 34
"""Letters per line beside the bars."""


def draw_bars(figure: FigureBase, comparison: Comparison) -> None:
    """Time per batch and, if any is known, energy per image: one bar per row, its interval as a line."""
    rows = comparison.rows
    panels: list[tuple[str, list[Interval | None]]] = [
        ("ms per batch", [row.seconds and row.seconds.times(1e3) for row in rows])
    ]
    if any(row.joules_per_image for row in rows):
        energy = [row.joules_per_image and row.joules_per_image.times(1e3) for row in rows]
        panels.append(("mJ per image", energy))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (unit, values) in zip(all_axes, panels, strict=True):
        _bars(axes, rows, values, unit)
    all_axes[0].set_yticks(range(len(rows)), [_wrapped(row) for row in rows], fontsize=9)
    all_axes[0].invert_yaxis()
    kinds = dict.fromkeys(row.provenance for row in rows)
    handles = [Patch(color=LIGHT[OF_PROVENANCE[kind]], label=kind) for kind in kinds]
    if any(row.indicative for row in rows):
        handles.append(Patch(facecolor="none", edgecolor=LIGHT["muted"], hatch=HATCH, label="indicative"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, title=comparison.title, alignment="left")


def _wrapped(row: Row) -> str:
    """Device and software, each on lines of its own."""
    return "\n".join(line for text in (row.device, row.software) if text for line in wrap(text, LINE))


def _bars(axes: Axes, rows: Sequence[Row], values: Sequence[Interval | None], unit: str) -> None:
    known = [value for value in values if value]
    least, most = min(each.value for each in known), max(each.high or each.value for each in known)
    # A bar begins at 0, which a logarithmic axis does not have, so points stand on it.
    wide = most > WIDE * least
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        if value is None:
            axes.text(0, place, "  unknown", va="center", fontsize=9, transform=axes.get_yaxis_transform())
            continue
        colour = LIGHT[OF_PROVENANCE[row.provenance]]
        style: Any = {"facecolor": "none" if row.indicative else colour, "edgecolor": colour}
        if wide:
            axes.scatter(value.value, place, s=60, zorder=3, **style)
        else:
            axes.barh(place, value.value, height=0.55, hatch=HATCH if row.indicative else "", **style)
        end = value.high or value.value
        if value.low is not None:
            axes.plot([value.low, end], [place, place], color=LIGHT["ink"], linewidth=1.4, marker="|")
        axes.annotate(interval_text(value), (end, place), (6, 0), textcoords="offset points", va="center", fontsize=9)
    # The axis ends where the data end; beyond it there is room for the text after the longest bar.
    begin = 0.0
    if wide:
        logarithmic(axes, "x")
        begin = min(each.low or each.value for each in known)
        axes.set_xlim(begin / 1.2, most * (most / begin) ** 0.7)
    else:
        axes.set_xlim(0, 1.7 * most)
    axes.set_xlabel(f"{unit}, logarithmic" if wide else unit)
    plain(axes, "x")
    axes.set_xticks(ticks(begin, most, 6, wide))
    axes.minorticks_off()
    axes.spines["bottom"].set_bounds(begin, most)
