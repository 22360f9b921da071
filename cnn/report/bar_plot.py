"""Bars of the time and energy of each row of a comparison."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from cnn.energy.interval import Interval
from cnn.report.comparison import Comparison
from cnn.report.drawing import LIGHT, Axes, FigureBase, Patch, decimal, plain
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
    logarithmic = most > WIDE * least
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        if value is None:
            axes.text(0, place, "  unknown", va="center", fontsize=9, transform=axes.get_yaxis_transform())
            continue
        colour = LIGHT[OF_PROVENANCE[row.provenance]]
        style: Any = {"facecolor": "none" if row.indicative else colour, "edgecolor": colour}
        if logarithmic:
            axes.scatter(value.value, place, s=60, zorder=3, **style)
        else:
            axes.barh(place, value.value, height=0.55, hatch=HATCH if row.indicative else "", **style)
        end = value.high or value.value
        if value.low is not None:
            axes.plot([value.low, end], [place, place], color=LIGHT["ink"], linewidth=1.4, marker="|")
        axes.annotate(interval_text(value), (end, place), (6, 0), textcoords="offset points", va="center", fontsize=9)
    # Room for the text after the longest bar.
    if logarithmic:
        axes.set_xscale("log")
        decimal(axes.xaxis)
        least = min(each.low or each.value for each in known)
        axes.set_xlim(least / 2, most * (most / least) ** 0.7)
    else:
        axes.set_xlim(0, 1.7 * most)
    axes.set_xlabel(f"{unit}, logarithmic" if logarithmic else unit)
    plain(axes, "x")
