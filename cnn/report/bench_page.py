"""The page of `cnn bench`: the results with their spread, what has changed since an earlier run, and the history."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn.config import require
from cnn.errors import CnnError
from cnn.measure.benchmark import STEP
from cnn.paths import check_file, parsed_json, shown
from cnn.report.chart import COLOURS, Chart, Series
from cnn.report.html import render
from cnn.report.numbers import number_text
from cnn.terminal.printing import note

MOST_RUNS = 200
"""Of a history, the last ones are shown."""


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The benchmarks in a folder, the oldest first; a file that is none is left out with a note."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            check_file(path)
            run = parsed_json(path.read_bytes())
            rows = [(row["group"], row["backend"], row["threads"], row["images_per_second"]) for row in run["results"]]
            require(all(map(_is_row, rows)), "A row is none.")
            text = (run["date"], run["version"], run["machine"].get("cpu"))
            found.append({"date": text[0], "version": text[1], "machine": text[2] or "unknown", "rows": rows})
        except (CnnError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            note(f"{shown(path)} is not a benchmark of cnn bench; it is left out of the history")
    return sorted(found, key=lambda run: str(run["date"]))[-MOST_RUNS:]


def _is_row(row: tuple[Any, ...]) -> bool:
    """Whether these are a group, a backend, a number of threads and images per second."""
    group, backend, threads, speed = row
    fits = isinstance(group, str) and isinstance(backend, str) and type(threads) is int
    return fits and type(speed) in (int, float) and 0 <= speed < sys.float_info.max


def history_charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Images per second of each training step over the runs, one line per backend and number of threads."""
    groups = dict.fromkeys(row[0] for run in history for row in run["rows"] if row[0].endswith(STEP))
    charts = []
    for group in groups:
        kinds = dict.fromkeys(row[1:3] for run in history for row in run["rows"] if row[0] == group)
        series = []
        for place, kind in enumerate(kinds):
            points = [
                (float(number), row[3])
                for number, run in enumerate(history, 1)
                for row in run["rows"]
                if row[0] == group and row[1:3] == kind
            ]
            label = f"{kind[0]}, {kind[1]} {'thread' if kind[1] == 1 else 'threads'}"
            colour = COLOURS[place % len(COLOURS)]
            x, y = (tuple(each) for each in zip(*points, strict=True))
            series.append(Series(label, x, y, colour, dashed=place >= len(COLOURS)))
        charts.append(Chart(f"{group}, images per second", "run of the history", "images/s", tuple(series)))
    return charts


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """Which backend and number of threads takes the shortest step of each network, and by how much."""
    said = []
    for group in dict.fromkeys(each["group"] for each in results if each["group"].endswith(STEP)):
        rows = sorted((each for each in results if each["group"] == group), key=lambda each: each["seconds"])
        first, *others = rows
        text = (
            f"A {group} takes {number_text(first['seconds'] * 1e3)} ms on {_where(first)}: "
            f"{first['images_per_second']:,.0f} images/s"
        )
        if others:
            last = others[-1]
            text += f"; {_where(last)} takes {number_text(last['seconds'] / first['seconds'])} times as long"
        said.append(f"{text}.")
    return " ".join(said)


def bench_page(table: Mapping[str, Any], history: Iterable[Mapping[str, Any]], against: str = "") -> str:
    """The page of what `cnn bench --json` prints."""
    runs, results = list(history), table["results"]
    longest: dict[str, float] = {}
    for each in results:
        longest[each["group"]] = max(longest.get(each["group"], 0.0), each["seconds_high"])
    rows = []
    for place, each in enumerate(results):
        most = longest[each["group"]]
        rows.append(
            {
                **each,
                "first": place == 0 or results[place - 1]["group"] != each["group"],
                "bar": tuple(100 * each[name] / most for name in ("seconds_low", "seconds", "seconds_high")),
                "best": each["seconds"] == min(one["seconds"] for one in results if one["group"] == each["group"]),
            }
        )
    groups = list(dict.fromkeys(each["group"] for each in results if each["group"].endswith(STEP)))
    return render(
        "bench",
        title=f"benchmark of {', '.join(group.removesuffix(f' {STEP}') for group in groups) or 'layers'}",
        sentence=summary(results),
        table=table,
        rows=rows,
        scaling=len({each["threads"] for each in results}) > 1,
        changes=table.get("changes", []),
        against=against,
        history=runs if len(runs) > 1 else [],
        charts=history_charts(runs) if len(runs) > 1 else [],
    )


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['backend']} with {row['threads']} {'thread' if row['threads'] == 1 else 'threads'}"
