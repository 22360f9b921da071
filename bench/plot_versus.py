"""Draws the results of `versus.py --all --json`: images per second relative to PyTorch's best setting, one bar per row.

python bench/plot_versus.py results.json versus.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

matplotlib.use("Agg")

import matplotlib.pyplot as plt

AHEAD, BEHIND = "#1b7837", "#b2622a"


def main() -> None:
    """Reads the results and writes the picture."""
    parser = argparse.ArgumentParser(description="Draws the JSON of versus.py: ratios to the best peer.")
    parser.add_argument("results", type=Path, help="JSON of versus.py, one object or a list")
    parser.add_argument("picture", type=Path, help="file to write: .png, .svg or .pdf")
    options = parser.parse_args()
    loaded = json.loads(options.results.read_text(encoding="utf-8"))
    results = loaded if isinstance(loaded, list) else [loaded]
    compared = [result for result in results if result["ratio_to_best_peer"] is not None]
    if not compared:
        parser.error(f"{options.results} has no comparison; install PyTorch and run versus.py again.")
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.55 * len(compared)), layout="constrained")
    draw(axes, compared)
    figure.savefig(options.picture, dpi=150)


def draw(axes: Axes, results: list[dict[str, Any]]) -> None:
    """Horizontal bars, the first result at the top, and a line where both are equal."""
    ratios = [result["ratio_to_best_peer"] for result in results]
    colours = [AHEAD if ratio >= 1 else BEHIND for ratio in ratios]
    places = range(len(results))
    axes.barh(places, ratios, color=colours, height=0.65)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.set_yticks(places, [_label(result) for result in results], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(1, *ratios))
    for place, (ratio, result) in enumerate(zip(ratios, results, strict=True)):
        # To the right of the line if the bar ends before it.
        axes.text(max(ratio, 1), place, f" {ratio:.2f}  ({_setting(result)})", va="center", fontsize=9)
    axes.set_xlabel("images per second relative to PyTorch's best setting (line: equal)")
    count = results[0]["threads"]
    axes.set_title(
        f"cnn, backend {results[0]['backend']}, and {_peer(results[0])}: {count} thread{'s' * (count > 1)}, float32",
        loc="left",
        fontsize=11,
    )
    axes.spines[["top", "right"]].set_visible(False)


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
