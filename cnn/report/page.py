"""A comparison as one HTML file that needs nothing else: this machine, then other devices, then published runs."""

from collections.abc import Sequence
from typing import Any

from cnn.energy.interval import Interval
from cnn.report.comparison import Breakdown, Comparison
from cnn.report.comparison_charts import published_charts, roofline_chart, scaling_charts, with_roof
from cnn.report.html import render
from cnn.report.row import Row
from cnn.report.table import (
    HEAD,
    SCALING_HEAD,
    cells,
    estimate_text,
    number_text,
    scaling_cells,
    scaling_notes,
    scaling_sections,
    sources,
)

FIRST = ("device", "ms per batch", "images/s")
"""The columns that a phone shows without scrolling."""
ORDER = (*FIRST, *(name for name in HEAD if name not in FIRST))
TEXTS = ("device", "from", "energy")
CALIBRATED = "`cnn calibrate`"
"""What the source of a row says that is predicted for this machine."""


def page(comparison: Comparison, header: dict[str, str]) -> str:
    """The file's text; `header` says, by title, what it was made with."""
    known = sources(comparison)
    here = [row for row in comparison.rows if is_here(row)]
    here.sort(key=lambda row: row.provenance != "measured")  # the order of their times stays otherwise
    others = [row for row in comparison.rows if not is_here(row)]
    ours = {row.label for row in here}
    roofs = with_roof(comparison)
    return render(
        "compare",
        title=comparison.title,
        sentence=summary(comparison),
        header=header,
        busy=list(dict.fromkeys(row.busy for row in comparison.rows if row.busy)),
        here=_table(here, known),
        others=_table(others, known),
        notes={"here": _notes(here), "others": _notes(others)},
        unverified=[(row.label, ", ".join(row.unverified)) for row in others if row.unverified],
        omitted=comparison.omitted,
        roofs_here=[roofline_chart(each) for each in roofs if each.device in ours],
        roofs=[roofline_chart(each) for each in roofs if each.device not in ours],
        scaling=[
            (title, SCALING_HEAD, [cell for curve in curves for cell in scaling_cells(curve)], scaling_notes(curves))
            for title, curves in scaling_sections(comparison)
        ],
        scaling_charts=scaling_charts(comparison),
        published_charts=published_charts(comparison.checks),
        layers_here=_layers(comparison, [each for each in comparison.breakdowns if each.device in ours]),
        layers=_layers(comparison, comparison.breakdowns),
        published=[
            (title, _table(rows, known), _notes(rows))
            for title, rows in (
                (f"{comparison.cost.net} in other batches or arithmetic, published", _told(comparison.same_network)),
                ("Other networks, published", _told(comparison.other_networks)),
            )
            if rows
        ],
        sources=known,
        texts=TEXTS,
    )


def is_here(row: Row) -> bool:
    """Whether a row is of this machine: measured, or predicted from its calibration."""
    return row.provenance == "measured" or CALIBRATED in row.source


def summary(comparison: Comparison) -> str:
    """What the comparison comes to, in a sentence or two."""
    does = "trains" if comparison.cost.training else "classifies"
    measured = [row for row in comparison.rows if row.provenance == "measured" and row.images_per_second]
    predicted = [row for row in comparison.rows if not is_here(row) and row.images_per_second]
    said = []
    if measured:
        first = measured[0]
        rate, time = estimate_text(first.images_per_second), estimate_text(first.seconds and first.seconds.times(1e3))
        among = f", the fastest of {len(measured)} backends" if len(measured) > 1 else ""
        said.append(
            f"{first.device} {does} {rate} images/s of {comparison.cost.net} with {first.software}{among}: "
            f"{time} ms for a batch of {comparison.cost.batch}."
        )
    if predicted:
        fastest, slowest = predicted[0], predicted[-1]
        ends = [f"{estimate_text(row.images_per_second)} images/s ({row.label})" for row in (fastest, slowest)]
        span = f"{ends[0]} to {ends[1]}" if len(predicted) > 1 else ends[0]
        what = "other devices" if measured else "devices"
        said.append(f"Of {len(predicted)} {what} the model predicts {span}.")
    return " ".join(said) or f"Nothing was measured or predicted for {comparison.title}."


def _told(rows: Sequence[Row]) -> list[Row]:
    """The rows that say anything."""
    return [row for row in rows if row.seconds_per_image or row.joules_per_image or row.watts]


def _table(rows: Sequence[Row], known: list[str]) -> dict[str, Any]:
    """The titles of the columns that are not empty, and of each row its cells and its bar: shares of the fastest rate.

    Published rows have no bars, as they are not to be compared.
    """
    rates = [row.images_per_second for row in rows if row.images_per_second]
    most = max((rate.high or rate.value for rate in rates), default=1.0)
    lines = [dict(zip(HEAD, cells(row, known), strict=True)) for row in rows]
    columns = [name for name in ORDER if any(line[name] not in ("-", "unavailable") for line in lines)]
    return {
        "columns": columns,
        "bars": any(row.provenance != "published" for row in rows),
        "lines": [
            {
                "cells": [line[name] for name in columns],
                "bar": _bar(row.images_per_second, most),
                "mine": row.provenance == "measured",
            }
            for row, line in zip(rows, lines, strict=True)
        ],
    }


def _bar(rate: Interval | None, most: float) -> tuple[float, float, float] | None:
    if rate is None:
        return None
    low, high = rate.low or rate.value, rate.high or rate.value
    return 100 * low / most, 100 * rate.value / most, 100 * high / most


def _notes(rows: Sequence[Row]) -> list[str]:
    """Remarks on the rows, each once."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            said.setdefault(row.note, []).append(row.label)
    found = [f"{'; '.join(those)}: {note}" for note, those in said.items()]
    if any(row.indicative for row in rows):
        found.append("* rests on numbers of the device that nobody has verified")
    return found


def _layers(comparison: Comparison, shown: Sequence[Breakdown]) -> tuple[list[str], list[list[str]]] | None:
    """FLOP and bytes of each layer and phase, and its time on each device, and its energy where that is known."""
    if not shown:
        return None
    columns: list[tuple[str, dict[tuple[str, str], str]]] = []
    for device in shown:
        places = [(each.stage.layer, each.stage.phase) for each in device.stages]
        times = [number_text(each.seconds.value * 1e3) for each in device.stages]
        columns.append((f"{device.device}, ms", dict(zip(places, times, strict=True))))
        if any(each.joules for each in device.stages):
            energy = [number_text(each.joules.value * 1e3) if each.joules else "-" for each in device.stages]
            columns.append((f"{device.device}, mJ", dict(zip(places, energy, strict=True))))
    head = ["layer", "phase", "MFLOP", "MB", "FLOP/byte", *(title for title, _ in columns)]
    rows = [
        [
            stage.layer,
            stage.phase,
            *(number_text(value) for value in (stage.flops / 1e6, stage.bytes / 1e6, stage.intensity)),
            *(column[stage.layer, stage.phase] for _, column in columns),
        ]
        for stage in comparison.cost.stages
        if stage.operations
    ]
    return head, rows
