"""Layers of a network on the roofline of each device."""

from math import ceil

from cnn.cost import DATA, FORWARD, UPDATE, WEIGHT
from cnn.report.comparison import Breakdown, Comparison, StageTime
from cnn.report.drawing import LIGHT, Axes, FigureBase, Line2D, decimal, plain
from cnn.report.table import number_text

OF_PHASE = {FORWARD: ("blue", "o"), WEIGHT: ("orange", "s"), DATA: ("green", "^"), UPDATE: ("purple", "D")}
COLUMNS = 3
LABELLED = 3
"""How many layers of each roofline are named: those with the longest stages."""


def with_roof(comparison: Comparison) -> list[Breakdown]:
    """The devices that have a roofline."""
    return [each for each in comparison.breakdowns if each.peak and each.bandwidth]


def draw_rooflines(figure: FigureBase, comparison: Comparison) -> None:
    """One panel per device: its roofline, and on it each layer and phase, as large as its share of the time."""
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
    # Labels stand below, where there is no roof, and neighbours at different heights.
    for place, timed in enumerate(sorted(labelled, key=lambda timed: timed.stage.intensity)):
        below = (0, -9 - 11 * (place % 2))
        axes.annotate(
            timed.stage.layer, _point(timed), below, textcoords="offset points", ha="center", va="top", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    decimal(axes.xaxis)
    decimal(axes.yaxis)
    axes.set_xlim(*ends)
    axes.set_title(
        f"{each.device}\n{number_text(peak / 1e9)} GFLOP/s, {number_text(bandwidth / 1e9)} GB/s",
        loc="left",
        fontsize=9,
    )
    plain(axes)


def _point(timed: StageTime) -> tuple[float, float]:
    """Intensity in FLOP per byte, and GFLOP/s."""
    return timed.stage.intensity, timed.stage.flops / timed.seconds.value / 1e9
