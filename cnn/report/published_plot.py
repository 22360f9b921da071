"""Published times over those of the model, one point each with its interval, on logarithmic axes."""

from collections.abc import Sequence

from cnn.energy.algorithms import DIRECT, FAST, GEMM
from cnn.energy.checks import PRODUCTS, Check
from cnn.report.drawing import LIGHT, Axes, FigureBase, decimal, plain

OF_KIND = {PRODUCTS: ("muted", "."), GEMM: ("blue", "o"), FAST: ("orange", "s"), DIRECT: ("purple", "D")}


def draw_published(figure: FigureBase, found: Sequence[Check]) -> None:
    """Two panels: products of SGEMM, and steps of networks by class of software."""
    products = [each for each in found if each.kind == PRODUCTS]
    steps = [each for each in found if each.kind != PRODUCTS]
    left, right = figure.subplots(1, 2)
    _draw(left, products, "products (SGEMM) on 7250, K40 and Titan X")
    _draw(right, steps, "steps of networks")
    left.set_ylabel("model, ms")
    right.legend(loc="upper left")
    figure.suptitle("Published times and the model's; lines are its intervals of 90 %", fontsize=11)


def _draw(axes: Axes, found: Sequence[Check], title: str) -> None:
    values = [value * 1e3 for each in found for value in (each.measured, *each.predicted) if value]
    ends = min(values) / 1.3, max(values) * 1.3
    axes.plot(ends, ends, color=LIGHT["ink"], linewidth=1)
    for kind in dict.fromkeys(each.kind for each in found):
        colour, marker = OF_KIND[kind]
        of_kind = [each for each in found if each.kind == kind]
        measured = [each.measured * 1e3 for each in of_kind]
        low, high = ([(each.predicted[place] or 0) * 1e3 for each in of_kind] for place in (1, 2))
        axes.vlines(measured, low, high, color=LIGHT[colour], alpha=0.25 if kind == PRODUCTS else 0.6, linewidth=1.2)
        middle = [each.predicted.value * 1e3 for each in of_kind]
        axes.plot(measured, middle, color=LIGHT[colour], marker=marker, linestyle="", markersize=5, label=kind)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    decimal(axes.xaxis)
    decimal(axes.yaxis)
    axes.set_xlabel("published, ms")
    axes.set_title(title, loc="left", fontsize=10)
    plain(axes)
