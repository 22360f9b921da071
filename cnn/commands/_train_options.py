"""The options of `cnn train`, and those that a resumed run takes from the one it continues."""

import argparse
from dataclasses import replace
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from cnn.backend import Backend
from cnn.backend_options import parse_option
from cnn.commands import _common
from cnn.commands._config_file import add_config_option, converted
from cnn.commands._run_folder import SETTINGS, read_settings, refuse_a_run
from cnn.config import merged, require
from cnn.data.dataset import DEFAULT_DATASET, Dataset
from cnn.errors import FileFormatError, UsageError
from cnn.model.architecture import Architecture
from cnn.model.zoo import ZOO
from cnn.optimizers import Optimizer
from cnn.plugins import import_modules
from cnn.terminal.arguments import expanded_text, number, port_number, share, whole_number, whole_number_or_zero
from cnn.toml import MOST_DEPTH
from cnn.training.finetuning import Start
from cnn.training.world import World

VALIDATION, MOST_VALIDATION = 0.05, 1000
RECIPE = "recipe (default: the network's own)"
REMEMBERED = {
    "dataset": DEFAULT_DATASET,
    "data_dir": None,
    "model": None,
    "init": None,
    "freeze": None,
    "epochs": None,
    "batch_size": None,
    "accumulate": 1,
    "lr": None,
    "scale_lr": False,
    "warmup": None,
    "optimizer": None,
    "weight_decay": None,
    "flip": None,
    "pad_crop": None,
    "random_crop": None,
    "image_size": None,
    "resize": None,
    "tta": None,
    "class_weights": None,
    "recipe": None,
    "validation": None,
    "patience": None,
    "backend": None,
    "backend_options": None,
    "threads": None,
    "precision": None,
    "seed": 0,
    "checkpoint_every": None,
    "average_every": None,
    "watts": None,
    "import": None,
}
"""What a resumed run takes from the run it continues unless it is given again, with the defaults of a fresh run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; those of REMEMBERED have no default here, so that a resumed run can tell what was given."""
    add_network_arguments(parser)
    recipe = parser.add_argument_group(RECIPE)
    recipe.add_argument("--epochs", type=number, metavar="N", help="passes over the training images, such as 10 or 9.9")
    _add_step_options(recipe)
    recipe.add_argument(
        "--accumulate",
        type=whole_number,
        metavar="N",
        help="compute each batch as N micro-batches, one after the other, to save memory (default: 1)",
    )
    recipe.add_argument("--lr", type=number, metavar="X", help="initial learning rate of the schedule")
    recipe.add_argument(
        "--scale-lr",
        action=argparse.BooleanOptionalAction,
        help="multiply the learning rate by the batch size over the recipe's batch size (Goyal et al. 2017)",
    )
    recipe.add_argument(
        "--warmup",
        type=number,
        metavar="EPOCHS",
        help="raise the learning rate linearly over the first EPOCHS, from 0, or from the recipe's with --scale-lr",
    )
    _common.add_tta_option(recipe, default=None)
    recipe.add_argument(
        "--validation",
        type=share,
        metavar="X",
        help="fraction of the training images held out for validation (default: the validation images of the data, "
        f"else {VALIDATION}, at most {MOST_VALIDATION:,} images)",
    )
    recipe.add_argument(
        "--patience",
        type=whole_number,
        metavar="N",
        help="stop after N epochs without a lower validation loss and keep the best weights",
    )
    tuning = parser.add_argument_group("fine-tuning")
    tuning.add_argument(
        "--init",
        type=expanded_text,
        metavar="FILE",
        help="a saved model to start from, with its layers, weights and preprocessing; for other classes its last "
        "layer is made anew",
    )
    tuning.add_argument(
        "--freeze",
        metavar="NAMES",
        help="layers of --init that stay as they are, separated by commas, such as 'conv*,batchnorm*'",
    )
    _common.add_resource_options(parser)
    _common.add_precision_option(parser)
    parser.add_argument(
        "--serve",
        type=port_number,
        nargs="?",
        const=0,
        metavar="PORT",
        help="show the run live on a page of this machine only, with pause and stop, on this port or any free one",
    )
    parser.add_argument(
        "--watts",
        type=number,
        metavar="W",
        help="power of the machine under load; the energy is modelled from it, even if there are meters",
    )
    ranks = parser.add_argument_group("several processes (mpiexec -n N cnn train ...)")
    ranks.add_argument(
        "--distributed", action="store_true", help="fail if no launcher started this process, instead of training alone"
    )
    ranks.add_argument(
        "--average-every",
        type=whole_number,
        metavar="K",
        help="for slow links: each rank takes steps on its own images; the ranks are averaged every K steps and after "
        "each epoch",
    )
    add_config_option(parser)
    _common.add_data_options(parser)
    files = parser.add_argument_group("folder of the run")
    files.add_argument(
        "--out",
        type=expanded_text,
        metavar="DIR",
        help="folder for model, metrics and checkpoint (default: runs/<date>-<network>-<data set>)",
    )
    files.add_argument(
        "--report", action="store_true", help="write a page of the run and its numbers into the folder at the end"
    )
    files.add_argument(
        "--tensorboard",
        action="store_true",
        help="write event files for TensorBoard into the folder (needs tensorboardX)",
    )
    files.add_argument("--resume", action="store_true", help="continue the run in --out from its checkpoint")
    files.add_argument(
        "--checkpoint-every",
        type=whole_number,
        metavar="N",
        help="write the checkpoint every N steps, not only after each epoch",
    )


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
    """What the steps of a run depend on, apart from their learning rate: data, network and the recipe's other parts."""
    add_network_arguments(parser)
    _add_step_options(parser.add_argument_group(RECIPE))
    _common.add_resource_options(parser)
    _common.add_precision_option(parser)
    _common.add_data_options(parser)


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """DATASET and --model."""
    parser.add_argument(
        "dataset",
        nargs="?",
        metavar="DATASET",
        help="see `cnn data list`; or a folder of pictures with a folder for each class, or a CSV file with the "
        f"columns file and label (default: {DEFAULT_DATASET}, or with --data-dir {_common.OWN_IMAGES})",
    )
    parser.add_argument(
        "--model",
        type=expanded_text,
        metavar="NAME",
        help=f"{', '.join(ZOO)} or a .toml file (default: lenet, or cifar10_quick for colour images)",
    )


def _add_step_options(recipe: argparse._ArgumentGroup) -> None:
    """The options of the recipe that a single step depends on, but for its learning rate."""
    recipe.add_argument("--batch-size", type=whole_number, metavar="N", help="images per step, of all ranks together")
    recipe.add_argument("--optimizer", metavar="NAME", help="SGD, RMSprop, Adam or AdamW, with default settings")
    recipe.add_argument("--weight-decay", type=share, metavar="X", help="L2 weight decay")
    recipe.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror half of the training images")
    recipe.add_argument(
        "--pad-crop", type=whole_number_or_zero, metavar="N", help="shift training images by up to N pixels"
    )
    recipe.add_argument(
        "--random-crop",
        type=share,
        metavar="X",
        help="cut a random part of at least the share X of its area out of each training image, and resize it",
    )
    recipe.add_argument(
        "--class-weights",
        choices=("balanced",),
        help="let each class count the same, however many training images it has",
    )
    recipe.add_argument(
        "--set",
        dest="recipe",
        action=_IntoRecipe,
        metavar="KEY=VALUE",
        help="any setting of the recipe, as in a network's TOML file, such as loss.label_smoothing=0.1; may be given "
        "several times; `cnn reference Recipe` lists them",
    )
    recipe.add_argument(
        "--seed", type=whole_number_or_zero, metavar="N", help="seed of every random choice (default: 0)"
    )


class _IntoRecipe(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *given: Any) -> None:
        setattr(namespace, self.dest, merged(getattr(namespace, self.dest) or {}, setting(given[0])))


def setting(text: str) -> dict[str, Any]:
    """The table of one setting KEY=VALUE, with dots in the key for tables in tables. Raises UsageError for another."""
    key, value = parse_option(text)
    *outer, name = key.split(".")
    require(all((*outer, name)) and len(outer) < MOST_DEPTH, f"--set has no setting {shorten(key)}; correct its dots.")
    table = {name: value}
    for each in reversed(outer):
        table = {each: table}
    return table


def adjusted(architecture: Architecture, options: argparse.Namespace) -> Architecture:
    """The architecture with its recipe changed by the options: first by --set, then by those of their own."""
    changes = options.recipe or {}
    rate = getattr(options, "lr", None)
    if "schedule" in changes and rate is not None:
        changes = merged(changes, {"schedule": {"lr": rate}})  # another schedule may need it
    recipe = architecture.recipe.changed(changes)
    optimizer: Optimizer = Optimizer.from_config(options.optimizer) if options.optimizer else recipe.optimizer
    if options.weight_decay is not None:
        optimizer = Optimizer.from_config(optimizer.config() | {"weight_decay": options.weight_decay})
    return replace(
        architecture,
        recipe=replace(recipe, optimizer=optimizer, augmentation=_common.augmentation_of(options, recipe)),
    )


def recall(options: argparse.Namespace, world: World) -> None:
    """Fills in the options that were not given: from the run that is resumed, else from the defaults.

    Of `--set` and `--backend-option` only what is given again changes.
    """
    _common.find_own_pictures(options)
    stored = world.from_first(lambda: _stored(options))
    if options.backend is not None:
        # Another backend would not know the options of the one before.
        stored.pop("backend_options", None)
    defaults = REMEMBERED | ({} if options.data_dir is None else {"dataset": _common.OWN_IMAGES})
    for name, default in defaults.items():
        given, before = getattr(options, name), stored.get(name, default)
        if given is None:
            setattr(options, name, before)
        elif isinstance(given, dict) and isinstance(before, dict):
            setattr(options, name, merged(before, given))
    # A resumed run needs the modules of the one before.
    if getattr(options, "import"):
        import_modules(getattr(options, "import"))
    # The run may be resumed from elsewhere.
    if options.model is not None and options.model.endswith(".toml"):
        options.model = str(Path(options.model).absolute())
    if options.init is not None:
        options.init = str(Path(options.init).absolute())
    if options.data_dir is not None:
        options.data_dir = str(Path(options.data_dir).absolute())


def start_of(options: argparse.Namespace, data: Dataset, backend: Backend) -> Start | None:
    """The saved model that the run starts from, if one is named."""
    if options.init is None:
        require(options.freeze is None, "--freeze keeps layers as a saved model has them; name it by --init.")
        return None
    require(options.model is None, "--init brings its own network; leave out --model.")
    return Start(options.init, data, options.freeze.split(",") if options.freeze else (), backend)


def _stored(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the run to resume; empty for a new one."""
    if not options.resume:
        if options.out is not None:
            refuse_a_run(Path(options.out))
        return {}
    if options.out is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to continue.")
    settings = read_settings(Path(options.out))
    try:
        return converted(options.parser, f"{Path(options.out) / SETTINGS}", settings, positional=("dataset",))
    except UsageError as error:
        raise FileFormatError(f"{str(error).rstrip('.')}; correct it, or start the run anew.") from error
