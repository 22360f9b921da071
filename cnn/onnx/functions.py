"""Recognises functions of single elements by their values, whatever operators an exporter has built them from."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erf, expit

from cnn.layers import GELU, HardSwish, Layer, LeakyReLU, ReLU, ReLU6, Sigmoid, SiLU, Tanh
from cnn.onnx.files import Unfit
from cnn.onnx.nodes import Node

Samples = npt.NDArray[np.float64]

GRID: Samples = np.concatenate([np.linspace(-12, 12, 241), [-1e3, -100, -40, -20, 20, 40, 100, 1e3]])
"""The points at which functions are compared; a function whose pieces differ elsewhere only is not recognised."""
_ONE = int(np.argmin(np.abs(GRID - 1)))
_MINUS_ONE = int(np.argmin(np.abs(GRID + 1)))

_KNOWN: tuple[tuple[Callable[[], Layer], Samples], ...] = (
    (ReLU, np.maximum(GRID, 0)),
    (ReLU6, np.clip(GRID, 0, 6)),
    (Tanh, np.tanh(GRID)),
    (Sigmoid, expit(GRID)),
    (SiLU, GRID * expit(GRID)),
    (HardSwish, GRID * np.clip(GRID + 3, 0, 6) / 6),
    (GELU, GRID * (1 + erf(GRID / np.sqrt(2))) / 2),
)


def same(one: Samples, other: Samples) -> bool:
    """Whether two functions agree, to the rounding of the constants in them."""
    return bool(np.all(np.abs(one - other) <= 1e-6 * (1 + np.abs(other))))


def shortest(number: float) -> float:
    """The shortest number that is the same in float32, in which ONNX keeps settings."""
    return float(str(np.float32(number)))


def recognised(values: Samples) -> Layer | None:
    """A layer that computes the function, None if there is none."""
    for kind, known in _KNOWN:
        if same(values, known):
            return kind()
    slope = float(values[_MINUS_ONE] / GRID[_MINUS_ONE])
    if np.isfinite(slope) and same(values, np.where(GRID > 0, GRID, slope * GRID)) and slope != 1:
        return LeakyReLU(shortest(slope))
    return None


def line(values: Samples) -> tuple[float, float] | None:
    """(factor, offset) of a function that is a straight line, None if it is none."""
    factor = float(values[_ONE] - values[_MINUS_ONE]) / float(GRID[_ONE] - GRID[_MINUS_ONE])
    offset = float(values[_ONE]) - factor * float(GRID[_ONE])
    straight = np.isfinite([factor, offset]).all() and same(values, factor * GRID + offset)
    return (factor, offset) if straight else None


def unary(node: Node, x: Samples, others: Sequence[float | None]) -> Samples | None:
    """The function of a node with one input that is no constant; `others` are its constants. None for no function."""
    operator = node.operator
    if operator == "Clip":
        low, high = (others[k] if len(others) > k else None for k in (0, 1))
        low = node.real("min", -np.inf) if low is None else low
        high = node.real("max", np.inf) if high is None else high
        return np.minimum(np.maximum(x, low), high)
    if operator == "PRelu" and others and others[0] is not None:
        return np.where(x > 0, x, others[0] * x)
    if operator == "LeakyRelu":
        return np.where(x > 0, x, node.real("alpha", 0.01) * x)
    if operator == "HardSigmoid":
        return np.clip(node.real("alpha", 0.2) * x + node.real("beta", 0.5), 0, 1)
    if operator == "Gelu":
        if node.text("approximate", "none") != "none":
            raise Unfit("it is the approximation of GELU by tanh, for which there is no layer")
        return np.asarray(x * (1 + erf(x / np.sqrt(2))) / 2)
    if operator == "Swish":
        return np.asarray(x * expit(node.real("alpha", 1.0) * x))
    function = _UNARY.get(operator)
    return None if function is None else function(x)


def binary(operator: str, x: Any, y: Any) -> Samples | None:
    """The function of a node with two inputs, each a function of the same input or a number."""
    function = _BINARY.get(operator)
    return None if function is None else np.asarray(function(x, y), np.float64)


_UNARY: dict[str, Callable[[Samples], Samples]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": expit,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Identity": lambda x: x,
    "Neg": np.negative,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Abs": np.abs,
    "Erf": erf,
    "Reciprocal": np.reciprocal,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "Sign": np.sign,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Max": np.maximum,
    "Min": np.minimum,
}
ELEMENTWISE = {*_UNARY, *_BINARY, "Clip", "PRelu", "LeakyRelu", "HardSigmoid", "Gelu", "Swish"}
"""Operators of single elements."""
