"""What others measured beside the model, as a picture: times, and the Cornell study's speed-ups by threads."""

from collections.abc import Sequence

from cnn.energy.checks import Check
from cnn.energy.validation import CORNELL_BATCH, CurvePoint
from cnn.report.chart_png import draw_charts
from cnn.report.comparison_charts import published_charts
from cnn.report.drawing import LIGHT, Axes, Figure, FigureBase, plain, png

HEIGHT = 4.4
"""Inches of each half."""
STYLES = (("orange", "o"), ("purple", "s"))


def validation_picture(found: Sequence[Check], points: Sequence[CurvePoint]) -> bytes:
    """PNG: published times over the model's, and below it the published curves with the model's."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
        draw_charts(upper, published_charts(found))
        upper.suptitle("Published times and the model's; lines are its intervals of 90 %", fontsize=11)
        _draw_speedups(lower, points)

    return png(draw, 2 * HEIGHT)


def _draw_speedups(figure: FigureBase, points: Sequence[CurvePoint]) -> None:
    """One panel per device: the published curves, and the model's with its interval."""
    devices = dict.fromkeys(point.device for point in points)
    for axes, device in zip(figure.subplots(1, len(devices), squeeze=False)[0], devices, strict=True):
        _draw(axes, [point for point in points if point.device == device])
        axes.set_title(device, loc="left")
    figure.suptitle(f"LeNet-5, training, batch {CORNELL_BATCH}: the Cornell study and the model", fontsize=11)
    figure.supylabel("speed-up over one vectorised thread of the host", fontsize=10)


def _draw(axes: Axes, points: Sequence[CurvePoint]) -> None:
    model = sorted({point.threads: point.model for point in points}.items())
    threads = [count for count, _ in model]
    low, high = ([bound or 0.0 for bound in bounds] for bounds in zip(*(each[1:] for _, each in model), strict=True))
    axes.fill_between(threads, low, high, color=LIGHT["blue"], alpha=0.15, linewidth=0)
    label = "model: float32 GEMM, with its interval"
    axes.plot(threads, [each.value for _, each in model], color=LIGHT["blue"], label=label)
    for name, (colour, marker) in zip(dict.fromkeys(point.name for point in points), STYLES, strict=False):
        curve = [point for point in points if point.name == name]
        axes.plot(
            [point.threads for point in curve],
            [point.published for point in curve],
            color=LIGHT[colour],
            marker=marker,
            label=f"study: float64 loops, {name}",
        )
    axes.set_xlabel("threads")
    # Room for the legend.
    axes.set_ylim(0, 1.4 * max(high))
    plain(axes)
    axes.legend(loc="upper left")
