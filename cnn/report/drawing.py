"""How plots look, and how one becomes SVG for the page or PNG; the only module that imports matplotlib."""

import io
import re
from collections.abc import Callable
from typing import Any, Literal

from cnn.errors import CnnError

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise CnnError("Plots are drawn by matplotlib, which is missing: pip install 'cnn-blas[bench]'.") from error

__all__ = ["LIGHT", "Axes", "Figure", "FigureBase", "Line2D", "Patch", "PercentFormatter", "plain", "png", "svg"]

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
    "svg.fonttype": "none",
    # Names may hold dollar signs and are never formulas.
    "text.parse_math": False,
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
WIDTH = 11
"""Inches."""


def plain(axes: Axes, grid: Literal["both", "x"] = "both") -> None:
    """A grid behind what is drawn, and no frame above and on the right."""
    axes.grid(axis=grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def svg(draw: Callable[[Figure], None], height: float, name: str) -> str:
    """The SVG element of what `draw` draws, its colours as the page's variables, its ids with the prefix `name`."""
    text = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    found = text.getvalue()
    found = found[found.index("<svg") :]
    # Two figures on a page must not share an id.
    found = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", found)
    for variable, colour in LIGHT.items():
        found = found.replace(colour, f"var(--{variable})")
    return found


def png(draw: Callable[[Figure], None], height: float) -> bytes:
    """What `draw` draws, `height` inches high."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(content, format="png", dpi=150, facecolor="white")
    return content.getvalue()
