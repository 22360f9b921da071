"""The precisions of products: which numbers are multiplied, and which are stored and added up.

In bfloat16 the operands of products are rounded to nearest even, to 8 significant bits and float32's exponents. Their
products are exact in float32, and sums, weights and everything else are float32. Source: Kalamkar et al. 2019, "A study
of bfloat16 for deep learning training", section 2.

A backend that `stores_bfloat16` also takes activations and their gradients as arrays of SHORT.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import numpy.typing as npt

from cnn.words import unknown

FLOAT32, BFLOAT16, FLOAT64 = "float32", "bfloat16", "float64"
PRECISIONS = (FLOAT32, BFLOAT16, FLOAT64)
VARIABLE = "CNN_PRECISION"
"""The environment variable that says in which precision networks are computed that do not say so themselves."""

SHORT = np.dtype(np.uint16)
"""The type of arrays that are bfloat16 in memory: NumPy has none, and each element is the upper half of a float32."""

_asked: ContextVar[str | None] = ContextVar("precision", default=None)

_BITS = np.uint32(0x7FFF)
"""Just less than half of a bfloat16's last place."""
_QUIET = np.uint32(0x00400000)


def chosen(precision: str | None = None) -> str:
    """The precision that is named, else `asked`, else float32. Raises UsageError for an unknown one."""
    return _known(precision, "") if precision else asked() or FLOAT32


def asked() -> str | None:
    """The precision of the `within` block around, else that of CNN_PRECISION. Raises UsageError for an unknown one."""
    name = _asked.get() or os.environ.get(VARIABLE)
    return _known(name, f" in {VARIABLE}" if _asked.get() is None else "") if name else None


@contextmanager
def within(precision: str | None) -> Iterator[None]:
    """Makes a precision that of every model built in the block without one of its own; None changes nothing."""
    token = _asked.set(precision or _asked.get())
    try:
        yield
    finally:
        _asked.reset(token)


def _known(name: str, source: str) -> str:
    if name not in PRECISIONS:
        raise unknown(f"There is no precision{source}", name, PRECISIONS)
    return name


def dtype_of(precision: str) -> np.dtype[np.floating]:
    """The type of the arrays of a network that computes in this precision."""
    return np.dtype(np.float64 if precision == FLOAT64 else np.float32)


def round_bfloat16(x: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """out = x, both contiguous float32, rounded to the nearest bfloat16, ties to even; out may be x."""
    bits, rounded = x.view(np.uint32), out.view(np.uint32)
    nan = np.isnan(x)
    np.copyto(rounded, (bits + _BITS + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000), where=~nan)
    np.copyto(rounded, (bits & np.uint32(0xFFFF0000)) | _QUIET, where=nan)


def shortened(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """A copy of x in SHORT, rounded to the nearest bfloat16, ties to even."""
    rounded = np.array(x, np.float32, order="C")
    round_bfloat16(rounded, rounded)
    return (rounded.view(np.uint32) >> np.uint32(16)).astype(SHORT)


def widened(x: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """A copy of x, which is in SHORT, in float32."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
