"""Images per second, efficiency and images per joule over the number of nodes."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from cnn.report.comparison import Comparison
from cnn.report.curve import Curve
from cnn.report.drawing import LIGHT, Axes, FigureBase, Line2D, PercentFormatter, plain
from cnn.report.table import scaling_sections

OF_LINK = ("blue", "orange", "green", "purple")
PANELS = (("images_per_second", "images/s"), ("efficiency", "efficiency"), ("images_per_joule", "images/J"))


def draw_scaling(figure: FigureBase, comparison: Comparison) -> None:
    """One row per kind of node: images per second, efficiency and images per joule over nodes, one line per link."""
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
    plain(axes)
