"""A node of an ONNX graph with its attributes, each asked for by name and type."""

from pathlib import Path
from typing import Any

from cnn.onnx.files import Unfit

_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS = 1, 2, 3, 4, 6, 7
"""Types of attributes (AttributeProto.AttributeType of onnx.proto)."""
KNOWN_DOMAINS = ("", "ai.onnx")


class Node:
    """Operator, names of inputs and outputs, attributes. What an attribute has not is Unfit."""

    def __init__(self, proto: Any, number: int, opset: int, folder: Path) -> None:
        self.proto, self.opset, self.folder = proto, opset, folder
        known = proto.domain in KNOWN_DOMAINS
        self.operator: str = proto.op_type if known else f"{proto.domain}.{proto.op_type}"
        self.name: str = proto.name or f"node {number}"
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self._attributes = {each.name: each for each in proto.attribute}

    def has(self, name: str) -> bool:
        """Whether the attribute is there."""
        return name in self._attributes

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        return int(self._value(name, _INT, "i", default))

    def real(self, name: str, default: float | None = None) -> float:
        """A number."""
        return float(self._value(name, _FLOAT, "f", default))

    def text(self, name: str, default: str) -> str:
        """A text."""
        found = self._value(name, _STRING, "s", default)
        return found.decode(errors="replace") if isinstance(found, bytes) else str(found)

    def wholes(self, name: str, default: list[int] | None = None) -> list[int]:
        """A list of whole numbers."""
        return [int(each) for each in self._value(name, _INTS, "ints", default)]

    def reals(self, name: str) -> list[float]:
        """A list of numbers."""
        return [float(each) for each in self._value(name, _FLOATS, "floats", None)]

    def tensor(self, name: str) -> Any:
        """A TensorProto."""
        return self._value(name, _TENSOR, "t", None)

    def _value(self, name: str, kind: int, field: str, default: Any) -> Any:
        found = self._attributes.get(name)
        if found is None:
            if default is None:
                raise Unfit(f"it lacks the attribute {name}")
            return default
        if found.type != kind:
            raise Unfit(f"its attribute {name} is of another type")
        return getattr(found, field)
