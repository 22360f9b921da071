"""The packages onnx and onnxruntime, which are optional and imported only when a file is written or read."""

from importlib import import_module
from types import ModuleType

from cnn.errors import CnnError


def onnx() -> ModuleType:
    """The package onnx with its modules. Raises CnnError if it is missing."""
    for name in ("onnx.checker", "onnx.defs", "onnx.helper", "onnx.inliner", "onnx.numpy_helper"):
        _imported(name)
    return _imported("onnx")


def onnxruntime() -> ModuleType:
    """ONNX Runtime. Raises CnnError if it is missing."""
    return _imported("onnxruntime")


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise CnnError(
            f"ONNX files need the package {package}, which cannot be imported ({error}): pip install 'cnn-blas[onnx]'."
        ) from error
