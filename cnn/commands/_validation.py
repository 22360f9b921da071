"""`cnn model validate`: measures steps, compares them with the model's, and prints the tables."""

import argparse
from collections.abc import Callable, Sequence

from cnn import registry
from cnn.backend import Backend
from cnn.commands import _common
from cnn.energy.calibration import MINUTES, Calibration, find, measure, save
from cnn.energy.checks import Check, Summary, checks, held_out, summaries
from cnn.energy.devices import catalogue
from cnn.energy.validation import (
    CORNELL_BATCH,
    CORNELL_DIFFERENCE,
    CurvePoint,
    ValidatedStep,
    cornell_curves,
    mean_absolute_error,
    measured_layers,
    validated,
)
from cnn.measure.benchmark import busy
from cnn.measure.other_work import OtherWork
from cnn.measure.profiler import LayerPass
from cnn.model.modelfile import architecture_of
from cnn.model.zoo import architecture
from cnn.report.table import interval_text, number_text
from cnn.system.storage import write_atomically
from cnn.system.threads import in_words
from cnn.terminal.printing import print_json, print_table, print_text, tell
from cnn.terminal.progress_bar import progress_line
from cnn.words import counted

ROUNDS = 4
"""The repeats of a step are spread over as many rounds through all steps: a disturbance has ended by the next."""


def validate(options: argparse.Namespace) -> None:
    """Predicts, measures unless only what is published is asked for, and prints."""
    draw = _drawing() if options.png else None
    cases = [] if options.published else _measured(options)
    devices = catalogue()
    found, alone, curves = checks(devices), held_out(devices), cornell_curves(architecture("lenet5"), devices)
    if draw:
        write_atomically(options.png, draw(found, curves))
    error = mean_absolute_error(cases)
    if options.json:
        print_json(
            {
                "mean_absolute_error": error,
                "within": sum(case.within for case in cases) / len(cases) if cases else None,
                "cases": [case.to_dict() for case in cases],
                "published": [each.to_dict() for each in found],
                "published_summaries": [vars(each) for each in summaries(found)],
                "held_out_summaries": [vars(each) for each in summaries(alone)],
                "cornell": [point.to_dict() for point in curves],
            }
        )
        return
    if error is not None:
        _print_steps(cases, options.layers)
        within = sum(case.within for case in cases)
        print_text(f"mean error {error:.1%} of {len(cases)} steps measured here, {within} of them within the interval")
        print()
    _print_published(found)
    _print_summaries(summaries(found), summaries(alone))
    _print_curves(curves)


def _measured(options: argparse.Namespace) -> list[ValidatedStep]:
    """The steps that the options ask for, measured here."""
    ready = [each.name for each in registry.statuses() if each.library]
    names = options.backend.split(",") if options.backend else [n for n in registry.default_order() if n in ready]
    architectures = [architecture_of(name) for name in options.model.split(",")]
    machine = [
        (backend, threads)
        for backend in map(registry.create, names)
        for threads in _common.thread_counts(options.threads)
    ]
    _calibrate([each for each in machine if _calibration(*each) is None])
    steps = [
        (each, backend, calibration, training)
        for backend, threads in machine
        if (calibration := _calibration(backend, threads)) is not None
        for each in architectures
        for training in (True, False)
    ]
    least: list[dict[LayerPass, float]] = [{} for _ in steps]
    with OtherWork() as others:
        for _ in range(ROUNDS):
            for (each, backend, calibration, training), known in zip(steps, least, strict=True):
                repeats = -(-options.repeats // ROUNDS)
                times = measured_layers(
                    *(each, backend, calibration.threads),
                    training=training,
                    batch=options.batch_size,
                    repeats=repeats,
                )
                known |= {place: min(seconds, known.get(place, seconds)) for place, seconds in times.items()}
    cases = [
        validated(each, calibration, times, training=training, batch=options.batch_size)
        for (each, _, calibration, training), times in zip(steps, least, strict=True)
    ]
    disturbed = busy({}, others.share)
    if disturbed:
        tell(disturbed)
    return cases


def _drawing() -> Callable[[Sequence[Check], Sequence[CurvePoint]], bytes]:
    """What draws the picture; imported before anything is measured, as matplotlib may be missing."""
    from cnn.report.validation_plot import validation_picture

    return validation_picture


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
        rows.append(
            [
                f"{case.net}, {case.batch}",
                case.mode,
                f"{case.where}, {case.threads}",
                interval_text(case.predicted.times(1e3)),
                number_text(case.measured * 1e3),
                f"{case.error:+z.0%}",
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
                    f"{p.error:+z.0%}",
                ]
                for p in case.parts
            ]
    print_table(["network, batch", "mode", "where", "model ms", "measured ms", "error"], rows)


def _print_published(found: Sequence[Check]) -> None:
    """The published steps; the products are too many, and have their line in the summaries."""
    steps = [each for each in found if each.library]
    rows = [
        [
            f"{each.key}, {each.software}: {each.what}",
            each.library or "",
            interval_text(each.predicted.times(1e3)),
            number_text(each.measured * 1e3),
            f"{each.error:+z.0%}",
        ]
        for each in steps
    ]
    print_table(["device, software: network", "algorithm", "model ms", "published", "error"], rows)
    for each in steps:
        if each.measured_watts is not None:
            print_text(f"{each.key}, {each.what}: {interval_text(each.watts)} W, published {each.measured_watts:g} W")
    print()


def _print_summaries(fitted: Sequence[Summary], alone: Sequence[Summary]) -> None:
    head = ["published times of", "number", "error", "within", "error, source left out", "within"]
    rows = [
        [one.kind, str(one.number), *(f"{share:.0%}" for share in (one.error, one.within, other.error, other.within))]
        for one, other in zip(fitted, alone, strict=True)
    ]
    print_table(head, rows)
    print_text("within: published times that lie within the interval, which is meant to hold nine in ten")
    print_text("source left out: nothing that the prediction rests on was fitted to figures of the same source")
    print()


def _print_curves(curves: Sequence[CurvePoint]) -> None:
    rows = [
        [f"{each.device}, {each.name}", str(each.threads), f"{each.published:.2f}", interval_text(each.model)]
        for each in curves
    ]
    print(f"the Cornell study's training of LeNet-5, batch {CORNELL_BATCH}")
    print_table(["where", "threads", "study", "model"], rows)
    print_text(CORNELL_DIFFERENCE)
