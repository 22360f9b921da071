"""A comparison as text, CSV and plain values: the same numbers in each."""

import csv
import io
from itertools import chain
from math import floor, log10
from typing import Any

from cnn.energy.interval import Interval
from cnn.report.comparison import Comparison, StageTime
from cnn.report.curve import Curve
from cnn.report.row import Row

HEAD = ["device", "threads", "from", "ms per batch", "images/s", "energy", "W", "mJ/image", "images/J", "source"]
SCALING_HEAD = [
    *("link", "nodes", "batch", "ms per step", "communication", "exposed"),
    *("images/s", "efficiency", "images/J"),
]
SECTIONS = (
    ("rows", "{title}: measured and predicted"),
    ("same_network", "Published for {net}, in other batches or other arithmetic: not to be ranked with the rows above"),
    ("other_networks", "Published for other networks, for orientation: not comparable"),
)


def sections(comparison: Comparison) -> list[tuple[str, tuple[Row, ...]]]:
    """Titles and rows of the tables that are not empty."""
    names = {"title": comparison.title, "net": comparison.cost.net}
    found = [(title.format(**names), getattr(comparison, field)) for field, title in SECTIONS]
    return [(title, rows) for title, rows in found if rows]


def sources(comparison: Comparison) -> list[str]:
    """Every source once, in the order of the rows: a row's number is its place here, from 1."""
    return list(dict.fromkeys(row.source for row in comparison.all_rows))


def cells(row: Row, known: list[str]) -> list[str]:
    """A row as text, under HEAD; "-" for what is unknown and * for what is indicative."""
    workload = "" if row.provenance != "published" else f" ({row.net}{f', batch {row.batch}' if row.batch else ''})"
    per_image = row.joules_per_image and row.joules_per_image.times(1e3)
    return [
        row.label + workload,
        "-" if row.threads is None else str(row.threads),
        row.provenance + "*" * row.indicative,
        interval_text(row.seconds and row.seconds.times(1e3)),
        interval_text(row.images_per_second),
        row.energy,
        interval_text(row.watts),
        interval_text(per_image),
        interval_text(row.images_per_joule),
        f"[{known.index(row.source) + 1}]",
    ]


def notes(rows: tuple[Row, ...]) -> list[str]:
    """Remarks on rows: their notes, that the machine was busy, and the numbers that nobody has verified."""
    labels: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            labels.setdefault(row.note, []).append(row.label)
    said = [f"{'; '.join(those)}: {note}" for note, those in labels.items()]
    said += dict.fromkeys(row.busy for row in rows if row.busy)
    return said + [
        f"* {row.label}: indicative, as nobody has verified {', '.join(row.unverified)}"
        for row in rows
        if row.indicative
    ]


def scaling_sections(comparison: Comparison) -> list[tuple[str, tuple[Curve, ...]]]:
    """Titles and curves of each kind of node."""
    titles = dict.fromkeys(curve.title for curve in comparison.scaling)
    return [(title, tuple(each for each in comparison.scaling if each.title == title)) for title in titles]


def scaling_cells(curve: Curve) -> list[list[str]]:
    """A row of text for each number of nodes, under SCALING_HEAD, the link on the first; * for what is indicative."""
    return [
        [
            "" if place else curve.link.name + "*" * bool(curve.unverified),
            f"{point.nodes:,}",
            f"{point.batch:,}",
            *(interval_text(each.times(1e3)) for each in (point.seconds, point.communication, point.exposed)),
            interval_text(point.images_per_second),
            interval_text(point.efficiency.times(100)) + "%",
            interval_text(point.images_per_joule),
        ]
        for place, point in enumerate(curve.points)
    ]


def scaling_notes(curves: tuple[Curve, ...]) -> list[str]:
    """Remarks on the links, and on what nobody has verified."""
    said = [f"{each.link.name}: {name} = {text}" for each in curves for name, text in each.link.quantities().items()]
    said += [f"{each.link.name}: {each.link.note}" for each in curves if each.link.note]
    said += [f"* {each.link.name}: indicative, as nobody has verified {', '.join(each.unverified)}" for each in curves]
    return [*said, "times in ms; the energy of NICs and switches is unknown and not counted"]


def interval_text(interval: Interval | None) -> str:
    """The number, and its bounds if they differ from it; "-" for None.

    Without bounds it has three significant digits. With bounds, all three are rounded to a tenth of their distance, or
    to the whole of it where that begins with 3 or more: further digits mean nothing.
    """
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return number_text(interval.value)
    value, low, high = (rounded(each, _last_place(interval)) for each in (interval.value, interval.low, interval.high))
    return value if low == high else f"{value} ({low}-{high})"


def estimate_text(interval: Interval | None) -> str:
    """The number alone, with the digits that its bounds leave it."""
    if interval is None or interval.low is None or interval.high is None or interval.low == interval.high:
        return interval_text(interval)
    return rounded(interval.value, _last_place(interval))


def _last_place(interval: Interval) -> int:
    """The power of ten of the last digit that means something; the number itself keeps two or three digits."""
    width, leading = (interval.high or 0.0) - (interval.low or 0.0), floor(log10(abs(interval.value) or 1.0))
    first = floor(log10(width))
    place = first if width / 10.0**first >= 3 else first - 1
    return min(max(place, leading - 2), leading - 1)


def rounded(value: float, place: int) -> str:
    """The number rounded to a multiple of ten to the power of `place`."""
    return f"{round(value, -place):,.{max(0, -place)}f}"


def number_text(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    digits = 2 if value == 0 else 2 - floor(log10(abs(value)))
    return f"{value:,.{max(0, digits)}f}"


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything as JSON values; times in seconds, energy in joules, None where unknown."""
    cost = comparison.cost
    return {
        "model": cost.net,
        "batch_size": cost.batch,
        "mode": comparison.mode,
        "flops": cost.flops,
        "gemm_flops": cost.gemm_flops,
        "bytes": cost.bytes,
        **{field: [row.to_dict() for row in getattr(comparison, field)] for field, _ in SECTIONS},
        "omitted": list(comparison.omitted),
        "breakdowns": [
            {
                "device": each.device,
                "peak_flops": each.peak,
                "bandwidth": each.bandwidth,
                "stages": [_stage(timed) for timed in each.stages],
            }
            for each in comparison.breakdowns
        ],
        **(
            {"scaling": [row for curve in comparison.scaling for row in curve.to_dicts()]} if comparison.scaling else {}
        ),
    }


def _stage(timed: StageTime) -> dict[str, Any]:
    stage, joules = timed.stage, timed.joules or (None, None, None)
    return {
        "layer": stage.layer,
        "phase": stage.phase,
        "flops": stage.flops,
        "bytes": stage.bytes,
        "intensity": stage.intensity,
        **dict(zip(("seconds", "seconds_low", "seconds_high"), timed.seconds, strict=True)),
        **dict(zip(("joules", "joules_low", "joules_high"), joules, strict=True)),
    }


def to_csv(comparison: Comparison) -> str:
    """Every row with the values of `to_dict`, its table first; empty where unknown."""
    rows = [{"table": field} | row.to_dict() for field, _ in SECTIONS for row in getattr(comparison, field)]
    rows += [{"table": "scaling"} | row for curve in comparison.scaling for row in curve.to_dicts()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(["table", *chain(*rows)])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value for a spreadsheet, which would take a text that begins like a formula for one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
