"""Convolutional networks on CPUs: every convolution is im2col + GEMM on the BLAS you name.

The names are those of `cnn.api`, imported at first use, so that `import cnn` loads neither a plug-in nor a BLAS.
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnn.api import *  # noqa: F403

__version__ = version("cnn-blas")


def __getattr__(name: str) -> Any:
    # A module of the package must not be asked of cnn.api: `from cnn import plugins` would then import in a circle.
    if name.startswith("_") or find_spec(f"cnn.{name}"):
        raise AttributeError(f"module 'cnn' has no attribute {name!r}")
    return getattr(import_module("cnn.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *import_module("cnn.api").__all__]
