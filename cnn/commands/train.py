"""Trains a network on a data set and saves it.

Without arguments: LeNet on mnist-5k, which comes with the package, on the best backend that is ready.
"""

import argparse
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnn.commands import common
from cnn.commands.config_file import add_config_option
from cnn.dataset import DEFAULT_DATASET, Dataset, Split
from cnn.energy.meters import NO_ENERGY, UNCOUNTED, Energy, Meter, Unmetered, energy_words, open_meter
from cnn.errors import FileFormatError, UsageError
from cnn.metrics import MetricsFile
from cnn.model import Sequential
from cnn.modelfile import save_model
from cnn.optimizers import Optimizer
from cnn.progress import progress
from cnn.recipe import Architecture
from cnn.schedules import Schedule
from cnn.signals import stop_on_signals
from cnn.storage import write_atomically
from cnn.training import Trainer
from cnn.zoo import ZOO

VALIDATION, MOST_VALIDATION = 0.05, 1000
SETTINGS, CHECKPOINT, METRICS, MODEL, SUMMARY = (
    "settings.json",
    "checkpoint.safetensors",
    "metrics.jsonl",
    "model.safetensors",
    "summary.json",
)
REMEMBERED = {
    "dataset": DEFAULT_DATASET,
    "data_dir": None,
    "model": None,
    "epochs": None,
    "batch_size": None,
    "lr": None,
    "optimizer": None,
    "weight_decay": None,
    "flip": None,
    "pad_crop": None,
    "validation": None,
    "patience": None,
    "backend": None,
    "backend_options": None,
    "threads": None,
    "seed": 0,
    "checkpoint_every": None,
    "watts": None,
}
"""What a resumed run takes from the run it continues unless it is given again, with the defaults of a fresh run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; those of REMEMBERED have no default here, so that a resumed run can tell what was given."""
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help=f"see cnn data list (default: {DEFAULT_DATASET})")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"{', '.join(ZOO)} or a .toml file (default: lenet, for colour images cifar10_quick)",
    )
    recipe = parser.add_argument_group("recipe (default: the one the network was published with)")
    recipe.add_argument("--epochs", type=common.whole_number, metavar="N", help="passes over the training images")
    recipe.add_argument("--batch-size", type=common.whole_number, metavar="N", help="images a step")
    recipe.add_argument("--lr", type=common.number, metavar="X", help="first learning rate of the schedule")
    recipe.add_argument("--optimizer", metavar="NAME", help="SGD, RMSprop or Adam, with default settings")
    recipe.add_argument("--weight-decay", type=common.share, metavar="X", help="L2 weight decay")
    recipe.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror half of the training images")
    recipe.add_argument(
        "--pad-crop", type=common.whole_number_or_zero, metavar="N", help="shift training images by up to N pixels"
    )
    recipe.add_argument(
        "--validation",
        type=common.share,
        metavar="X",
        help=f"share of the training images held out for validation (default: {VALIDATION}, "
        f"at most {MOST_VALIDATION:,} images)",
    )
    recipe.add_argument(
        "--patience",
        type=common.whole_number,
        metavar="N",
        help="stop after N epochs without a lower validation loss and keep the best weights",
    )
    recipe.add_argument(
        "--seed", type=common.whole_number_or_zero, metavar="N", help="seed of every random choice (default: 0)"
    )
    common.add_resource_options(parser)
    parser.add_argument(
        "--watts",
        type=common.number,
        metavar="W",
        help="what the machine draws under load: models the energy by it, whatever meters there are",
    )
    add_config_option(parser)
    common.add_data_options(parser)
    files = parser.add_argument_group("folder of the run")
    files.add_argument(
        "--out", metavar="DIR", help="where model, metrics and checkpoint go (default: runs/<date>-<net>-<data>)"
    )
    files.add_argument("--resume", action="store_true", help="continue the run in --out from its checkpoint")
    files.add_argument(
        "--checkpoint-every",
        type=common.whole_number,
        metavar="N",
        help="write the checkpoint every N steps too, not only after each epoch",
    )


def run(options: argparse.Namespace) -> None:
    """Trains, tests and saves."""
    _recall(options)
    data = common.dataset_of(options)
    architecture = _adjusted(common.fitting_architecture(options.model, data), options)
    batch_size = options.batch_size or architecture.recipe.batch_size
    with (
        common.resources(options) as resources,
        _meter(replace(architecture, input_shape=data.shape), batch_size, resources, options.watts) as meter,
    ):
        rng = np.random.default_rng(options.seed)
        train, validation = _held_out(data.train, options.validation, rng)
        model = architecture.build(data=replace(data, train=train), backend=resources.backend, seed=rng)
        out = Path(options.out or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{model.name}-{data.name}")
        trainer = _trainer(model, train, validation, architecture, batch_size, options, out, meter)
        epochs = options.epochs or architecture.recipe.epochs
        _open(out, options, resources, trainer)
        common.print_lines(_header(data, trainer, resources, options.seed, epochs, out))
        for note in data.notes:
            print(f"note: {note}")
        metrics = MetricsFile(out / METRICS, done=trainer.position.epoch)
        with stop_on_signals(trainer):
            trainer.run(epochs, [progress(epochs), metrics])
        _finish(trainer, data, metrics.rows, resources, options.seed, out)


def _recall(options: argparse.Namespace) -> None:
    """Fills in what was not given: from the run that is resumed, or the defaults."""
    stored: dict[str, Any] = {}
    if options.resume:
        if options.out is None:
            raise UsageError("--resume needs --out DIR, the folder of the run to continue.")
        path = Path(options.out) / SETTINGS
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileFormatError(
                f"{path} cannot be read ({error}); there is no run to resume in that folder."
            ) from error
    elif options.out is not None and (Path(options.out) / SETTINGS).exists():
        raise UsageError(f"{options.out} holds a run already; continue it with --resume, or choose another --out.")
    if options.backend is not None:
        # Another backend would not know the options of the one before.
        stored.pop("backend_options", None)
    for name, default in REMEMBERED.items():
        if getattr(options, name) is None:
            setattr(options, name, stored.get(name, default))
    if options.model is not None and options.model.endswith(".toml"):
        options.model = str(Path(options.model).absolute())


def _adjusted(architecture: Architecture, options: argparse.Namespace) -> Architecture:
    """The architecture with its recipe changed as the options ask."""
    recipe = architecture.recipe
    optimizer: Optimizer = Optimizer.from_config(options.optimizer) if options.optimizer else recipe.optimizer
    if options.weight_decay is not None:
        optimizer.weight_decay = options.weight_decay
    augmentation = recipe.augmentation
    if options.flip is not None:
        augmentation = replace(augmentation, flip=options.flip)
    if options.pad_crop is not None:
        augmentation = replace(augmentation, pad_crop=options.pad_crop)
    schedule: Schedule = recipe.schedule
    if options.lr is not None:
        schedule = replace(schedule, lr=options.lr)  # type: ignore[type-var]
    return replace(
        architecture, recipe=replace(recipe, optimizer=optimizer, schedule=schedule, augmentation=augmentation)
    )


def _meter(architecture: Architecture, batch_size: int, resources: common.Resources, watts: float | None) -> Meter:
    """The watts given, else the meters there are, else the calibration."""
    meter = open_meter(resources.backend.powered, watts=watts)
    if not isinstance(meter, Unmetered):
        return meter
    # SciPy brings a BLAS of its own, which a run that is metered need not load.
    from cnn.energy.modelled import calibrated_meter

    model = calibrated_meter(architecture, batch_size, resources.backend.name, resources.budget.count)
    return Unmetered(f"{meter.source}; {model.source}") if isinstance(model, Unmetered) else model


def _held_out(split: Split, share: float | None, rng: np.random.Generator) -> tuple[Split, Split | None]:
    """(training, validation) images; none are held out for a share of 0."""
    if share is None:
        share = min(VALIDATION, MOST_VALIDATION / len(split))
    return split.hold_out(share, rng) if share else (split, None)


def _trainer(
    model: Sequential,
    train: Split,
    validation: Split | None,
    architecture: Architecture,
    batch_size: int,
    options: argparse.Namespace,
    out: Path,
    meter: Meter,
) -> Trainer:
    recipe = architecture.recipe
    return Trainer(
        model,
        train,
        validation,
        recipe.optimizer,
        recipe.schedule,
        batch_size,
        recipe.augmentation,
        options.patience,
        out / CHECKPOINT,
        options.checkpoint_every,
        meter,
    )


def _open(out: Path, options: argparse.Namespace, resources: common.Resources, trainer: Trainer) -> None:
    """Brings a resumed run back, or records the settings of a new one."""
    if options.resume:
        if (out / CHECKPOINT).exists():
            trainer.resume()
        return
    settings = {name: getattr(options, name) for name in REMEMBERED}
    settings |= {"backend": resources.backend.name, "threads": resources.budget.count}
    write_atomically(out / SETTINGS, json.dumps(settings, indent=2).encode())


def _header(
    data: Dataset, trainer: Trainer, resources: common.Resources, seed: int, epochs: int, out: Path
) -> dict[str, str]:
    model, shape = trainer.model, "x".join(map(str, data.shape))
    held = f"{len(trainer.validation):,} validation, " if trainer.validation else ""
    counts = f"{len(trainer.train):,} training, {held}{len(data.test):,} test images {shape}"
    optimizer, schedule = _words(trainer.optimizer), _words(trainer.schedule)
    lines = {
        "data": f"{data.name}: {counts}, {len(data.classes)} classes ({data.source})",
        "net": f"{model.name}: {model.parameter_count():,} parameters, {model.macs() / 1e6:.2f} million MAC an image",
        **resources.describe(),
        "energy": f"{trainer.meter.kind}: {trainer.meter.source}",
        "seed": str(seed),
        "recipe": f"{epochs} epochs, batch {trainer.batch_size}, {optimizer}, {schedule}",
        "folder": str(out),
    }
    if trainer.position.step:
        lines["resumed"] = f"after {trainer.position.epoch} epochs, {trainer.position.step} steps"
    return lines


def _words(part: Optimizer | Schedule) -> str:
    settings = ", ".join(f"{each.name} {getattr(part, each.name)}" for each in fields(part))  # type: ignore[arg-type]
    return f"{type(part).__name__} ({settings})"


def _finish(
    trainer: Trainer,
    data: Dataset,
    rows: list[dict[str, Any]],
    resources: common.Resources,
    seed: int,
    out: Path,
) -> None:
    """Tests the network, saves it, and says what came out."""
    model = trainer.model
    test_loss, test_accuracy = model.evaluate(data.test)
    save_model(model, out / MODEL)
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["seconds"] * row["images_per_second"] for row in rows)
    energy = sum((_energy(row) for row in rows), NO_ENERGY)
    per_image = None if energy.joules is None else energy.joules / images
    summary = {
        "dataset": data.name,
        "model": model.name,
        **resources.to_dict(),
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
    common.print_lines(
        {
            "test accuracy": f"{test_accuracy:.2%} of {len(data.test):,} images",
            "training": f"{images / seconds:,.0f} images/s, {seconds:.1f} s",
            "training energy": f"{energy_words(energy.joules, per_image, energy.kind)}: {energy.source}",
            "saved": str(out / MODEL),
        }
    )


def _energy(row: dict[str, Any]) -> Energy:
    """The energy of an epoch, from its row of metrics."""
    return Energy(row["joules"], row["energy"], row["energy_source"]) if "energy" in row else UNCOUNTED
