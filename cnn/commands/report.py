"""Shows one training run or compares several: text, a page or a picture, from their folders.

One run: its curves, what the saved model answers to the test images, the worst mistakes, the first filters, the time
and energy by layer, and how it was made. Several runs: accuracy against seconds and joules, the curves over each other,
and the settings that differ.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnn.commands import _common
from cnn.report.run import labels, read_run
from cnn.report.run_report import Seen, describe_run, describe_runs, examine_run
from cnn.report.run_text import print_run, print_runs
from cnn.system.storage import write_atomically
from cnn.terminal.arguments import expanded, output_file
from cnn.terminal.printing import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN... and the options."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=expanded, help="folders that cnn train wrote")
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write one HTML page that needs no network")
    parser.add_argument("--png", type=output_file, metavar="FILE", help="write the curves as a PNG image")
    parser.add_argument(
        "--examine",
        action=argparse.BooleanOptionalAction,
        help="run the model of a single run on the test images and time its layers (default: with --html or --json)",
    )
    parser.add_argument(
        "--data-dir", type=expanded, metavar="DIR", help="folder to search for the data set first (default: the run's)"
    )
    _common.add_resource_options(parser)
    _common.add_json_option(parser)
    _common.add_wide_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the text or the JSON and writes the files."""
    if options.png:
        from cnn.report.chart_png import charts_picture
    report, seen = _report(options)
    if options.html:
        write_page(report, seen, options.html)
    if options.png:
        from cnn.report.run_charts import run_charts, runs_charts

        runs = report["runs"]
        charts = run_charts(runs[0]["epochs"], runs[0]["best_epoch"]) if len(runs) == 1 else runs_charts(runs)
        write_atomically(options.png, charts_picture(charts, report["sentence"]))
    if options.json:
        print_json(report)
    elif len(report["runs"]) == 1:
        print_run(report["runs"][0], wide=options.wide)
    else:
        print_runs(report, wide=options.wide)


def write_page(report: dict[str, Any], seen: Seen | None, path: Path) -> None:
    """Writes the page of a report. Raises CnnError if it cannot be written."""
    from cnn.report.run_page import run_page

    write_atomically(path, run_page(report, seen).encode())


def _report(options: argparse.Namespace) -> tuple[dict[str, Any], Seen | None]:
    folders: Sequence[Path] = options.runs
    runs = [read_run(folder, label) for folder, label in zip(folders, labels(list(folders)), strict=True)]
    found = [describe_run(each) for each in runs]
    examine = options.examine if options.examine is not None else bool(options.html or options.json)
    seen = None
    if len(runs) == 1 and examine:
        if options.backend is None:
            options.backend = _ready(found[0]["backend"])
        with _common.resources(options) as resources:
            seen = examine_run(
                found[0],
                runs[0],
                resources.backend,
                resources.budget.count,
                data_dir=None if options.data_dir is None else str(options.data_dir),
            )
    return describe_runs(found), seen


def _ready(name: str | None) -> str | None:
    """The backend of the run if it is ready here, else None, for the default one."""
    from cnn import registry

    return name if name in {*registry.ready_names(), "reference"} else None
