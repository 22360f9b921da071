"""Shows a network's layers with their output shapes, parameters, operations and memory."""

import argparse

from cnn.commands import _common
from cnn.model.modelfile import architecture_of, is_saved, load_model
from cnn.model.table import rows_of, summarise, title, totals
from cnn.terminal.arguments import whole_number
from cnn.terminal.printing import print_json, print_table, print_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_model_argument(parser)
    parser.add_argument(
        "--batch-size", type=whole_number, default=64, metavar="N", help="images per batch, for the memory figures"
    )
    _common.add_resource_options(parser)
    _common.add_json_option(parser)
    _common.add_wide_option(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    with _common.resources(options) as resources:
        if is_saved(options.model):
            model = load_model(options.model, backend=resources.backend)
        else:
            model = architecture_of(options.model).build(backend=resources.backend)
    table = summarise(model, options.batch_size)
    if options.json:
        print_json(table)
        return
    print(title(model))
    head, rows = rows_of(table)
    print_table(head, rows, extra=["activations"], wide=options.wide, text="reads" if "reads" in head else None)
    for line in totals(table):
        print_text(line)
