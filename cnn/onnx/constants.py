"""Computes nodes whose inputs are all known: shapes, and weights that exporters put together from pieces."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from cnn.onnx.files import Budget, Numbers, Unfit, array
from cnn.onnx.nodes import Node

_TO = {1: np.float32, 2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float32}
_TO |= {11: np.float64, 16: np.float32}
"""What numbers are cast to, by the number of the type; halves are float32 here."""

_BINARY: dict[str, Callable[[Numbers, Numbers], Numbers]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Pow": np.power,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Min": np.minimum,
    "Max": np.maximum,
}
_UNARY: dict[str, Callable[[Numbers], Numbers]] = {
    "Sqrt": np.sqrt,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Exp": np.exp,
    "Log": np.log,
    "Abs": np.abs,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Not": np.logical_not,
}
_AS_THEY_ARE = ("Identity", "Dropout")

KNOWN = frozenset(
    {*_BINARY, *_UNARY, *_AS_THEY_ARE, "Constant", "Div", "Cast", "CastLike", "Shape", "Size", "ConstantOfShape"}
    | {"Gather", "Concat"}
    | {"Transpose", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Expand", "Slice", "Where", "Range"}
    | {"ReduceProd", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"}
)
"""Operators that are computed where all their inputs are known."""


def constant(node: Node, inputs: Sequence[Numbers | None], budget: Budget) -> Numbers:
    """The output of a node from its inputs. Raises Unfit if the node is not known or does not fit them."""
    with np.errstate(all="ignore"):
        return _computed(node, inputs, budget)


def _computed(node: Node, inputs: Sequence[Numbers | None], budget: Budget) -> Numbers:
    operator = node.operator
    if operator == "Constant":
        return _constant(node, budget)
    given = [each for each in inputs if each is not None]
    if not given:
        raise Unfit("it has no inputs")
    x = given[0]
    if operator in _BINARY and len(given) == 2:
        budget.take(np.broadcast_shapes(x.shape, given[1].shape))
        return _BINARY[operator](x, given[1])
    if operator == "Div" and len(given) == 2:
        budget.take(np.broadcast_shapes(x.shape, given[1].shape))
        whole = x.dtype.kind in "iu"
        # ONNX rounds a quotient of whole numbers towards zero.
        return np.trunc(np.divide(x, given[1])).astype(x.dtype) if whole else np.divide(x, given[1])
    if operator in _AS_THEY_ARE:
        return x
    if operator in _UNARY:
        budget.take(x.shape)
        return _UNARY[operator](x)
    if operator == "Cast":
        budget.take(x.shape)
        return x.astype(_TO[node.whole("to")])
    if operator == "CastLike" and len(given) == 2:
        budget.take(x.shape)
        return x.astype(given[1].dtype)
    return _shaped(node, x, inputs, budget)


def _constant(node: Node, budget: Budget) -> Numbers:
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        if node.has(name):
            return np.array(node.real(name) if kind is np.float32 else node.whole(name), kind)
    if node.has("value_ints"):
        return np.array(node.wholes("value_ints"), np.int64)
    if node.has("value_floats"):
        return np.array(node.reals("value_floats"), np.float32)
    return array(node.tensor("value"), node.folder, budget)


def _shaped(node: Node, x: Numbers, inputs: Sequence[Numbers | None], budget: Budget) -> Numbers:
    operator = node.operator
    second = inputs[1] if len(inputs) > 1 else None
    if operator == "Shape":
        start, end = node.whole("start", 0), node.whole("end", x.ndim)
        return np.array(x.shape[start:end], np.int64)
    if operator == "Size":
        return np.array(x.size, np.int64)
    if operator == "ConstantOfShape":
        shape = tuple(map(int, x.reshape(-1)))
        budget.take(shape)
        value = array(node.tensor("value"), node.folder, budget) if node.has("value") else np.zeros(1, np.float32)
        return np.full(shape, value.reshape(-1)[0])
    if operator == "Gather" and second is not None:
        axis = node.whole("axis", 0)
        budget.take((second.size, x.size // max(1, x.shape[axis])))
        return np.take(x, second.astype(np.int64), axis=axis)
    if operator == "Concat":
        parts = [each for each in inputs if each is not None]
        budget.take((sum(each.size for each in parts),))
        return np.concatenate(parts, axis=node.whole("axis"))
    if operator == "Transpose":
        return x.transpose(node.wholes("perm") if node.has("perm") else None)
    if operator in ("Reshape", "Flatten") and not x.flags.c_contiguous:
        budget.take(x.shape)  # it will be a copy
    if operator == "Reshape" and second is not None:
        return x.reshape([x.shape[k] if each == 0 else int(each) for k, each in enumerate(second)])
    if operator == "Flatten":
        axis = node.whole("axis", 1)
        return x.reshape(prod(x.shape[:axis]), -1)
    if operator in ("Unsqueeze", "Squeeze"):
        axes = axes_of(node, second)
        if operator == "Unsqueeze":
            return np.expand_dims(x, tuple(axes or ()))
        return np.squeeze(x, None if axes is None else tuple(axes))
    if operator == "Expand" and second is not None:
        wide = np.broadcast_shapes(x.shape, tuple(map(int, second)))
        budget.take(wide)
        return np.broadcast_to(x, wide)
    if operator == "Slice":
        return x[_slices(node, x.ndim, inputs)]
    if operator == "Where" and second is not None and inputs[2] is not None:
        budget.take(np.broadcast_shapes(x.shape, second.shape, inputs[2].shape))
        return np.where(x, second, inputs[2])
    if operator == "Range" and second is not None and inputs[2] is not None:
        start, end, step = (each.item() for each in (x, second, inputs[2]))
        budget.take((max(0, int((end - start) / step) + 1),))
        return np.arange(start, end, step, dtype=x.dtype)
    if operator in ("ReduceProd", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
        function: Any = getattr(
            np, {"Prod": "prod", "Sum": "sum", "Mean": "mean", "Max": "max", "Min": "min"}[operator[6:]]
        )
        axes = axes_of(node, second)
        kept = bool(node.whole("keepdims", 1))
        return np.asarray(function(x, axis=None if axes is None else tuple(axes), keepdims=kept), x.dtype)
    raise Unfit("the operator is not known here for constants")


def axes_of(node: Node, given: Numbers | None) -> list[int] | None:
    """The axes that a node names as an input, or in older opsets as an attribute; None if it names none."""
    if given is not None:
        return [int(each) for each in given.reshape(-1)]
    return node.wholes("axes") if node.has("axes") else None


def _slices(node: Node, dimensions: int, inputs: Sequence[Numbers | None]) -> tuple[slice, ...]:
    def numbers(place: int, name: str) -> list[int] | None:
        if len(inputs) > place and (given := inputs[place]) is not None:
            return [int(each) for each in given.reshape(-1)]
        return node.wholes(name) if node.has(name) else None

    starts, ends = numbers(1, "starts") or [], numbers(2, "ends") or []
    axes = numbers(3, "axes")
    axes = list(range(len(starts))) if axes is None else axes
    steps = numbers(4, "steps") or [1] * len(starts)
    found = [slice(None)] * dimensions
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        found[axis] = slice(start, end if end > -(2**31) else None, step)
    return tuple(found)
