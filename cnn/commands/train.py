"""Trains a network on a data set and saves the model.

Without arguments it trains LeNet on mnist-5k, which comes with the package, on the default backend.
"""

import argparse
import json
import math
import time
import zlib
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnn.commands import _common
from cnn.commands._train_options import MOST_VALIDATION, REMEMBERED, SETTINGS, VALIDATION, add_arguments, recall
from cnn.data.dataset import Dataset, Split
from cnn.distributed.agreement import check_agreement
from cnn.distributed.job import job
from cnn.distributed.rehearsal import rehearse
from cnn.energy.meters import open_meter
from cnn.errors import CnnError
from cnn.meter import NO_ENERGY, UNCOUNTED, Energy, Meter, Unmetered, energy_words
from cnn.model.architecture import Architecture
from cnn.model.modelfile import save_model
from cnn.model.sequential import Sequential
from cnn.optimizers import Optimizer
from cnn.schedules import Schedule, Warmup
from cnn.system.affinity import allowed_cpus
from cnn.system.signals import stop_on_signals
from cnn.system.storage import write_atomically
from cnn.terminal.printing import print_lines
from cnn.training.metrics import MetricsFile
from cnn.training.progress import progress
from cnn.training.trainer import Trainer
from cnn.training.world import World
from cnn.words import counted

__all__ = ["add_arguments", "run"]

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
MODEL, SUMMARY = "model.safetensors", "summary.json"


def run(options: argparse.Namespace) -> None:
    """Trains, tests and saves; as one of several processes if a launcher started them."""
    with job(options.distributed) as world, ExitStack() as stack:
        with world.together():
            recall(options, world)
        with world.together(), world.first_here():  # it may download
            data = _common.dataset_of(options)
        with world.together(), world.first_here():  # it may compile
            resources = stack.enter_context(_common.resources(options, world.local_size))
        with world.together():
            architecture = _adjusted(_common.fitting_architecture(options.model, data), options)
            batch_size = options.batch_size or architecture.recipe.batch_size
            meter: Meter = Unmetered("of rank 0")
            if world.local_rank == 0:
                resized = replace(architecture, input_shape=data.shape)
                meter = stack.enter_context(_meter(resized, batch_size, resources, options.watts))
            rng = np.random.default_rng(options.seed)
            train, validation = _held_out(data, options.validation, rng)
            model = architecture.build(data=replace(data, train=train), backend=resources.backend, seed=rng)
            out = Path(options.out or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{model.name}-{data.name}")
            if world.rank == 0 and not options.out:
                out = _new_folder(out)
            trainer = _trainer(model, train, validation, architecture, batch_size, options, out, meter, world)
            epochs = options.epochs or architecture.recipe.epochs
        if world.size > 1:
            check_agreement(world, _facts(trainer, data, options.seed, epochs))
        places = world.describe(resources.budget.count, sorted(allowed_cpus() or ()))
        with world.together():
            _open(out, options, resources, trainer)
            listeners = []
            if world.rank == 0:
                print_lines(_header(data, trainer, resources, places, options.seed, epochs, out))
                for note in data.notes:
                    print(f"note: {note}")
                metrics = MetricsFile(out / METRICS, done=trainer.position.epoch)
                listeners = [progress(epochs), metrics]
        rehearse(trainer, [each for each in (validation, data.test) if each])
        with stop_on_signals(trainer):
            trainer.run(epochs, listeners)
        test = model.evaluate(data.test)
        if world.rank == 0:
            _finish(trainer, data, test, metrics.rows, resources, options.seed, out)


def _new_folder(wanted: Path) -> Path:
    """Creates the folder; with -2, -3, ... behind its name if another run started in the same second."""
    number, folder = 1, wanted
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
        except OSError as error:
            raise CnnError(
                f"The folder {wanted} cannot be created ({error.strerror or error}); name another one with --out."
            ) from error
        else:
            return folder


def _facts(trainer: Trainer, data: Dataset, seed: int, epochs: int) -> dict[str, Any]:
    """All that must be the same on every rank."""
    weights = b"".join(array.tobytes() for array in trainer.model.state().values())
    backend = trainer.model.backend
    return {
        "backend": f"{backend.name}, {backend.library.name} {backend.library.version}",
        "seed": seed,
        "number of epochs": epochs,
        **trainer.settings(),
        "test images": zlib.crc32(data.test.images.tobytes(), zlib.crc32(data.test.labels.tobytes())),
        "first weights": zlib.crc32(weights),
    }


def _adjusted(architecture: Architecture, options: argparse.Namespace) -> Architecture:
    """The architecture with its recipe changed by the options."""
    recipe = architecture.recipe
    optimizer: Optimizer = Optimizer.from_config(options.optimizer) if options.optimizer else recipe.optimizer
    if options.weight_decay is not None:
        optimizer = Optimizer.from_config(optimizer.config() | {"weight_decay": options.weight_decay})
    augmentation = recipe.augmentation
    if options.flip is not None:
        augmentation = replace(augmentation, flip=options.flip)
    if options.pad_crop is not None:
        augmentation = replace(augmentation, pad_crop=options.pad_crop)
    schedule: Schedule = recipe.schedule
    if options.lr is not None:
        schedule = schedule.at(options.lr)
    if options.scale_lr:
        larger = (options.batch_size or recipe.batch_size) / recipe.batch_size
        schedule = schedule.at(schedule.lr * larger)
    return replace(
        architecture, recipe=replace(recipe, optimizer=optimizer, schedule=schedule, augmentation=augmentation)
    )


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
    out: Path,
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
        batch_size=batch_size,
        augmentation=recipe.augmentation,
        patience=options.patience,
        checkpoint=out / CHECKPOINT,
        checkpoint_every=options.checkpoint_every,
        meter=meter,
        accumulate=options.accumulate,
        average_every=options.average_every,
        world=world,
    )


def _open(out: Path, options: argparse.Namespace, resources: _common.Resources, trainer: Trainer) -> None:
    """Restores a resumed run, or records the settings of a new one."""
    if options.resume:
        if trainer.world.from_first((out / CHECKPOINT).exists):
            trainer.resume()
        return
    if trainer.world.rank:
        return
    settings = {name: getattr(options, name) for name in REMEMBERED}
    settings["backend"] = resources.backend.name
    if trainer.world.size == 1:
        # The threads of one of several ranks do not suit a run with more or fewer ranks.
        settings["threads"] = resources.budget.count
    write_atomically(out / SETTINGS, json.dumps(settings, indent=2).encode())


def _header(
    data: Dataset,
    trainer: Trainer,
    resources: _common.Resources,
    places: dict[str, str],
    seed: int,
    epochs: int,
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
        "seed": str(seed),
        "recipe": f"{counted(epochs, 'epoch')}, batch {trainer.batch_size}{_manner(trainer)}, {optimizer}, {schedule}",
        "folder": str(out),
    }
    if trainer.position.step:
        lines["resumed"] = f"after {counted(trainer.position.epoch, 'epoch')}, {counted(trainer.position.step, 'step')}"
    return lines


def _manner(trainer: Trainer) -> str:
    """How a batch is computed, if not in one piece."""
    pieces = f" in {trainer.accumulate} micro-batches" if trainer.accumulate > 1 else ""
    return pieces + (f", averages every {counted(trainer.average_every, 'step')}" if trainer.average_every else "")


def _words(part: Optimizer | Schedule) -> str:
    settings = ", ".join(f"{each.name} {getattr(part, each.name)}" for each in fields(part))  # type: ignore[arg-type]
    return f"{type(part).__name__} ({settings})"


def _finish(
    trainer: Trainer,
    data: Dataset,
    test: tuple[float, float],
    rows: list[dict[str, Any]],
    resources: _common.Resources,
    seed: int,
    out: Path,
) -> None:
    """Saves the model, writes the summary and prints it; `test` is (loss, accuracy) on the test images."""
    model = trainer.model
    test_loss, test_accuracy = test
    save_model(model, out / MODEL)
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["seconds"] * row["images_per_second"] for row in rows)
    energy = sum((_energy(row) for row in rows), NO_ENERGY)
    per_image = None if energy.joules is None else energy.joules / images
    summary = {
        "dataset": data.name,
        "model": model.name,
        **resources.to_dict(),
        "ranks": trainer.world.size,
        "seed": seed,
        "epochs": len(rows),
        "test_accuracy": test_accuracy,
        "test_loss": test_loss,
        "images_per_second": images / seconds,
        "seconds": seconds,
        "joules": energy.joules,
        "joules_per_image": per_image,
        "energy": energy.kind,
        "energy_source": energy.source,
    }
    write_atomically(out / SUMMARY, json.dumps(summary, indent=2).encode())
    print_lines(
        {
            "test accuracy": f"{test_accuracy:.2%} of {counted(len(data.test), 'image')}",
            "training": f"{images / seconds:,.0f} images/s, {seconds:.1f} s",
            "training energy": f"{energy_words(energy.joules, per_image, energy.kind)}: {energy.source}",
            "saved": str(out / MODEL),
        }
    )


def _energy(row: dict[str, Any]) -> Energy:
    """The energy of an epoch, from its row of metrics."""
    return Energy(row["joules"], row["energy"], row["energy_source"]) if "energy" in row else UNCOUNTED
