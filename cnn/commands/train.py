"""Trains a network on a data set and saves the model.

Without arguments it trains LeNet on mnist-5k, which comes with the package, on the default backend.
"""

import argparse
import json
import math
import zlib
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import cnn
from cnn.commands import _common
from cnn.commands._run_folder import CHECKPOINT, METRICS, SUMMARY, RunFolder
from cnn.commands._train_options import (
    MOST_VALIDATION,
    REMEMBERED,
    VALIDATION,
    add_arguments,
    adjusted,
    recall,
    start_of,
)
from cnn.data.dataset import Dataset, Split
from cnn.data.views import NONE, described
from cnn.distributed.agreement import check_agreement
from cnn.distributed.job import job
from cnn.energy.meters import open_meter
from cnn.errors import CnnError
from cnn.losses import Loss
from cnn.meter import NO_ENERGY, Energy, Meter, Unmetered, energy_words
from cnn.model.architecture import Architecture, Published, Recipe
from cnn.model.modelfile import FILE, save_model
from cnn.model.sequential import Sequential
from cnn.optimizers import Optimizer, SlowWeights
from cnn.precision import within
from cnn.schedules import Schedule, Warmup
from cnn.system.affinity import allowed_cpus
from cnn.system.machine import this_machine
from cnn.system.signals import stop_on_signals
from cnn.system.storage import write_atomically
from cnn.terminal.printing import note, output_may_fail, print_lines, print_note, text_lines
from cnn.training.expectation import Expectation
from cnn.training.metrics import MetricsFile
from cnn.training.progress import progress
from cnn.training.tensorboard import TensorBoard
from cnn.training.trainer import Callback, Trainer, fingerprint
from cnn.training.world import World
from cnn.words import counted

__all__ = ["add_arguments", "run"]

RESULTS = 17
"""The column in which the results of a run stand, behind their titles."""


def run(options: argparse.Namespace) -> None:
    """Trains, tests and saves; as one of several processes if a launcher started them."""
    with job(options.distributed) as world, ExitStack() as stack:
        with world.together():
            recall(options, world)
        stack.enter_context(within(options.precision))  # of the run that is resumed
        with world.together(), world.first_here():  # it may download
            data = _common.dataset_of(options)
        with world.together(), world.first_here():  # it may compile
            resources = stack.enter_context(_common.resources(options, world.local_size))
        with world.together():
            start = start_of(options, data, resources.backend)
            chosen = start.architecture if start else _common.fitting_architecture(options.model, data)
            architecture = _adjusted(chosen, options)
            batch_size = options.batch_size or architecture.recipe.batch_size
            meter: Meter = Unmetered("of rank 0")
            if world.local_rank == 0:
                resized = replace(architecture, input_shape=data.shape)
                meter = stack.enter_context(_meter(resized, batch_size, resources, options.watts))
            rng = np.random.default_rng(options.seed)
            share = architecture.recipe.validation if options.validation is None else options.validation
            train, validation = _held_out(data, share, rng)
            train = train.weighted(options.class_weights)
            model = architecture.build(data=replace(data, train=train), backend=resources.backend, seed=rng)
            if start is not None:
                start.apply(model)
            folder = None
            if world.rank == 0:
                folder = stack.enter_context(RunFolder(options.out, f"{model.name}-{data.name}", resume=options.resume))
            trainer = _trainer(model, train, validation, architecture, batch_size, options, folder, meter, world)
            epochs = _whole(architecture.recipe.epochs)
        if world.size > 1:
            check_agreement(world, _facts(trainer, data, options.seed, epochs))
        places = world.describe(resources.budget.count, sorted(allowed_cpus() or ()))
        with world.together():
            if options.resume and world.from_first(lambda: folder is not None and folder.has_checkpoint):
                trainer.resume()
            listeners: list[Callback] = []
            if folder is not None:
                # What is written comes before what is told.
                settings = _settings(options, data, trainer, resources, epochs, architecture.recipe)
                folder.save_settings(settings)
                shown = progress(epochs)
                expected = Expectation(epochs, lambda text: shown.tell(text_lines(f"expected: {text}")))
                listeners = [folder, MetricsFile(folder.path / METRICS, trainer), shown, expected]
                if options.tensorboard:
                    listeners.append(TensorBoard(folder.path / "tensorboard"))
                live = {}
                published = architecture.published
                if published is not None and (published.dataset, published.tta) != (data.name, architecture.recipe.tta):
                    published = None
                if options.serve is not None:
                    from cnn.report.live import LiveView

                    view = stack.enter_context(LiveView(trainer, folder.path, settings["run"], epochs, options.serve))
                    listeners.append(view)
                    live["live"] = f"{view.url} (on this machine only)"
                with output_may_fail():
                    lines = _header(data, trainer, resources, places, options, epochs, folder.path)
                    if published is not None:
                        lines["published"] = str(published)
                    print_lines(lines | (start.describe(model) if start else {}) | live)
                    for each in data.notes:
                        print_note(each)
        trainer.rehearse(data.test)
        with stop_on_signals(trainer):
            trainer.run(epochs, listeners)
        tta = architecture.recipe.tta
        test = {each: model.evaluate(data.test, tta=each) for each in dict.fromkeys((NONE, tta))}
        if folder is not None:
            _finish(trainer, data, test, resources, options.seed, folder, published, expected.seconds)
            if options.report:
                _report(folder.path, resources, options.data_dir)


def _report(folder: Path, resources: _common.Resources, data_dir: str | None) -> None:
    """Writes the page of the run and its numbers into its folder; the run is complete, also if that fails."""
    from cnn.report.run_files import write_report

    with output_may_fail():
        try:
            page = write_report(folder, resources.backend, resources.budget.count, data_dir)
        except CnnError as error:
            note(f"the run has no report: {error}")
        else:
            print_lines({"report": str(page)}, RESULTS)


def _facts(trainer: Trainer, data: Dataset, seed: int, epochs: float) -> dict[str, Any]:
    """All that must be the same on every rank."""
    weights = b"".join(array.tobytes() for array in trainer.model.state().values())
    backend = trainer.model.backend
    return {
        "backend": f"{backend.name}, {backend.library.name} {backend.library.version}",
        "seed": seed,
        "number of epochs": epochs,
        **trainer.settings(),
        "test images": fingerprint(data.test),
        "first weights": zlib.crc32(weights),
    }


def _adjusted(architecture: Architecture, options: argparse.Namespace) -> Architecture:
    """The architecture with its recipe changed by the options."""
    changed = adjusted(architecture, options)
    recipe = changed.recipe
    schedule: Schedule = recipe.schedule
    if options.lr is not None:
        schedule = schedule.at(options.lr)
    if options.scale_lr:
        larger = (options.batch_size or recipe.batch_size) / recipe.batch_size
        schedule = schedule.at(schedule.lr * larger)
    epochs, tta = options.epochs or recipe.epochs, options.tta or recipe.tta
    return replace(changed, recipe=replace(recipe, epochs=epochs, schedule=schedule, tta=tta))


def _meter(architecture: Architecture, batch_size: int, resources: _common.Resources, watts: float | None) -> Meter:
    """A meter by the watts given, else by the meters that are ready, else by the calibration."""
    meter = open_meter(resources.backend.powered, watts=watts)
    if not isinstance(meter, Unmetered):
        return meter
    # SciPy brings a BLAS of its own, which a metered run need not load.
    from cnn.energy.modelled import calibrated_meter

    model = calibrated_meter(architecture, batch_size, resources.backend.name, resources.budget.count)
    return Unmetered(f"{meter.source}; {model.source}") if isinstance(model, Unmetered) else model


def _held_out(data: Dataset, share: float | None, rng: np.random.Generator) -> tuple[Split, Split | None]:
    """(training, validation) images: the data's own, unless a share is given; none are held out for a share of 0."""
    if share is None and data.validation is not None:
        return data.train, data.validation
    if share is None:
        share = min(VALIDATION, MOST_VALIDATION / len(data.train))
    return data.train.hold_out(share, rng) if share else (data.train, None)


def _trainer(
    model: Sequential,
    train: Split,
    validation: Split | None,
    architecture: Architecture,
    batch_size: int,
    options: argparse.Namespace,
    folder: RunFolder | None,
    meter: Meter,
    world: World,
) -> Trainer:
    recipe = architecture.recipe
    schedule = recipe.schedule
    if options.warmup is not None:
        steps = math.ceil(options.warmup * math.ceil(len(train) / batch_size))
        schedule = Warmup(schedule, steps, min(1.0, recipe.batch_size / batch_size) if options.scale_lr else 0.0)
    return Trainer(
        model,
        train,
        validation=validation,
        optimizer=recipe.optimizer,
        schedule=schedule,
        multipliers=recipe.multipliers,
        slow_weights=recipe.slow_weights,
        batch_size=batch_size,
        augmentation=recipe.augmentation,
        mixup=recipe.mixup,
        clip_norm=recipe.clip_norm,
        patience=options.patience,
        checkpoint=folder.path / CHECKPOINT if folder else Path(options.out or ".") / CHECKPOINT,
        checkpoint_every=options.checkpoint_every,
        meter=meter,
        accumulate=options.accumulate,
        average_every=options.average_every,
        world=world,
    )


def _settings(
    options: argparse.Namespace,
    data: Dataset,
    trainer: Trainer,
    resources: _common.Resources,
    epochs: float,
    recipe: Recipe,
) -> dict[str, Any]:
    """What the file of settings holds: the options that a resumed run takes over, and all that makes up the run."""
    given = {name: getattr(options, name) for name in REMEMBERED} | {
        "backend": resources.backend.name,
        "precision": trainer.model.precision,
    }
    # The threads of one of several ranks do not suit a run with more or fewer ranks.
    given["threads"] = resources.budget.count if trainer.world.size == 1 else None
    return {
        "options": {name: value for name, value in given.items() if value is not None},
        "run": {
            "version": cnn.__version__,
            "command": options.command,
            "started": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            "machine": this_machine().describe()[0].removeprefix("processor: "),
            "dataset": data.name,
            "training_images": len(trainer.train),
            "validation_images": len(trainer.validation or ()),
            "test_images": len(data.test),
            "model": trainer.model.name,
            "parameters": trainer.model.parameter_count(),
            "epochs": epochs,
            "batch_size": trainer.batch_size,
            "accumulate": trainer.accumulate,
            "average_every": trainer.average_every,
            "optimizer": _table(trainer.optimizer),
            "learning_rate": trainer.schedule.lr,
            "schedule": _table(trainer.schedule),
            "multipliers": [asdict(each) for each in trainer.multipliers],
            "slow_weights": None if trainer.slow_weights is None else _table(trainer.slow_weights),
            "loss": _table(trainer.model.loss),
            "preprocessing": recipe.preprocessing,
            "pixel_scale": recipe.pixel_scale,
            "augmentation": trainer.augmentation.to_config(),
            "mixup": trainer.mixup,
            "clip_norm": trainer.clip_norm,
            "class_weights": options.class_weights,
            "start": options.init,
            "frozen": options.freeze,
            "patience": trainer.patience,
            "seed": options.seed,
            **resources.to_dict(),
            "precision": trainer.model.precision,
            "backend_options": options.backend_options or {},
            "ranks": trainer.world.size,
        },
    }


def _table(part: Optimizer | Schedule | SlowWeights | Loss) -> dict[str, Any]:
    """The name and every setting, also those that have their default."""
    values = {each.name: getattr(part, each.name) for each in fields(part)}  # type: ignore[arg-type]
    return {"type": type(part).__name__} | {
        name: _table(value) if isinstance(value, Schedule) else value for name, value in values.items()
    }


def _header(
    data: Dataset,
    trainer: Trainer,
    resources: _common.Resources,
    places: dict[str, str],
    options: argparse.Namespace,
    epochs: float,
    out: Path,
) -> dict[str, str]:
    model, shape = trainer.model, "x".join(map(str, data.shape))
    held = f"{len(trainer.validation):,} validation, " if trainer.validation else ""
    counts = f"{len(trainer.train):,} training, {held}{len(data.test):,} test images {shape}"
    optimizer, schedule = _words(trainer.optimizer), _words(trainer.schedule)
    lines = {
        "data": f"{data.name}: {counts}, {len(data.classes)} classes ({data.source})",
        "network": f"{model.name}: {model.parameter_count():,} parameters, "
        f"{model.macs() / 1e6:.2f} million MAC per image",
        **resources.describe(),
        **places,
        "energy": f"{trainer.meter.kind}: {trainer.meter.source}",
        "seed": str(options.seed),
        "recipe": f"{_epochs(epochs)}, batch {trainer.batch_size}{_manner(trainer)}, {optimizer}, {schedule}",
        "folder": str(out),
    }
    if trainer.slow_weights is not None:
        lines["recipe"] += f", {_words(trainer.slow_weights)}"
    if trainer.multipliers:
        lines["recipe"] += f", multipliers of {', '.join(each.pattern for each in trainer.multipliers)}"
    if trainer.mixup:
        lines["recipe"] += f", mixup {trainer.mixup:g}"
    if trainer.clip_norm is not None:
        lines["recipe"] += f", gradients clipped at a norm of {trainer.clip_norm:g}"
    if options.resume:
        lines["resumed"] = _resumed(trainer, epochs)
    return lines


def _resumed(trainer: Trainer, epochs: float) -> str:
    """Where a resumed run goes on, or why nothing is left of it."""
    position = trainer.position
    if not position.step:
        return "from the start, as no checkpoint was written before the run ended"
    text = f"after {counted(position.epoch, 'epoch')}, {counted(position.step, 'step')}"
    if trainer.out_of_patience:
        return f"{text}: {_kept(trainer)}; to go on, give a --patience above {trainer.patience}"
    if position.steps and trainer.position.ended(trainer.steps_per_epoch):
        return f"{text}: nothing is left to do"
    if position.epoch >= epochs:
        return f"{text}: nothing is left to do; to go on, give --epochs a number above {position.epoch}"
    return text


def _kept(trainer: Trainer) -> str:
    """Whether and why a run stopped early, and which weights it keeps."""
    position, best = trainer.position, trainer.position.best_epoch
    kept = f"the weights of epoch {trainer.kept_epoch} are kept"
    if trainer.out_of_patience:
        reason = f"as the validation loss has not been lower than in epoch {best}"
        return f"stopped after epoch {position.epoch}, {reason}; {kept}"
    return f"{kept}, as the validation loss was lowest then"


def _energy(energy: Energy, per_image: float | None, meter: Meter) -> str:
    """The energy of a run, and where it is from or why there is none, unless the header has said so."""
    words = energy_words(energy.joules, per_image, energy.kind)
    return f"{words}, as said above" if energy.source == meter.source else f"{words}: {energy.source}"


def _whole(epochs: float) -> float:
    """A whole number of epochs as one."""
    return int(epochs) if epochs == int(epochs) else epochs


def _epochs(epochs: float) -> str:
    return counted(epochs, "epoch") if isinstance(epochs, int) else f"{epochs:.7g} epochs"


def _manner(trainer: Trainer) -> str:
    """How a batch is computed, if not in one piece."""
    pieces = f" in {trainer.accumulate} micro-batches" if trainer.accumulate > 1 else ""
    return pieces + (f", averages every {counted(trainer.average_every, 'step')}" if trainer.average_every else "")


def _words(part: Optimizer | Schedule | SlowWeights) -> str:
    settings = ", ".join(f"{each.name} {getattr(part, each.name)}" for each in fields(part))  # type: ignore[arg-type]
    return f"{type(part).__name__} ({settings})"


def _finish(
    trainer: Trainer,
    data: Dataset,
    test: dict[str, tuple[float, float]],
    resources: _common.Resources,
    seed: int,
    folder: RunFolder,
    published: Published | None,
    expected: float | None,
) -> None:
    """Saves the model, writes the summary and prints it.

    `test` is (loss, accuracy) on the test images, as they are and perhaps with a test-time augmentation after that.
    """
    model, results, out = trainer.model, trainer.results, folder.path
    test_loss, test_accuracy = test[NONE]
    *_, tta = test
    folder.complete()
    save_model(model, out / FILE)
    seconds = sum(each.seconds for each in results)
    images = sum(each.seconds * each.images_per_second for each in results)
    energy = sum((Energy(each.joules, each.energy, each.energy_source) for each in results), NO_ENERGY)
    per_image = None if energy.joules is None else energy.joules / images
    summary = {
        "dataset": data.name,
        "model": model.name,
        **resources.to_dict(),
        "ranks": trainer.world.size,
        "seed": seed,
        "epochs": len(results),
        "stopped_early": trainer.out_of_patience,
        "best_epoch": trainer.position.best_epoch,
        "saved_epoch": trainer.kept_epoch,
        "test_accuracy": test_accuracy,
        "test_loss": test_loss,
        "tta": tta,
        "tta_test_accuracy": test[tta][1] if tta != NONE else None,
        "tta_test_loss": test[tta][0] if tta != NONE else None,
        "images_per_second": images / seconds,
        "seconds": seconds,
        "expected_seconds": expected,
        "joules": energy.joules,
        "joules_per_image": per_image,
        "energy": energy.kind,
        "energy_source": energy.source,
    }
    write_atomically(out / SUMMARY, json.dumps(summary, indent=2).encode())
    early = trainer.out_of_patience or trainer.kept_epoch != trainer.position.epoch
    lines = {"early stopping": _kept(trainer)} if early else {}
    lines |= {
        "test accuracy": f"{test_accuracy:.2%} of {counted(len(data.test), 'image')}",
        **({"tta accuracy": f"{test[tta][1]:.2%} {described(tta)}"} if tta != NONE else {}),
        **({"published": published.compared(test[tta][1])} if published else {}),
        "training": f"{images / seconds:,.0f} images/s, {seconds:.1f} s",
        "training energy": _energy(energy, per_image, trainer.meter),
        "saved": str(out / FILE),
    }
    with output_may_fail():
        print_lines(lines, RESULTS)
