"""Compares devices and backends at one network's step: time, power and energy, measured, predicted and published.

Measured rows are of this machine's ready backends. Published rows ran other networks or batches, as their own tables
say: they are for orientation, not for a ranking. "-" is what nobody knows; * rests on numbers that nobody verified.
"""

import argparse
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import cnn
import cnn.backend as backends
import cnn.threads as threads
from cnn.commands import common
from cnn.cost import count
from cnn.energy.published import published
from cnn.machine import this_machine
from cnn.report.comparison import Comparison, compare
from cnn.report.measured import measured_rows
from cnn.report.row import Row
from cnn.report.table import HEAD, cells, notes, sections, sources, to_csv, to_dict
from cnn.storage import write_atomically
from cnn.zoo import architecture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    common.add_net_options(parser)
    parser.add_argument(
        "--measure", action=argparse.BooleanOptionalAction, default=True, help="run the network on this machine"
    )
    parser.add_argument(
        "--backend", metavar="NAMES", help="backends, commas between (default: every ready one but reference)"
    )
    common.add_backend_option(parser)
    parser.add_argument(
        "--threads", type=common.whole_number, metavar="N", help="threads (default: all this process may use)"
    )
    parser.add_argument(
        "--watts", type=common.number, metavar="W", help="what this machine draws under load, in place of a meter"
    )
    parser.add_argument("--rounds", type=common.whole_number, default=21, metavar="N", help="runs on each backend")
    common.add_json_option(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every row to a CSV file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with tables and plots")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the plots as a picture")


def run(options: argparse.Namespace) -> None:
    """Measures, prints the tables and writes the files."""
    net = architecture(options.model)
    training = options.mode == "train"
    files = list(_files(options))
    rows: list[Row] = []
    if options.measure:
        chosen = [backends.create(name, **(options.backend_options or {})) for name in _names(options.backend)]
        rows += measured_rows(
            net,
            chosen,
            options.batch_size,
            training=training,
            threads=threads.budget(options.threads).count,
            rounds=options.rounds,
            watts=options.watts,
        )
    comparison = compare(count(net, options.batch_size, training=training), rows, published())
    for path, content in files:
        write_atomically(path, content(comparison))
    if options.json:
        common.print_json(to_dict(comparison))
    else:
        _print(comparison)


def _names(text: str | None) -> list[str]:
    if text is not None:
        return text.split(",")
    return [each.name for each in backends.statuses() if each.library and each.name != "reference"]


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


def _header() -> dict[str, str]:
    """What a page was made with."""
    made = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return {"made": f"{made} by cnn-blas {cnn.__version__}", "this machine": this_machine().cpu or "unknown"}


def _print(comparison: Comparison) -> None:
    known = sources(comparison)
    for place, (title, rows) in enumerate(sections(comparison)):
        print(f"\n{title}" if place else title)
        common.print_table(HEAD, [cells(row, known) for row in rows])
        for note in notes(rows):
            print(f"  {note}")
    print()
    for number, source in enumerate(known, 1):
        print(f"[{number}] {source}")
