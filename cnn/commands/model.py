"""Holds the model of time against measurements: this machine's, and published ones it was not fitted to.

`cnn model validate` predicts a step of each network on each ready backend from its calibration (`cnn calibrate`; what
is missing is calibrated first), measures it, and prints the error of the step and with --layers of each layer.
A step's time is the sum of its layers' least times over the repeats.
Published times come from other software than this library; the model knows im2col + GEMM, not cuDNN's algorithms.
Below stand the Cornell study's speed-ups by threads on its two machines, and the model's; --png draws them.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cnn import registry
from cnn.backend import Backend
from cnn.commands import _common
from cnn.commands.calibrate import show_progress
from cnn.energy.calibration import Calibration, find, measure, save
from cnn.energy.devices import catalogue
from cnn.energy.validation import (
    CORNELL_BATCH,
    CORNELL_DIFFERENCE,
    CurvePoint,
    ValidatedStep,
    cornell_curves,
    mean_absolute_error,
    measured_case,
    published_cases,
)
from cnn.measure.benchmark import busy
from cnn.measure.other_work import OtherWork
from cnn.model.zoo import ZOO, architecture
from cnn.report.table import interval_text, number_text
from cnn.system.storage import write_atomically
from cnn.system.threads import in_words
from cnn.terminal.arguments import whole_number, whole_numbers
from cnn.terminal.printing import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ACTION and the options."""
    parser.add_argument("action", metavar="ACTION", choices=("validate",), help="validate")
    parser.add_argument("--model", default=",".join(ZOO), metavar="NAMES", help="networks, commas between")
    parser.add_argument(
        "--backend", metavar="NAMES", help="backends, commas between (default: those users get unnamed)"
    )
    parser.add_argument(
        "--threads", type=whole_numbers, default="1,2", metavar="COUNTS", help="thread counts, commas between"
    )
    parser.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images a step")
    parser.add_argument("--repeats", type=whole_number, default=40, metavar="N", help="steps measured")
    parser.add_argument("--layers", action="store_true", help="print the error of each layer")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the Cornell study's curves and the model's")
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Predicts, measures and prints."""
    draw = _drawing() if options.png else None
    ready = [each.name for each in registry.statuses() if each.library]
    names = options.backend.split(",") if options.backend else [n for n in registry.DEFAULT_ORDER if n in ready]
    nets = [architecture(name) for name in options.model.split(",")]
    with OtherWork() as others:
        cases = [
            measured_case(
                net, backend, calibration, training=training, batch=options.batch_size, repeats=options.repeats
            )
            for backend in map(registry.create, names)
            for calibration in (_calibration(backend, threads) for threads in _common.thread_counts(options.threads))
            for net in nets
            for training in (True, False)
        ]
    disturbed = busy({}, others.share)
    if disturbed:
        print(disturbed, file=sys.stderr)
    devices = catalogue()
    published, curves = published_cases(devices), cornell_curves(architecture("lenet5"), devices)
    if draw:
        write_atomically(options.png, draw(curves))
    errors = mean_absolute_error(cases), mean_absolute_error(published)
    if options.json:
        print_json(
            {
                "mean_absolute_error": errors[0],
                "published_mean_absolute_error": errors[1],
                "cases": [case.to_dict() for case in cases],
                "published": [case.to_dict() for case in published],
                "cornell": [point.to_dict() for point in curves],
            }
        )
        return
    _print(cases, options.layers)
    within = sum(case.within for case in cases)
    print(f"mean error {errors[0]:.1%} of {len(cases)} steps measured here, {within} of them within the interval\n")
    _print(published, False)
    print(f"mean error {errors[1]:.1%} of {len(published)} published steps\n")
    _print_curves(curves)


def _drawing() -> Callable[[Sequence[CurvePoint]], bytes]:
    """How curves are drawn; asked before anything is measured, as matplotlib may be missing."""
    from cnn.report.speedup_plot import speedups_picture

    return speedups_picture


def _calibration(backend: Backend, count: int) -> Calibration:
    found = find(backend.name, count)
    if found is not None and found.library == str(backend.library):
        return found
    print(f"calibrating {backend.name} at {in_words(count)}", file=sys.stderr, flush=True)
    result = measure(backend, count, show_progress)
    save(result)
    return result


def _print(cases: list[ValidatedStep], layers: bool) -> None:
    rows = []
    for case in cases:
        where = case.where if case.threads is None else f"{case.where}, {case.threads}"
        rows.append(
            [
                f"{case.net}, {case.batch}",
                case.mode,
                where + (f", {case.software}" if case.software else ""),
                interval_text(case.predicted.times(1e3)) + "*" * case.indicative,
                number_text(case.measured * 1e3),
                f"{case.error:+.0%}",
            ]
        )
        if layers:
            rows += [
                [
                    f"  {p.layer}",
                    p.direction,
                    "",
                    number_text(p.predicted * 1e3),
                    number_text(p.measured * 1e3),
                    f"{p.error:+.0%}",
                ]
                for p in case.parts
            ]
    print_table(["net, batch", "mode", "where", "model ms", "measured ms", "error"], rows)
    if any(case.indicative for case in cases):
        print("* indicative: the model rests on numbers that nobody verified (`cnn devices`)")


def _print_curves(curves: Sequence[CurvePoint]) -> None:
    rows = [
        [f"{each.device}, {each.name}", str(each.threads), f"{each.published:.2f}", interval_text(each.model)]
        for each in curves
    ]
    print(f"the Cornell study's training of LeNet-5, batch {CORNELL_BATCH}")
    print_table(["where", "threads", "study", "model"], rows)
    print(CORNELL_DIFFERENCE)
