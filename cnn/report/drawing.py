"""How pictures look, and how one becomes PNG; the only module that imports matplotlib."""

import io
from collections.abc import Callable
from typing import Any, Literal

from cnn.errors import CnnError
from cnn.report.chart import tick_text

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter
except ImportError as error:
    raise CnnError("Plots are drawn by matplotlib, which is missing: pip install 'cnn-blas[bench]'.") from error

__all__ = ["LIGHT", "Axes", "Figure", "FigureBase", "Patch", "PercentFormatter", "logarithmic", "plain", "png"]

LIGHT = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d8dee4",
    "blue": "#0969da",
    "green": "#1a7f37",
    "orange": "#bc4c00",
    "purple": "#8250df",
    "red": "#cf222e",
    "teal": "#1b7c83",
}
"""Colours of the plots; on the page each stands for the CSS variable of its name."""

STYLE: Any = {
    "font.size": 10,
    # Names may hold dollar signs and are never formulas.
    "text.parse_math": False,
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
WIDTH = 11
"""Inches."""


def plain(axes: Axes, grid: Literal["both", "x"] = "both") -> None:
    """A grid behind what is drawn, and no frame above and on the right."""
    axes.grid(axis=grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """Makes an axis logarithmic, its numbers as plain text: matplotlib's would be formulas."""
    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axis.set_minor_formatter(NullFormatter())


def png(draw: Callable[[Figure], None], height: float) -> bytes:
    """What `draw` draws, `height` inches high."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(content, format="png", dpi=150, facecolor="white")
    return content.getvalue()
