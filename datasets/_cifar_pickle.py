"""Reads the pickled batches of CIFAR's python layout without running anything that a pickle may name."""

import io
import pickle
import pickletools
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from cnn.errors import DataError

# The names allowed in a pickle. None of them is run: each is replaced by a stand-in, so that NumPy does not
# allocate what a hostile shape asks for.
_MOST = 1 << 31
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "type",
    ("numpy", "dtype"): "dtype",
}


class _Dtype:
    """Stand-in for numpy.dtype: remembers the type code."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code.decode("ascii", "replace") if isinstance(code, bytes) else code

    def __setstate__(self, _: Any) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class _Array:
    """Stand-in for an array under construction: remembers the state that NumPy would get."""

    state: Any = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Resolves the few names above and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        kind = _ALLOWED.get((module, name))
        if kind is None:
            raise _Foreign(f"{module}.{name}")
        return _Dtype if kind == "dtype" else _Array

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Foreign(f"persistent object {pid!r}")


class _Foreign(Exception):
    """The pickle names something that is not allowed."""


def read_batch(raw: bytes, source: str, label_key: str, pixels: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """The rows (N, `pixels`) uint8 and the N labels of a pickled batch; `source` names it in errors.

    Raises DataError if it is damaged, names a foreign global, or lacks valid pixels or labels.
    """
    try:
        _check_opcodes(raw)
        batch = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except _Foreign as error:
        raise DataError(f"{source} asks for {error}, which a batch does not need; do not trust it.") from error
    except Exception as error:
        # A damaged pickle raises whatever its opcodes trip over: EOFError, KeyError, UnpicklingError, ...
        raise DataError(f"{source} is not a readable pickle ({error!r}); download or copy it again.") from error
    if not isinstance(batch, dict):
        raise _invalid(source, f"a {type(batch).__name__} instead of a dict")
    labels, data = _get(batch, label_key), _get(batch, "data")
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) <= _MOST for label in labels):
        raise _invalid(source, f"no list of integers under {label_key!r}")
    return _rows(data, source, pixels), labels


def _check_opcodes(raw: bytes) -> None:
    """Refuses memo positions beyond the file size, because the unpickler would allocate all positions below them."""
    most = len(raw)
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not (
            isinstance(argument, int) and 0 <= argument <= most
        ):
            raise pickle.UnpicklingError(f"memo position {argument} in {most} bytes")


def _get(batch: dict[Any, Any], key: str) -> Any:
    """The value of a key, which is bytes in a pickle by Python 2 and text in one by Python 3."""
    return batch.get(key.encode(), batch.get(key))


def _rows(data: Any, source: str, pixels: int) -> npt.NDArray[np.uint8]:
    """The array of a stand-in, whose state is (version, shape, dtype, Fortran order, bytes)."""
    if not isinstance(data, _Array) or not isinstance(data.state, tuple) or len(data.state) != 5:
        raise _invalid(source, "no array under 'data'")
    _, shape, dtype, fortran, content = data.state
    if not isinstance(dtype, _Dtype) or dtype.code != "u1" or fortran or not isinstance(content, bytes):
        raise _invalid(source, "no row-major array of unsigned bytes under 'data'")
    rows = len(content) // pixels
    if shape != (rows, pixels) or len(content) != rows * pixels:
        raise _invalid(source, f"an array of shape {shape!r:.80} with {len(content):,} bytes under 'data'")
    return np.frombuffer(content, dtype=np.uint8).reshape(rows, pixels)


def _invalid(source: str, what: str) -> DataError:
    return DataError(f"{source} holds {what}; download or copy it again.")
