"""Convolutional networks on CPUs: every convolution is im2col + GEMM on the BLAS you name.

Names are imported from their modules on first use: `import cnn` loads no plug-in, no BLAS and no compiler.
Settings come from four modules: `cnn.initializers`, `cnn.losses`, `cnn.optimizers` and `cnn.schedules`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cnn.system import affinity as _affinity

if TYPE_CHECKING:
    from cnn import initializers, losses, optimizers, schedules
    from cnn.backend import Backend, Library
    from cnn.cblas import CblasBackend
    from cnn.data.augmentation import Augmentation
    from cnn.data.dataset import Dataset, DatasetPlugin, Split, load_dataset
    from cnn.data.preprocessing import Preprocessing
    from cnn.distributed.job import job
    from cnn.energy.meters import open_meter
    from cnn.errors import CnnError
    from cnn.layers import (
        GELU,
        Add,
        AvgPool2D,
        BatchNorm,
        Branches,
        Concat,
        Conv2D,
        Dropout,
        Flatten,
        GlobalAvgPool2D,
        HardSwish,
        Layer,
        LeakyReLU,
        Linear,
        LocalResponseNorm,
        MaxPool2D,
        Multiply,
        ReLU,
        ReLU6,
        Residual,
        Sigmoid,
        SiLU,
        Tanh,
    )
    from cnn.meter import Meter
    from cnn.model.architecture import Architecture, Recipe
    from cnn.model.modelfile import load_model, save_model
    from cnn.model.sequential import Sequential
    from cnn.model.zoo import architecture
    from cnn.onnx.export import export_onnx
    from cnn.onnx.importer import import_onnx
    from cnn.registry import current_backend, use_backend
    from cnn.system.threads import limit_threads
    from cnn.training.fitting import fit
    from cnn.training.rate_search import RateSearch, lr_find
    from cnn.training.results import EpochResult, History
    from cnn.training.tensorboard import TensorBoard
    from cnn.training.trainer import Callback, Trainer

__version__ = version("cnn-blas")

_NAMES = {
    "cnn.backend": ("Backend", "Library"),
    "cnn.cblas": ("CblasBackend",),
    "cnn.data.augmentation": ("Augmentation",),
    "cnn.data.dataset": ("Dataset", "DatasetPlugin", "Split", "load_dataset"),
    "cnn.data.preprocessing": ("Preprocessing",),
    "cnn.distributed.job": ("job",),
    "cnn.energy.meters": ("open_meter",),
    "cnn.meter": ("Meter",),
    "cnn.errors": ("CnnError",),
    "cnn.layers": (
        "Add",
        "AvgPool2D",
        "BatchNorm",
        "Branches",
        "Concat",
        "Conv2D",
        "Dropout",
        "Flatten",
        "GELU",
        "GlobalAvgPool2D",
        "HardSwish",
        "Layer",
        "LeakyReLU",
        "Linear",
        "LocalResponseNorm",
        "MaxPool2D",
        "Multiply",
        "ReLU",
        "ReLU6",
        "Residual",
        "SiLU",
        "Sigmoid",
        "Tanh",
    ),
    "cnn.model.architecture": ("Architecture", "Recipe"),
    "cnn.model.modelfile": ("load_model", "save_model"),
    "cnn.model.sequential": ("Sequential",),
    "cnn.model.zoo": ("architecture",),
    "cnn.onnx.export": ("export_onnx",),
    "cnn.onnx.importer": ("import_onnx",),
    "cnn.registry": ("current_backend", "use_backend"),
    "cnn.system.threads": ("limit_threads",),
    "cnn.training.fitting": ("fit",),
    "cnn.training.rate_search": ("RateSearch", "lr_find"),
    "cnn.training.results": ("EpochResult", "History"),
    "cnn.training.tensorboard": ("TensorBoard",),
    "cnn.training.trainer": ("Callback", "Trainer"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = ("initializers", "losses", "optimizers", "schedules")

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"cnn.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'cnn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
