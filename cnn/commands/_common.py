"""Options that several subcommands share, and the backend and threads they run on."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import cnn.system.threads as threads
from cnn import precision, registry
from cnn.backend import Backend
from cnn.backend_options import parse_option
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Dataset, load_dataset
from cnn.data.images import RESIZES
from cnn.errors import UsageError
from cnn.model.architecture import Architecture, Recipe
from cnn.model.sequential import Sequential
from cnn.model.zoo import architecture
from cnn.plugins import DATASETS, names
from cnn.system.threads import ThreadBudget
from cnn.terminal.arguments import expanded_text, image_size, whole_number
from cnn.words import unknown

OWN_IMAGES = "folder"
"""The data set that a folder without a name of a data set is taken for."""
FEW, UNEVEN = 20, 3
"""Training images of a class that are too few, and how many times as many another class must have to be remarked on."""
BACKEND_DEFAULT = f"CNN_BACKEND, else the first ready one of {', '.join(registry.default_order())}"
"""What --backend is by default, in words."""
THREADS_DEFAULT = "CNN_NUM_THREADS, else OMP_NUM_THREADS, else all that this process may use"
"""What --threads is by default, in words."""


@dataclass(frozen=True)
class Resources:
    """What a command runs on, and why."""

    backend: Backend
    why: str
    budget: ThreadBudget

    def describe(self, model: Sequential | None = None) -> dict[str, str]:
        """The lines of a header, by title; a model may compute in a precision of its own."""
        name = model.precision if model else precision.chosen()
        return {
            "backend": f"{self.backend.name} ({self.why})",
            "library": str(self.backend.library),
            "threads": self.budget.describe(),
            **({} if name == precision.FLOAT32 else {"precision": self._precision_text(name)}),
        }

    def _precision_text(self, name: str) -> str:
        return self.backend.bfloat16_by if name == precision.BFLOAT16 else name

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "backend": self.backend.name,
            "library": str(self.backend.library),
            "threads": self.budget.count,
        }


def add_resource_options(parser: argparse.ArgumentParser) -> None:
    """--backend, --backend-option and --threads."""
    parser.add_argument("--backend", metavar="NAME", help=f"backend to compute on (default: {BACKEND_DEFAULT})")
    add_backend_option(parser)
    parser.add_argument(
        "--threads", type=whole_number, metavar="N", help=f"number of threads (default: {THREADS_DEFAULT})"
    )


def add_precision_option(parser: argparse.ArgumentParser, default: str = "float32") -> None:
    """--precision; `default` says what is taken without it."""
    parser.add_argument(
        "--precision",
        choices=precision.PRECISIONS,
        help=f"what products are computed in (default: {precision.VARIABLE}, else {default})",
    )


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """--backend-option, collected in the table `backend_options`."""
    parser.add_argument(
        "--backend-option",
        dest="backend_options",
        action=_IntoTable,
        metavar="NAME=VALUE",
        help="an option of the backend; may be given several times; `cnn info` lists them",
    )


class _IntoTable(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *given: Any) -> None:
        name, value = parse_option(given[0])
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | {name: value})


MODEL_HELP = "a network's name, a .toml file, a .safetensors model or a run's folder"


def add_model_argument(parser: argparse.ArgumentParser, default: str = "lenet", *, several: bool = False) -> None:
    """MODEL, as `architecture_of` takes it; with `several`, names separated by commas."""
    text = MODEL_HELP + "; several are separated by commas" * several
    parser.add_argument("model", metavar="MODEL", nargs="?", type=expanded_text, default=default, help=text)


def add_saved_model_argument(parser: argparse.ArgumentParser) -> None:
    """MODEL, as `load_model` takes it."""
    parser.add_argument(
        "model", metavar="MODEL", type=expanded_text, help="a model.safetensors that cnn train saved, or its folder"
    )


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, --batch-size and --mode."""
    add_model_argument(parser)
    parser.add_argument("--batch-size", type=whole_number, default=64, metavar="N", help="images per step")
    parser.add_argument(
        "--mode", choices=("train", "infer"), default="train", help="a training step, or the classification of a batch"
    )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--data-dir and --download."""
    parser.add_argument(
        "--data-dir",
        type=expanded_text,
        metavar="DIR",
        help="folder to search for the data set, before CNN_DATA_DIR and the cache",
    )
    parser.add_argument("--download", action="store_true", help="download the data set if it is not there")
    add_picture_options(parser)


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """--image-size and --resize."""
    pictures = parser.add_argument_group("own pictures")
    pictures.add_argument(
        "--image-size",
        type=size_text,
        metavar="HxW",
        help="height and width to which pictures are resized, or one number for both (default: the network's input, if "
        "a network or model is named, else their own size if all have the same, else 32x32)",
    )
    pictures.add_argument(
        "--resize",
        choices=RESIZES,
        help="what is done to pictures of other proportions: their middle is cut out, black is added, or they are "
        "distorted (default: crop, or what the model was trained on)",
    )


def add_wide_option(parser: argparse.ArgumentParser) -> None:
    """--wide."""
    parser.add_argument("--wide", action="store_true", help="print every column, however wide the terminal is")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


@contextmanager
def resources(options: argparse.Namespace, processes: int = 1) -> Iterator[Resources]:
    """The backend and the thread limit that the options ask for, in force until the end of the block.

    `processes` means the same as in `threads.budget`.
    """
    # The backend first: a limit reaches only the libraries that are loaded.
    chosen, why = registry.choose(options.backend, options.backend_options)
    budget = threads.budget(options.threads, processes)
    with threads.limit_threads(budget.count):
        yield Resources(chosen, why, budget)


def backend_names(given: str | None) -> list[str]:
    """The backends that a text separated by commas names; without one, every ready backend except reference."""
    if given is not None:
        return given.split(",")
    return registry.ready_names()


def thread_counts(asked: list[int] | None) -> list[int]:
    """The counts asked for, else the one that a run gets. Raises UsageError for a count that is not available."""
    if asked is None:
        return [threads.budget().count]
    return [threads.measurable(count) for count in asked]


def size_text(text: str) -> str:
    """What `image_size` takes, as text."""
    image_size(text)
    return text


def find_own_pictures(options: argparse.Namespace) -> None:
    """A DATASET that is the path of a folder or a CSV file, and no name of a data set, means the pictures there."""
    name = options.dataset
    if name is None or name in names(DATASETS):
        return
    path = os.path.expanduser(name)
    if not (os.path.isdir(path) or (path.lower().endswith(".csv") and os.path.isfile(path))):
        raise unknown(
            "There is no data set", name, names(DATASETS), ", or the path of a folder of pictures or CSV file"
        )
    if options.data_dir is not None:
        raise UsageError(
            f"{name} is where the data are, so --data-dir {options.data_dir} has no meaning; leave it out."
        )
    options.dataset, options.data_dir = OWN_IMAGES, os.path.abspath(path)


def dataset_of(options: argparse.Namespace, trained: Sequential | None = None) -> Dataset:
    """The data set the options name; own pictures as a model that is `trained` takes them, else as the one to train."""
    find_own_pictures(options)
    if options.dataset != OWN_IMAGES:
        for option in ("image_size", "resize"):
            if getattr(options, option) is not None:
                raise UsageError(
                    f"--{option.replace('_', '-')} is for own pictures; {options.dataset} has images of one size."
                )
        return load_dataset(options.dataset, data_dir=options.data_dir, download=options.download)
    size = None if options.image_size is None else image_size(options.image_size)
    settings: dict[str, Any] = {"resize": options.resize or "crop", "size": size}
    if trained is not None:
        height, width, channels = trained.input_shape
        settings = {"resize": options.resize or trained.resize or "stretch", "channels": channels}
        settings["size"] = size or (height, width)
    elif size is None and getattr(options, "model", None) is not None:
        settings["size"] = architecture(options.model).input_shape[:2]
    elif size is None:
        settings["otherwise"] = architecture("cifar10_quick").input_shape[:2]
    data = load_dataset(OWN_IMAGES, data_dir=options.data_dir, **settings)
    return data if trained is not None else replace(data, notes=(*data.notes, *remarks(data)))


def remarks(data: Dataset) -> list[str]:
    """What somebody who trains on own pictures may want to know before."""
    counts = np.bincount(data.train.labels, minlength=len(data.classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    found = []
    if counts[least] < FEW:
        found.append(
            f"there are only {counts[least]} training images of {data.classes[least]}; expect that a network learns "
            f"fewer than {FEW} by heart (--flip, --pad-crop and --random-crop help a little)"
        )
    if counts[most] >= UNEVEN * counts[least]:
        found.append(
            f"the classes differ in size, from {counts[least]} ({data.classes[least]}) to {counts[most]} "
            f"({data.classes[most]}) training images; --class-weights balanced lets them count the same"
        )
    return found


def augmentation_of(options: argparse.Namespace, recipe: Recipe) -> Augmentation:
    """The recipe's augmentation, changed by --flip, --pad-crop and --random-crop."""
    given = {name: getattr(options, name) for name in ("flip", "pad_crop", "random_crop")}
    return replace(recipe.augmentation, **{name: value for name, value in given.items() if value is not None})


def fitting_architecture(name: str | None, data: Dataset) -> Architecture:
    """The architecture called `name`; without a name, cifar10_quick for colour images and LeNet for others."""
    classes = len(data.classes)
    if name is not None:
        return architecture(name, classes)
    return architecture("cifar10_quick" if data.shape[2] == 3 else "lenet", classes)
