"""Measures this machine for the model of time and energy, for one backend and number of threads.

It measures SGEMM over the shapes of convolutions, the STREAM triad, the overhead of a call, and the layers of networks
drawn at random over the sizes that CNNs have. The result is kept in the cache, with its date, processor, library,
threads and precision. It takes 3 to 9 minutes on an idle machine. Each time is the minimum of several, in two passes;
on a busy machine it is too long all the same.
"""

import argparse
from dataclasses import replace

from cnn.commands import _common
from cnn.energy.calibration import calibration_file, measure, save
from cnn.errors import UsageError
from cnn.measure.benchmark import busy
from cnn.measure.other_work import OtherWork
from cnn.precision import FLOAT32
from cnn.terminal.arguments import number
from cnn.terminal.printing import output_may_fail, print_lines, print_table, tell
from cnn.terminal.progress_bar import progress_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    _common.add_resource_options(parser)
    _common.add_precision_option(parser)
    parser.add_argument("--idle-watts", type=number, metavar="W", help="power of the idle machine")
    parser.add_argument("--busy-watts", type=number, metavar="W", help="its power during large matrix products")


def run(options: argparse.Namespace) -> None:
    """Measures, keeps and prints."""
    watts = options.idle_watts, options.busy_watts
    if (watts[0] is None) != (watts[1] is None) or (watts[0] is not None and watts[0] > watts[1]):
        raise UsageError("Give both --idle-watts and --busy-watts, the former at most the latter, or neither.")
    with _common.resources(options) as resources:
        with output_may_fail():
            print_lines(resources.describe())
        with OtherWork() as others, progress_line() as show:
            result = measure(resources.backend, resources.budget.count, show)
    result = replace(result, idle_watts=watts[0], busy_watts=watts[1])
    save(result)
    products = "SGEMM" if result.precision == FLOAT32 else f"products in {result.precision}"
    print_lines(
        {
            products: f"{result.sgemm_rate / 1e9:.0f} GFLOP/s, half of that for sides of {result.half:.0f} "
            f"(error {result.sgemm_error:.0%})",
            "triad": f"{result.triad_rate / 1e9:.1f} GB/s",
            "call": f"{result.call_seconds * 1e6:.1f} us",
        }
    )
    head = ["task", "measured", "minimum us", "error"]
    rows = [
        [name, str(len(law.points)), f"{law.overhead * 1e6:.1f}", f"{law.error:.0%}"]
        for name, law in result.laws.items()
    ]
    print_table(head, rows)
    print("error: each task predicted from all others of its kind, root mean square of the logarithm")
    print(f"kept in {calibration_file()}")
    disturbed = busy({}, others.share)
    if disturbed:
        tell(disturbed)
