"""The charts of a comparison: layers under each device's roofline, and steps over numbers of nodes."""

from collections.abc import Sequence
from itertools import cycle

from cnn.cost import DATA, FORWARD, UPDATE, WEIGHT
from cnn.energy.algorithms import DIRECT, FAST, GEMM
from cnn.energy.checks import PRODUCTS, Check
from cnn.energy.interval import Interval
from cnn.report.chart import Chart, Series
from cnn.report.comparison import Breakdown, Comparison, StageTime
from cnn.report.curve import Curve
from cnn.report.table import number_text, scaling_sections

OF_PHASE = {FORWARD: "blue", WEIGHT: "orange", DATA: "green", UPDATE: "purple"}
LABELLED = 4
"""How many layers of each roofline are named: those with the longest stages."""
OF_LINK = ("blue", "orange", "green", "purple")
OF_KIND = {PRODUCTS: "muted", GEMM: "blue", FAST: "orange", DIRECT: "purple"}
PANELS = (("images_per_second", "images/s"), ("efficiency", "efficiency"), ("images_per_joule", "images/J"))


def with_roof(comparison: Comparison) -> list[Breakdown]:
    """The devices that have a roofline."""
    return [each for each in comparison.breakdowns if each.peak and each.bandwidth]


def comparison_charts(comparison: Comparison) -> list[Chart]:
    """Every chart of the comparison."""
    rooflines = [roofline_chart(each) for each in with_roof(comparison)]
    return rooflines + published_charts(comparison.checks) + scaling_charts(comparison)


def roofline_chart(each: Breakdown) -> Chart:
    """A device's roofline, and under it each layer and phase, its area its share of the time."""
    peak, bandwidth = (each.peak or 0.0) / 1e9, (each.bandwidth or 1.0) / 1e9
    timed = sorted((one for one in each.stages if one.stage.flops), key=lambda one: -one.seconds.value)
    title = f"{each.device}: {number_text(peak)} GFLOP/s, {number_text(bandwidth)} GB/s"
    return roofline(title, peak, bandwidth, timed)


def roofline(title: str, peak: float, bandwidth: float, timed: Sequence[StageTime]) -> Chart:
    """Stages, the longest first, under the roof of `peak` in 1e9 FLOP/s and `bandwidth` in 1e9 bytes/s."""
    total = sum(one.seconds.value for one in timed) or 1.0
    intensities = [one.stage.intensity for one in timed]
    least, most = (min(intensities), max(intensities)) if intensities else (0.1, 100.0)
    knee = peak / bandwidth
    ends = sorted({least, max(most, knee), min(max(knee, least), max(most, knee))})
    roof = Series("roofline", tuple(ends), tuple(min(peak, bandwidth * at) for at in ends), "ink")
    named: dict[str, StageTime] = {}
    for one in timed:
        named.setdefault(one.stage.layer, one)
    longest = list(named.values())[:LABELLED]
    points = []
    for phase, colour in OF_PHASE.items():
        own = [one for one in timed if one.stage.phase == phase]
        if own:
            points.append(
                Series(
                    phase,
                    tuple(one.stage.intensity for one in own),
                    tuple(one.stage.flops / one.seconds.value / 1e9 for one in own),
                    colour,
                    "points",
                    sizes=tuple(14 + 400 * one.seconds.value / total for one in own),
                    texts=tuple(one.stage.layer if one in longest else "" for one in own),
                )
            )
    return Chart(title, "FLOP/byte", "GFLOP/s", (roof, *points), x_log=True, y_log=True)


def published_charts(checks: Sequence[Check]) -> list[Chart]:
    """Published times over the model's with its intervals: products of SGEMM, and steps by class of software."""
    products = [each for each in checks if each.kind == PRODUCTS]
    steps = [each for each in checks if each.kind != PRODUCTS]
    named = (("Products (SGEMM) on 7250, K40 and Titan X", products), ("Steps of networks", steps))
    return [_checked(title, found) for title, found in named if found]


def _checked(title: str, found: Sequence[Check]) -> Chart:
    ends = sorted(each.measured * 1e3 for each in found)
    equal = Series("equal", (ends[0], ends[-1]), (ends[0], ends[-1]), "ink")
    series = [equal]
    for kind in dict.fromkeys(each.kind for each in found):
        own = [each for each in found if each.kind == kind]
        series.append(
            Series(
                kind,
                tuple(each.measured * 1e3 for each in own),
                tuple(each.predicted.value * 1e3 for each in own),
                OF_KIND[kind],
                "points",
                sizes=(16.0,) * len(own),
                band=tuple(_ends(each.predicted.times(1e3)) for each in own),
            )
        )
    return Chart(title, "published, ms", "model, ms", tuple(series), x_log=True, y_log=True)


def scaling_charts(comparison: Comparison) -> list[Chart]:
    """For each kind of node images per second, efficiency and images per joule over nodes, one line per link."""
    colours = dict(zip(dict.fromkeys(each.link.name for each in comparison.scaling), cycle(OF_LINK)))
    found = []
    for title, curves in scaling_sections(comparison):
        for name, unit in PANELS:
            series = [_line(curve, name, colours[curve.link.name]) for curve in curves]
            silent = _silent(curves[0], name)
            rate = name == "images_per_second"
            chart = Chart(
                f"{unit}; {title}",
                "nodes",
                unit,
                (*series, *([silent] if silent else [])),
                x_log=True,
                y_log=rate,
                percent=name == "efficiency",
            )
            found.append(chart)
    return found


def _line(curve: Curve, name: str, colour: str) -> Series:
    points = [(point.nodes, each) for point in curve.points if (each := getattr(point, name)) is not None]
    band = tuple(_ends(each) for _, each in points)
    x, y = tuple(float(nodes) for nodes, _ in points), tuple(each.value for _, each in points)
    return Series(curve.link.name, x, y, colour, band=band)


def _ends(value: Interval) -> tuple[float, float]:
    return value.low or value.value, value.high or value.value


def _silent(curve: Curve, name: str) -> Series | None:
    """The same without communication."""
    x = tuple(float(point.nodes) for point in curve.points)
    if name == "images_per_second":
        y = tuple(point.batch / point.compute.value for point in curve.points)
    elif name == "efficiency":
        y = tuple(point.efficiency.value * point.seconds.value / point.compute.value for point in curve.points)
    else:
        return None
    return Series("no communication", x, y, "muted", dashed=True)
