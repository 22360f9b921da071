"""Compares the model's times with measurements: this machine's, and published ones.

`cnn model validate` predicts a step of each network from the calibration of each backend (`cnn calibrate`; what is
missing is calibrated first), measures it, and prints the error of the step, and with --layers of each layer.
A step's time is the sum of its layers' minimum times over the repeats.
Published times are compared twice: with the catalogue as it is, and with each source left out of all fits in turn.
With --published nothing is measured. At the end come the Cornell study's speed-ups by threads on its two machines,
beside the model's. --png draws what is published beside the model.
"""

import argparse

from cnn import registry
from cnn.commands import _common
from cnn.commands._validation import validate
from cnn.model.zoo import SMALL
from cnn.terminal.arguments import output_file, whole_number, whole_numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ACTION, MODEL and the options."""
    parser.add_argument("action", metavar="ACTION", choices=("validate",), help="validate, the only action so far")
    _common.add_model_argument(parser, ",".join(SMALL), several=True)
    parser.add_argument(
        "--backend",
        metavar="NAMES",
        help=f"backends, separated by commas (default: the ready ones of {', '.join(registry.default_order())})",
    )
    parser.add_argument(
        "--threads",
        type=whole_numbers,
        default="1,2",
        metavar="COUNTS",
        help="numbers of threads, separated by commas",
    )
    parser.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images per step")
    parser.add_argument("--repeats", type=whole_number, default=40, metavar="N", help="timed runs of each step")
    parser.add_argument("--published", action="store_true", help="measure nothing, compare with what is published only")
    parser.add_argument("--layers", action="store_true", help="print the error of each layer, too")
    parser.add_argument(
        "--png", type=output_file, metavar="FILE", help="draw published times and speed-ups beside the model's"
    )
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Validates, the only action."""
    validate(options)
