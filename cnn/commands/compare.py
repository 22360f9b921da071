"""Compares devices and backends for one step of a network: time, power and energy.

Measured rows are this machine's ready backends. Predicted rows are the catalogue's devices (`cnn devices`), and this
machine if it is calibrated (`cnn calibrate`). Published rows ran other networks or batches, as their own tables say:
they are for orientation, not for a ranking. "-" means unknown; * marks what rests on numbers that nobody has verified.
With --nodes it also predicts data-parallel training on many nodes, joined by a link: many of each --device.
"""

import argparse
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import cnn
import cnn.system.threads as threads
from cnn import precision, registry
from cnn.commands import _common
from cnn.commands._nodes import NODE, add_node_options, node_curves
from cnn.cost import Cost, count
from cnn.energy.algorithms import LIBRARIES
from cnn.energy.calibration import Calibration, load_all
from cnn.energy.checks import checks
from cnn.energy.devices import catalogue
from cnn.energy.model import Thresholds
from cnn.energy.published import published
from cnn.errors import UsageError
from cnn.model.architecture import Architecture
from cnn.model.modelfile import architecture_of
from cnn.report.comparison import Breakdown, Comparison, compare
from cnn.report.measured import measured_rows
from cnn.report.predicted import predict_at, predict_here, targets
from cnn.report.row import Row
from cnn.report.table import (
    HEAD,
    SCALING_HEAD,
    cells,
    estimate_text,
    notes,
    scaling_cells,
    scaling_notes,
    scaling_sections,
    sections,
    sources,
    to_csv,
    to_dict,
)
from cnn.system.machine import this_machine
from cnn.system.storage import write_atomically
from cnn.terminal.arguments import expanded, number, output_file, whole_number, whole_number_or_zero
from cnn.terminal.printing import print_json, print_table, print_text

EXTRA = ("threads", "energy", "W", "images/J", "mJ/image", "source", "from")
SCALING_EXTRA = ("images/J", "exposed", "communication", "batch", "efficiency")
"""Columns that a narrow terminal does without, the first of them first."""
PROPOSED = f"xeon-phi-5110p@{NODE}"
"""The card that this library was proposed for, in its cluster's node."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_workload_options(parser)
    parser.add_argument(
        "--device",
        metavar="KEYS",
        help="devices to predict, separated by commas; CARD@HOST is a card to which a host offloads products "
        f"(default: all, and {PROPOSED})",
    )
    parser.add_argument("--devices", type=expanded, metavar="FILE", help="TOML file with devices of your own")
    parser.add_argument(
        "--thresholds",
        type=_thresholds,
        default="2048,2048,256",
        metavar="M,N,K",
        help="a host offloads a product whose M, N and K are all larger than these (default: %(default)s, MKL's rule)",
    )
    parser.add_argument(
        "--algorithm",
        choices=LIBRARIES,
        default="im2col",
        metavar="NAME",
        help="how the software on the predicted devices computes convolutions (default: %(default)s): "
        + "; ".join(f"{key} ({library.words})" for key, library in LIBRARIES.items()),
    )
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to measure the network here, too",
    )
    parser.add_argument(
        "--backend",
        metavar="NAMES",
        help="backends to measure, separated by commas (default: all ready ones except reference)",
    )
    _common.add_backend_option(parser)
    _common.add_precision_option(parser)
    parser.add_argument(
        "--threads",
        type=whole_number,
        metavar="N",
        help="number of threads on this machine and on predicted processors (default: here "
        f"{_common.THREADS_DEFAULT}; predicted, all cores)",
    )
    parser.add_argument("--rounds", type=whole_number, default=21, metavar="N", help="timed runs on each backend")
    parser.add_argument(
        "--watts", type=number, metavar="W", help="power of this machine under load, used instead of a meter"
    )
    add_node_options(parser)
    _common.add_json_option(parser)
    _common.add_wide_option(parser)
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="write every row to a CSV file")
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write an HTML page with tables and plots")
    parser.add_argument("--png", type=output_file, metavar="FILE", help="write the plots as a PNG image")


def run(options: argparse.Namespace) -> None:
    """Predicts, measures, prints the tables and writes the files."""
    architecture = architecture_of(options.model)
    files = list(_files(options))
    cost = count(architecture, options.batch_size, training=options.mode == "train")
    scaling, too_many = node_curves(architecture, options, _calibrations(options) if options.measure else [])
    predicted, omitted = _predicted(cost, options)
    rows = [row for row, _ in predicted]
    if options.measure:
        here, measured = _here(architecture, cost, options)
        predicted, rows = here + predicted, [row for row, _ in here] + rows + measured
    checked = checks(catalogue()) if predicted and (options.html or options.png) else []
    comparison = compare(
        cost, rows, published(), [breakdown for _, breakdown in predicted], omitted + too_many, scaling, checked
    )
    for path, content in files:
        write_atomically(path, content(comparison))
    if options.json:
        print_json(to_dict(comparison))
    else:
        _print(comparison, wide=options.wide)


def _files(options: argparse.Namespace) -> Iterator[tuple[Path, Callable[[Comparison], bytes]]]:
    """The files to write and how; made before anything is measured, as matplotlib may be missing."""
    if options.csv:
        yield options.csv, lambda comparison: to_csv(comparison).encode()
    if options.html:
        from cnn.report.page import page

        yield options.html, lambda comparison: page(comparison, _header()).encode()
    if options.png:
        from cnn.report.figures import picture

        yield options.png, picture


def _predicted(cost: Cost, options: argparse.Namespace) -> tuple[list[tuple[Row, Breakdown]], list[str]]:
    """The prediction for each device, and why others have none; for a device asked for, that raises UsageError."""
    devices = catalogue(options.devices)
    asked = options.device.split(",") if options.device else [*devices, PROPOSED]
    found, omitted = [], []
    for target in targets(asked, devices):
        try:
            found.append(predict_at(cost, target, options.thresholds, options.threads, options.algorithm))
        except UsageError as error:
            if options.device:
                raise
            omitted.append(str(error))
    if precision.chosen() != precision.FLOAT32:
        omitted.append(
            f"Here the network is computed in {precision.chosen()}; the catalogue's devices are predicted in float32, "
            "as their rates in other precisions are not known."
        )
    return found, omitted


def _calibrations(options: argparse.Namespace) -> list[Calibration]:
    """The calibrations of the backends and threads asked for."""
    names, budget = _common.backend_names(options.backend), threads.budget(options.threads).count
    key = budget, precision.chosen()
    return [each for each in load_all() if each.backend in names and (each.threads, each.precision) == key]


def _here(
    architecture: Architecture, cost: Cost, options: argparse.Namespace
) -> tuple[list[tuple[Row, Breakdown]], list[Row]]:
    """The predictions from this machine's calibrations, and the measured rows."""
    chosen = [
        registry.create(name, **(options.backend_options or {})) for name in _common.backend_names(options.backend)
    ]
    measured = measured_rows(
        architecture,
        chosen,
        cost.batch,
        training=cost.training,
        threads=threads.budget(options.threads).count,
        rounds=options.rounds,
        watts=options.watts,
    )
    return [predict_here(cost, each) for each in _calibrations(options)], measured


def _header() -> dict[str, str]:
    """When a page was made, with which version, and on which machine."""
    made = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return {"made": f"{made} by cnn-blas {cnn.__version__}", "this machine": this_machine().cpu or "unknown"}


def _print(comparison: Comparison, *, wide: bool) -> None:
    known = sources(comparison)
    for title, rows in sections(comparison):
        print_text(title)
        table = [cells(row, known) for row in rows]
        columns = [place for place, name in enumerate(HEAD) if wide or not _empty(name, [row[place] for row in table])]
        if not wide:
            # Without its interval, which the time has already.
            for row, line in zip(rows, table, strict=True):
                line[HEAD.index("images/s")] = estimate_text(row.images_per_second)
        head = [HEAD[place] for place in columns]
        extra = [name for name in EXTRA if name in head]
        print_table(head, [[line[place] for place in columns] for line in table], extra=extra, wide=wide)
        for note in notes(rows):
            print_text(note, "  ")
        print()
    for title, found in scaling_sections(comparison):
        print_text(f"{title}, predicted")
        lines = [row for curve in found for row in scaling_cells(curve)]
        print_table(SCALING_HEAD, lines, extra=SCALING_EXTRA, wide=wide)
        for note in scaling_notes(found):
            print_text(note, "  ")
        print()
    for text in comparison.omitted:
        print_text(text)
    for place, source in enumerate(known, 1):
        print_text(f"[{place}] {source}")


def _empty(name: str, column: list[str]) -> bool:
    """Whether a column of a narrow table says nothing."""
    return name in EXTRA and all(cell in ("-", "unavailable") for cell in column)


def _thresholds(text: str) -> Thresholds:
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not M,N,K in whole numbers")
    return Thresholds(*map(whole_number_or_zero, parts))
