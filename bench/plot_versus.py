"""Draws the results of `versus.py --json`: images per second relative to PyTorch's best setting, one bar per row.

python bench/plot_versus.py results.json large.json versus.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import Patch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

COLOURS = {"train": "#0969da", "infer": "#1a7f37"}
NAMES = {"train": "training", "infer": "inference"}


def main() -> None:
    """Reads the results and writes the picture."""
    parser = argparse.ArgumentParser(description="Draws the JSON of versus.py: ratios to the best peer.")
    parser.add_argument("results", type=Path, nargs="+", help="JSON of versus.py, each one object or a list")
    parser.add_argument("picture", type=Path, help="file to write: .png, .svg or .pdf")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for file in options.results:
        loaded = json.loads(file.read_text(encoding="utf-8"))
        results += loaded if isinstance(loaded, list) else [loaded]
    compared = [result for result in results if result["ratio_to_best_peer"] is not None]
    if not compared:
        parser.error("There is no comparison in the results; install PyTorch and run versus.py again.")
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.55 * len(compared)), layout="constrained")
    draw(axes, compared)
    figure.savefig(options.picture, dpi=150)


def draw(axes: Axes, results: list[dict[str, Any]]) -> None:
    """Horizontal bars, the first result at the top, with the spread of the rounds, and a line where both are equal."""
    ratios = [result["ratio_to_best_peer"] for result in results]
    colours = [COLOURS[result["mode"]] for result in results]
    places = range(len(results))
    axes.barh(places, ratios, color=colours, height=0.6)
    ends = [_spread(result) for result in results]
    for place, (low, high) in enumerate(ends):
        axes.plot([low, high], [place, place], color="black", linewidth=1.2, marker="|", markersize=7)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.set_yticks(places, [_label(result) for result in results], fontsize=9)
    axes.invert_yaxis()
    most = max(1.0, *(high for _, high in ends))
    axes.set_xlim(0, 1.35 * most)
    axes.spines["bottom"].set_bounds(0, most)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= most])
    for place, (ratio, (_, high), result) in enumerate(zip(ratios, ends, results, strict=True)):
        # To the right of the line if the bar ends before it.
        axes.text(max(high, 1), place, f"  {ratio:.2f}  ({_setting(result)})", va="center", fontsize=9)
    axes.set_xlabel(
        "images per second relative to PyTorch's best setting; the lines: equal, and slowest to fastest round"
    )
    handles = [Patch(color=colour, label=NAMES[mode]) for mode, colour in COLOURS.items() if colour in colours]
    axes.legend(handles=handles, loc="lower right", frameon=False)
    count, precision = results[0]["threads"], results[0].get("precision", "float32")
    threads = f"{count} thread{'s' * (count > 1)}"
    axes.set_title(
        f"cnn, backend {results[0]['backend']}, and {_peer(results[0])}: {threads}, {precision}\n"
        f"{results[0].get('cpu') or 'processor not recorded'}",
        loc="left",
        fontsize=11,
    )
    axes.spines[["top", "right"]].set_visible(False)


def _spread(result: dict[str, Any]) -> tuple[float, float]:
    """The ratio of the slowest round here to the fastest of the peer, and the other way round."""
    (own_low, own_high), (peer_low, peer_high) = (result["spread"][name] for name in ("ours", result["best_peer"]))
    return own_low / peer_high, own_high / peer_low


def _label(result: dict[str, Any]) -> str:
    """Two lines: what was run, and both speeds."""
    theirs = result["peers"][result["best_peer"]]
    return f"{result['net']}, {result['mode']}, batch {result['batch']}\n{result['ours']:,.0f} : {theirs:,.0f} images/s"


def _peer(result: dict[str, Any]) -> str:
    """The best peer's name and version."""
    return " ".join(result["best_peer"].split()[:2])


def _setting(result: dict[str, Any]) -> str:
    """The best peer's setting."""
    return " ".join(result["best_peer"].split()[2:])


if __name__ == "__main__":
    main()
