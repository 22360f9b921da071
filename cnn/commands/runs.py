"""Averages runs over their seeds, in a table: accuracy published and measured, time, and the command to reproduce it.

Only runs of the same settings are averaged: network, data, recipe, precision, backend, threads and machine. Accuracies
with test-time augmentation have rows of their own.
"""

import argparse

from cnn.commands import _common
from cnn.commands._train_options import REMEMBERED
from cnn.errors import UsageError
from cnn.report.numbers import percent
from cnn.report.run import OLD, labels, read_run
from cnn.report.seeds import averaged, markdown, measured, minutes, seeds
from cnn.terminal.arguments import expanded
from cnn.terminal.printing import note, print_json, print_note, print_table, print_text

UNKNOWN = f"{{model}}: its options are {OLD}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN... and the form."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=expanded, help="folders that cnn train wrote")
    parser.add_argument("--markdown", action="store_true", help="print a table in Markdown instead of text")
    _common.add_json_option(parser)
    _common.add_wide_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table in one of its three forms."""
    if options.json and options.markdown:
        raise UsageError("--json and --markdown are two forms of the same; give one of them.")
    folders = list(dict.fromkeys(options.runs))
    runs = [read_run(folder, label, least=0) for folder, label in zip(folders, labels(folders), strict=True)]
    found = averaged(runs, {name: value for name, value in REMEMBERED.items() if name != "dataset"})
    if options.json:
        print_json(found)
        return
    if options.markdown:
        print(markdown(found))
    elif found["rows"]:
        print_table(
            ["network", "data", "views", "published", "measured here", "seeds", "time"],
            [
                [
                    row["model"],
                    row["dataset"],
                    str(row["views"]),
                    percent(row["published"]["accuracy"]) if row["published"] else "-",
                    measured(row),
                    str(len(row["seeds"])),
                    minutes(row["seconds"]),
                ]
                for row in found["rows"]
            ],
            extra=["seeds", "views"],
            wide=options.wide,
        )
        print()
        for row in found["rows"]:
            if row["tta"] == "none":
                apart = ", ".join(f"{name} {value}" for name, value in row["apart"].items())
                print_text(f"{row['command'] or UNKNOWN.format(**row)}  ({seeds(row)}{'; ' * bool(apart)}{apart})")
        print()
        for each in found["verdicts"]:
            print_text(each["text"], style=None if each["reached"] else "warning")
    for each in found["left_out"]:
        (note if options.markdown else print_note)(f"{each['run']} is left out: {each['reason']}")
