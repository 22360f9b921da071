"""The scores that ONNX Runtime computes from a file, and how far a model's scores are from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.errors import CnnError
from cnn.onnx.library import onnxruntime

TOLERANCE = 1e-4
"""Of the largest score: rounding in float32 stays well below it, another computation does not."""
LARGEST = (1 << 31) - (1 << 20)
"""Bytes of a file: a message of Protocol Buffers ends at 2 GiB."""

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Comparison:
    """Two computations of the scores of `images` images: `difference` is relative to the largest score."""

    images: int
    difference: float
    same_answers: int

    @property
    def agrees(self) -> bool:
        """Whether they differ by rounding only; NaN is no agreement."""
        return self.difference <= TOLERANCE


def compared(ours: Floats, theirs: Floats) -> Comparison:
    """Compares scores (N, K) of a model with those of ONNX Runtime."""
    wide, other = ours.astype(np.float64), theirs.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(other).all()):
        return Comparison(len(ours), float("nan"), 0)
    largest = float(np.abs(wide).max(initial=0.0)) or 1.0
    same = int(np.count_nonzero(wide.argmax(axis=1) == other.argmax(axis=1)))
    return Comparison(len(ours), float(np.abs(wide - other).max(initial=0.0)) / largest, same)


class Session:
    """A file's content in ONNX Runtime. Raises CnnError if ONNX Runtime does not accept it."""

    def __init__(self, content: bytes) -> None:
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base of their own
            raise _refused(error) from error

    def run(self, output: str, feed: dict[str, npt.NDArray[Any]]) -> Floats:
        """One output by name, as (N, K)."""
        try:
            found = np.asarray(self._session.run([output], feed)[0])
        except Exception as error:
            raise _refused(error) from error
        return found.reshape(len(found), -1)


def _refused(error: Exception) -> CnnError:
    reason = " ".join(str(error).split())[:300]
    return CnnError(f"ONNX Runtime does not run this network ({reason}); try another opset or release of it.")
