"""Options that several subcommands share, and the backend and threads they run on."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cnn.system.threads as threads
from cnn import registry
from cnn.backend import Backend
from cnn.backend_options import parse_option
from cnn.data.dataset import Dataset, load_dataset
from cnn.model.architecture import Architecture
from cnn.model.zoo import architecture
from cnn.system.threads import ThreadBudget
from cnn.terminal.arguments import expanded_text, whole_number

BACKEND_DEFAULT = f"CNN_BACKEND, else the first ready one of {', '.join(registry.default_order())}"
"""What --backend is by default, in words."""
THREADS_DEFAULT = "CNN_NUM_THREADS, else all that this process may use"
"""What --threads is by default, in words."""


@dataclass(frozen=True)
class Resources:
    """What a command runs on, and why."""

    backend: Backend
    why: str
    budget: ThreadBudget

    def describe(self) -> dict[str, str]:
        """The lines of a header, by title."""
        return {
            "backend": f"{self.backend.name} ({self.why})",
            "library": str(self.backend.library),
            "threads": self.budget.describe(),
        }

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


def dataset_of(options: argparse.Namespace) -> Dataset:
    """The data set the options name."""
    return load_dataset(options.dataset, data_dir=options.data_dir, download=options.download)


def fitting_architecture(name: str | None, data: Dataset) -> Architecture:
    """The architecture called `name`; without a name, cifar10_quick for colour images and LeNet for others."""
    classes = len(data.classes)
    if name is not None:
        return architecture(name, classes)
    return architecture("cifar10_quick" if data.shape[2] == 3 else "lenet", classes)
