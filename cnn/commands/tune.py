"""Finds the fastest settings of a network on a backend and this machine by measuring, and writes them for --config.

It tries numbers of threads, batch sizes, and those options of the backend that the backend proposes, one after the
other, each with the best values found so far for the rest. A value is changed only if the gain exceeds the noise of the
measurement: the median gain over rounds taken in turns must be above 0 with a certainty of 95 %.

Another batch size changes training itself, and with it the accuracy that a recipe reaches. For training the batch size
therefore stays the recipe's unless --batch-sizes is given. Options given with --backend-option are left as they are.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

import cnn.plugins as plugins
import cnn.system.threads as threads
from cnn import registry
from cnn.backend import Backend
from cnn.backend_options import options_of
from cnn.commands import _common
from cnn.commands._config_file import write_config
from cnn.errors import Interrupted, UsageError
from cnn.measure.benchmark import Job, busy, inference_job, step_job
from cnn.measure.other_work import OtherWork
from cnn.measure.speedup import Speedup
from cnn.measure.tuning import Finding, Setting, Trial, Tuner
from cnn.model.architecture import Architecture
from cnn.model.modelfile import architecture_of, is_saved
from cnn.system.machine import this_machine
from cnn.system.signals import stop_on_signals
from cnn.terminal.arguments import output_file, whole_number, whole_numbers
from cnn.terminal.printing import output_may_fail, print_json, print_lines, print_note, print_table, text_lines

EVAL_BATCH = 64
"""The default of cnn eval."""

EVAL_BATCHES = [16, 32, 64, 128, 256, 512]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options."""
    _common.add_model_argument(parser)
    parser.add_argument(
        "--mode", choices=("train", "infer"), default="train", help="what to make fast: training steps or predictions"
    )
    parser.add_argument("--backend", metavar="NAME", help=f"backend to tune (default: {_common.BACKEND_DEFAULT})")
    _common.add_backend_option(parser)
    _common.add_precision_option(parser)
    parser.add_argument(
        "--threads",
        type=whole_numbers,
        metavar="COUNTS",
        help=f"numbers of threads to try, separated by commas (default: {_common.THREADS_DEFAULT}, and half of that, a "
        "quarter, ...)",
    )
    sizes = ", ".join(map(str, EVAL_BATCHES))
    parser.add_argument(
        "--batch-sizes",
        type=whole_numbers,
        metavar="SIZES",
        help=f"batch sizes to try, separated by commas (default: for train the recipe's; for infer {sizes})",
    )
    parser.add_argument(
        "--rounds", type=whole_number, default=15, metavar="N", help="rounds in which two settings are compared"
    )
    parser.add_argument(
        "--out",
        type=output_file,
        metavar="FILE",
        help="file to write (default: tuned-<network>-<backend>-<mode>.toml, with -2, -3, ... if that is there)",
    )
    _common.add_json_option(parser)


def run(options: argparse.Namespace) -> None:
    """Measures, prints what each choice gained, and writes the file."""
    architecture = architecture_of(options.model)
    if options.mode == "train" and is_saved(options.model):
        raise UsageError(f"{options.model} is trained already: give --mode infer, or a network's name or .toml file.")
    backend, why = registry.choose(options.backend, options.backend_options)
    defaults = {name: option.default for name, option in options_of(_plugin(backend)).items()}
    if options.out and options.out.exists():
        raise UsageError(f"{options.out} exists already; remove it, or choose another --out.")
    path = options.out or _free(Path(f"tuned-{architecture.name}-{backend.name}-{options.mode}.toml"))
    tuner = _tuner(options, architecture, backend, defaults)
    if not options.json:
        with output_may_fail():
            _print_header(options, architecture, backend, why, tuner)
    try:
        with stop_on_signals(tuner), OtherWork() as others:
            gain = tuner.run(_say_nothing if options.json else _say)
    except Interrupted as stop:
        if not tuner.findings:
            raise Interrupted(f"{stop}; nothing was written.") from stop
        _write(path, options, architecture, backend, defaults, tuner, None)
        raise Interrupted(f"{stop}; what was found so far is in {path}.") from stop
    _write(path, options, architecture, backend, defaults, tuner, gain)
    if options.json:
        print_json(
            {
                "model": architecture.name,
                "mode": options.mode,
                "backend": backend.name,
                "library": str(backend.library),
                "rounds": options.rounds,
                "start": asdict(tuner.start),
                "setting": asdict(tuner.setting),
                "findings": [asdict(finding) | {"value": finding.value} for finding in tuner.findings],
                "gain": asdict(gain) if gain else None,
                "file": str(path),
            }
        )
        return
    _print_trials(tuner.findings)
    disturbed = busy({}, others.share)
    if disturbed:
        print(disturbed)
    print(f"in all: {_gain_words(gain) if gain else 'no other setting is faster by more than the noise'}")
    print(f"written to {path}: cnn {'train' if options.mode == 'train' else 'eval'} --config {path}")


def _free(wanted: Path) -> Path:
    """The path; with -2, -3, ... behind its name if earlier files have that name."""
    number, path = 1, wanted
    while path.exists():
        number += 1
        path = wanted.with_stem(f"{wanted.stem}-{number}")
    return path


def _plugin(backend: Backend) -> Any:
    return plugins.load(plugins.BACKENDS, backend.name)


def _tuner(
    options: argparse.Namespace, architecture: Architecture, backend: Backend, defaults: Mapping[str, Any]
) -> Tuner:
    """Where to start, what to try, and how to run it."""
    given = options.backend_options or {}
    candidates = backend.instruments.option_candidates()
    tried = {name: values for name, values in candidates.items() if name in defaults and name not in given}
    counts = _common.thread_counts(options.threads) if options.threads else _halves(threads.budget().count)
    if options.mode == "train":
        batch = architecture.recipe.batch_size
        batches = options.batch_sizes or [batch]
    else:
        batch, batches = EVAL_BATCH, options.batch_sizes or EVAL_BATCHES

    def job(setting: Setting) -> Job:
        chosen = registry.construct(backend.name, **_set(setting, defaults))
        return (step_job if options.mode == "train" else inference_job)(architecture, chosen, setting.batch_size)

    start = Setting(max(counts), batch, {name: defaults[name] for name in tried} | given)
    return Tuner(job, start, {"threads": counts, "batch_size": batches, **tried}, options.rounds)


def _halves(count: int) -> list[int]:
    """The count, half of it, and so on down to 1."""
    return [count, *_halves(count // 2)] if count > 1 else [count]


def _set(setting: Setting, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults."""
    return {name: value for name, value in setting.options.items() if value != defaults[name]}


def _write(
    path: Path,
    options: argparse.Namespace,
    architecture: Architecture,
    backend: Backend,
    defaults: Mapping[str, Any],
    tuner: Tuner,
    gain: Speedup | None,
) -> None:
    setting = tuner.setting
    values: dict[str, Any] = {"backend": backend.name, "threads": setting.threads}
    if options.mode == "train":
        model = options.model
        values["model"] = str(Path(model).absolute()) if model.endswith(".toml") else model
        if options.batch_sizes:
            values["batch_size"] = setting.batch_size
    else:
        # For this command only: another batch size would change training.
        values["eval"] = {"batch_size": setting.batch_size}
    if _set(setting, defaults):
        values["backend_options"] = _set(setting, defaults)
    remarks = [f"cnn tune: {architecture.name}, {options.mode}, on {this_machine().cpu}", str(backend.library)]
    write_config(path, [*remarks, _gain_words(gain)] if gain else remarks, values)


def _print_header(
    options: argparse.Namespace, architecture: Architecture, backend: Backend, why: str, tuner: Tuner
) -> None:
    start = ", ".join(f"{name} {_text(tuner.start.value(name))}" for name in tuner.candidates)
    print_lines(
        {
            "network": f"{architecture.name}, {'training' if options.mode == 'train' else 'inference'}",
            "backend": f"{backend.name} ({why})",
            "library": str(backend.library),
            "start": start,
        }
    )
    if options.mode == "train" and options.batch_sizes:
        print_note("another batch size changes training itself; compare the accuracy before you keep it")
    elif options.mode == "train":
        print_note("the batch size stays the recipe's; --batch-sizes tries others, which change training itself")


def _say_nothing(finding: Finding) -> None:
    pass


def _say(finding: Finding) -> None:
    """Prints what a choice gained."""
    before, best, compared = _text(finding.before), _text(finding.best), finding.comparison
    if compared is None:
        words = f"stays {before}: no other value can run"
    elif compared.faster:
        words = f"{before} -> {best}: {_gain_words(compared)}"
    else:
        words = f"stays {before}: with {best} {_gain_words(compared)}"
    with output_may_fail():
        for line in text_lines(f"{finding.name} {words}"):
            tqdm.write(line)


def _gain_words(gain: Speedup) -> str:
    return (
        f"{gain.before:,.0f} -> {gain.after:,.0f} images/s, {gain.ratio:.2f} times as fast "
        f"({gain.low:.2f} to {gain.high:.2f})"
    )


def _print_trials(findings: list[Finding]) -> None:
    """Prints every value that was tried."""
    rows = []
    for finding in findings:
        force = Trial(finding.before, finding.comparison.before if finding.comparison else None, 1.0)
        for trial in (force, *finding.trials):
            name, remark = (finding.name, "in force") if trial is force else ("", trial.reason or "")
            numbers = ["-"] * 2
            if trial.images_per_second and trial.ratio:
                numbers = [f"{trial.images_per_second:,.0f}", f"{trial.ratio:.2f}"]
            rows.append([name, _text(trial.value), *numbers, "chosen" if trial.value == finding.value else remark])
    if rows:
        print_table(["tried", "value", "images/s", "times", ""], rows)


def _text(value: Any) -> str:
    """A value as --backend-option takes it."""
    if value is None:
        return "default"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
