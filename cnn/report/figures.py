"""The plots of a comparison: bars of time and energy, layers on each device's roofline, and curves over nodes.

They are drawn by matplotlib, for the page as SVG whose colours are the page's own, and as a picture.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import ceil
from textwrap import wrap
from typing import Any

from cnn.cost import DATA, FORWARD, UPDATE, WEIGHT
from cnn.energy.interval import Interval
from cnn.errors import CnnError, UsageError
from cnn.report.comparison import Breakdown, Comparison, StageTime
from cnn.report.curve import Curve
from cnn.report.row import Row
from cnn.report.table import interval_text, number_text, scaling_sections

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise CnnError("Plots are drawn by matplotlib, which is missing: pip install 'cnn-blas[bench]'.") from error

LIGHT = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d8dee4",
    "blue": "#0969da",
    "green": "#1a7f37",
    "orange": "#bc4c00",
    "purple": "#8250df",
}
"""Colours of the plots; on the page each stands for the CSS variable of its name."""

OF_PROVENANCE = {"measured": "green", "predicted": "blue", "published": "orange"}
OF_PHASE = {FORWARD: ("blue", "o"), WEIGHT: ("orange", "s"), DATA: ("green", "^"), UPDATE: ("purple", "D")}
OF_LINK = ("blue", "orange", "green", "purple")
PANELS = (("images_per_second", "images/s"), ("efficiency", "efficiency"), ("images_per_joule", "images/J"))
STYLE: Any = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "cnn",
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.titlesize": 11,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
    "grid.color": LIGHT["grid"],
    "legend.frameon": False,
}
WIDTH, COLUMNS = 11, 3
WIDE, HATCH = 30, "///"
"""From the longest to the shortest bar beyond which the axis is logarithmic."""
LINE = 34
"""Letters of a line beside the bars."""
LABELLED = 3
"""Layers of each roofline that are named, by the stage that takes longest."""


Drawing = Callable[[FigureBase, Comparison], None]


def drawings(comparison: Comparison) -> dict[str, tuple[Drawing, float]]:
    """What there is to draw: by name how, and the height in inches."""
    found: dict[str, tuple[Drawing, float]] = {}
    if any(row.seconds for row in comparison.rows):
        found["bars"] = draw_bars, 1.5 + 0.55 * len(comparison.rows)
    if with_roof(comparison):
        found["rooflines"] = draw_rooflines, 1.2 + 2.9 * ceil(len(with_roof(comparison)) / COLUMNS)
    if comparison.scaling:
        found["scaling"] = draw_scaling, 0.8 + 3.2 * len(scaling_sections(comparison))
    return found


def with_roof(comparison: Comparison) -> list[Breakdown]:
    """The devices that have a roofline."""
    return [each for each in comparison.breakdowns if each.peak and each.bandwidth]


def draw_bars(figure: FigureBase, comparison: Comparison) -> None:
    """Time a batch and, where any is known, energy an image: a bar a row, its interval as a line."""
    rows = comparison.rows
    panels: list[tuple[str, list[Interval | None]]] = [
        ("ms a batch", [row.seconds and row.seconds.times(1e3) for row in rows])
    ]
    if any(row.joules_per_image for row in rows):
        energy = [row.joules_per_image and row.joules_per_image.times(1e3) for row in rows]
        panels.append(("mJ an image", energy))
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
    # A bar begins at 0, which a logarithmic axis has not: there are points on it.
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
        least = min(each.low or each.value for each in known)
        axes.set_xlim(least / 2, most * (most / least) ** 0.7)
    else:
        axes.set_xlim(0, 1.7 * most)
    axes.set_xlabel(f"{unit}, logarithmic" if logarithmic else unit)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_rooflines(figure: FigureBase, comparison: Comparison) -> None:
    """A panel a device: its roofline, and on it each layer and phase, as large as its share of the time."""
    shown = with_roof(comparison)
    columns = min(COLUMNS, len(shown))
    grid = figure.subplots(ceil(len(shown) / columns), columns, sharex=True, sharey=True, squeeze=False)
    intensities = [stage.intensity for stage in comparison.cost.stages if stage.flops]
    ends = min(intensities) / 2, max(intensities) * 4
    for place, (axes, each) in enumerate(zip(grid.flat, shown, strict=False)):
        _roofline(axes, each, ends)
        if place >= len(shown) - columns:
            axes.set_xlabel("FLOP/byte")
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("GFLOP/s")
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    phases = dict.fromkeys(stage.phase for stage in comparison.cost.stages if stage.flops)
    handles = [
        Line2D([], [], color=LIGHT[OF_PHASE[phase][0]], marker=OF_PHASE[phase][1], linestyle="", label=phase)
        for phase in phases
    ]
    title = f"{comparison.title}: layers under each device's roofline; areas are shares of the time"
    figure.legend(handles=handles, loc="outside upper left", ncols=4, title=title, alignment="left")


def _roofline(axes: Axes, each: Breakdown, ends: tuple[float, float]) -> None:
    peak, bandwidth = each.peak or 0.0, each.bandwidth or 1.0
    x = sorted({ends[0], min(max(peak / bandwidth, ends[0]), ends[1]), ends[1]})
    axes.plot(x, [min(peak, bandwidth * at) / 1e9 for at in x], color=LIGHT["ink"], linewidth=1.4)
    total = sum(timed.seconds.value for timed in each.stages)
    longest_first = sorted(
        (timed for timed in each.stages if timed.stage.flops), key=lambda timed: -timed.seconds.value
    )
    for timed in longest_first:
        colour, marker = OF_PHASE[timed.stage.phase]
        size = 14 + 500 * timed.seconds.value / total
        axes.scatter(*_point(timed), s=size, color=LIGHT[colour], marker=marker, alpha=0.7, linewidths=0)
    longest = {timed.stage.layer: timed for timed in reversed(longest_first)}
    labelled = sorted(longest.values(), key=lambda timed: -timed.seconds.value)[:LABELLED]
    # Below, where there is no roof, and neighbours at different heights.
    for place, timed in enumerate(sorted(labelled, key=lambda timed: timed.stage.intensity)):
        below = (0, -9 - 11 * (place % 2))
        axes.annotate(
            timed.stage.layer, _point(timed), below, textcoords="offset points", ha="center", va="top", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_title(
        f"{each.device}\n{number_text(peak / 1e9)} GFLOP/s, {number_text(bandwidth / 1e9)} GB/s",
        loc="left",
        fontsize=9,
    )
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _point(timed: StageTime) -> tuple[float, float]:
    """Intensity in FLOP a byte, and GFLOP/s."""
    return timed.stage.intensity, timed.stage.flops / timed.seconds.value / 1e9


def draw_scaling(figure: FigureBase, comparison: Comparison) -> None:
    """A row a kind of node: images a second, efficiency and images a joule over nodes, a line a link."""
    shown = scaling_sections(comparison)
    grid = figure.subplots(len(shown), len(PANELS), squeeze=False)
    colours = dict(zip(dict.fromkeys(each.link.name for each in comparison.scaling), cycle(OF_LINK)))
    for row, (title, curves) in zip(grid, shown, strict=True):
        for axes, (name, unit) in zip(row, PANELS, strict=True):
            _curves(axes, curves, name, colours)
            axes.set_title(title if axes is row[0] else "", loc="left", fontsize=9)
            axes.set_ylabel(unit)
    for axes in grid[-1]:
        axes.set_xlabel("nodes")
    handles = [Line2D([], [], color=LIGHT[colour], marker="o", label=name) for name, colour in colours.items()]
    handles.append(Line2D([], [], color=LIGHT["muted"], linestyle=":", label="no communication"))
    title = f"{comparison.cost.net}, train: predicted on many nodes; bands are intervals"
    figure.legend(handles=handles, loc="outside upper left", ncols=4, title=title, alignment="left")


def _curves(axes: Axes, curves: Sequence[Curve], name: str, colours: Mapping[str, str]) -> None:
    for curve in curves:
        points = [(point.nodes, each) for point in curve.points if (each := getattr(point, name)) is not None]
        colour, nodes = LIGHT[colours[curve.link.name]], [number for number, _ in points]
        axes.plot(nodes, [each.value for _, each in points], color=colour, marker="o", markersize=4, linewidth=1.4)
        axes.fill_between(
            nodes, [each.low for _, each in points], [each.high for _, each in points], color=colour, alpha=0.15
        )
    axes.set_xscale("log", base=2)
    counts = sorted({point.nodes for curve in curves for point in curve.points})
    axes.set_xticks(counts, [f"{number:,}" if place % 2 == 0 else "" for place, number in enumerate(counts)])
    axes.minorticks_off()
    first = curves[0].points
    silent = {
        "images_per_second": [point.batch / point.compute.value for point in first],
        "efficiency": [point.efficiency.value * point.seconds.value / point.compute.value for point in first],
    }
    if name in silent:
        axes.plot([point.nodes for point in first], silent[name], color=LIGHT["muted"], linestyle=":")
    if name == "efficiency":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, 1.05)
    elif name == "images_per_second":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def inline_svg(comparison: Comparison, name: str) -> str:
    """The SVG element of a drawing, its colours the page's variables and its ids begun with its name."""
    draw, height = drawings(comparison)[name]
    text = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure, comparison)
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Two figures on a page must not share an id.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for variable, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def picture(comparison: Comparison) -> bytes:
    """All drawings under one another, as PNG. Raises UsageError where there is nothing to draw."""
    found = drawings(comparison).values()
    if not found:
        raise UsageError("There is nothing to draw: no row was measured or predicted.")
    heights = [height for _, height in found]

    def draw_all(figure: Figure) -> None:
        parts = figure.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (draw, _) in zip(parts, found, strict=True):
            draw(part, comparison)

    return png(draw_all, sum(heights))


def png(draw: Callable[[Figure], None], height: float) -> bytes:
    """What `draw` draws, `height` inches high."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(content, format="png", dpi=150, facecolor="white")
    return content.getvalue()
