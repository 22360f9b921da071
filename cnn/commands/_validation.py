"""`cnn model validate`: measures steps, compares them with the model's, and prints the tables."""

import argparse
from collections.abc import Callable, Sequence

from cnn import registry
from cnn.backend import Backend
from cnn.commands import _common
from cnn.energy.calibration import MINUTES, Calibration, find, measure, save
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
from cnn.model.modelfile import architecture_of
from cnn.model.zoo import architecture
from cnn.report.table import interval_text, number_text
from cnn.system.storage import write_atomically
from cnn.system.threads import in_words
from cnn.terminal.printing import print_json, print_table, tell
from cnn.terminal.progress_bar import progress_line
from cnn.words import counted


def validate(options: argparse.Namespace) -> None:
    """Predicts, measures and prints."""
    draw = _drawing() if options.png else None
    ready = [each.name for each in registry.statuses() if each.library]
    names = options.backend.split(",") if options.backend else [n for n in registry.default_order() if n in ready]
    architectures = [architecture_of(name) for name in options.model.split(",")]
    machine = [
        (backend, threads)
        for backend in map(registry.create, names)
        for threads in _common.thread_counts(options.threads)
    ]
    _calibrate([each for each in machine if _calibration(*each) is None])
    with OtherWork() as others:
        cases = [
            measured_case(
                each, backend, calibration, training=training, batch=options.batch_size, repeats=options.repeats
            )
            for backend, threads in machine
            if (calibration := _calibration(backend, threads)) is not None
            for each in architectures
            for training in (True, False)
        ]
    disturbed = busy({}, others.share)
    if disturbed:
        tell(disturbed)
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
    _print_steps(cases, options.layers)
    within = sum(case.within for case in cases)
    print(f"mean error {errors[0]:.1%} of {len(cases)} steps measured here, {within} of them within the interval\n")
    _print_steps(published, False)
    print(f"mean error {errors[1]:.1%} of {len(published)} published steps\n")
    _print_curves(curves)


def _drawing() -> Callable[[Sequence[CurvePoint]], bytes]:
    """What draws the curves; imported before anything is measured, as matplotlib may be missing."""
    from cnn.report.speedup_plot import speedups_picture

    return speedups_picture


def _calibration(backend: Backend, count: int) -> Calibration | None:
    """The calibration kept for the backend's present library, if there is one."""
    found = find(backend.name, count)
    return found if found is not None and found.library == str(backend.library) else None


def _calibrate(missing: Sequence[tuple[Backend, int]]) -> None:
    """Makes and keeps the calibrations that are missing, after saying how many there are and how long they take."""
    texts = [f"{backend.name} at {in_words(threads)}" for backend, threads in missing]
    if missing:
        tell(
            f"not calibrated yet: {', '.join(texts)}; {counted(len(missing), 'calibration')} first, {MINUTES} each on "
            "an idle machine. Ctrl-C stops; each one that is done is kept."
        )
    for place, (backend, threads) in enumerate(missing):
        tell(f"calibration {place + 1} of {len(missing)}: {texts[place]}")
        with progress_line() as show:
            save(measure(backend, threads, show))


def _print_steps(cases: list[ValidatedStep], layers: bool) -> None:
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
    print_table(["network, batch", "mode", "where", "model ms", "measured ms", "error"], rows)
    if any(case.indicative for case in cases):
        print("* indicative: the prediction rests on numbers that nobody has verified (`cnn devices`)")


def _print_curves(curves: Sequence[CurvePoint]) -> None:
    rows = [
        [f"{each.device}, {each.name}", str(each.threads), f"{each.published:.2f}", interval_text(each.model)]
        for each in curves
    ]
    print(f"the Cornell study's training of LeNet-5, batch {CORNELL_BATCH}")
    print_table(["where", "threads", "study", "model"], rows)
    print(CORNELL_DIFFERENCE)
