"""Walks the nodes of an ONNX graph that the network's output depends on, and collects what they become."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn.arrays import Shape
from cnn.errors import FileFormatError, UsageError, listed
from cnn.layers import Flatten
from cnn.model.wiring import INPUT
from cnn.onnx.builder import MOST_NUMBERS, Builder, Value
from cnn.onnx.constants import KNOWN, constant
from cnn.onnx.export import SCORES
from cnn.onnx.files import Budget, Numbers, Unfit, array
from cnn.onnx.functions import ELEMENTWISE
from cnn.onnx.graph import Given, shape_of
from cnn.onnx.metadata import MODEL
from cnn.onnx.nodes import KNOWN_DOMAINS, Node
from cnn.onnx.operators import ENDINGS, OPERATORS, PASSED_ON, passed_on
from cnn.paths import shown
from cnn.words import counted

FLOATS = (1, 10, 11, 16)
FLOAT, UINT8 = 1, 2
"""Types of numbers (TensorProto.DataType of onnx.proto)."""


TOO_DEEP = "too many nodes in a row are no layer"


class Problem(NamedTuple):
    """A node that cannot be taken over."""

    node: str
    operator: str
    reason: str


class NotUnderstood(FileFormatError):
    """A file has nodes that no layer stands for; `problems` are all of them."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        operators = listed(dict.fromkeys(each.operator for each in problems))
        first = problems[0]
        super().__init__(
            f"{shown(path)} has {counted(len(problems), 'node')} that cannot be imported ({operators}), first "
            f"{first.node[:80]}: {first.reason}; export the network without them."
        )
        self.problems = tuple(problems)


class Reader:
    """Walks the nodes that the output depends on; implements `operators.Graph`."""

    def __init__(self, proto: Any, path: Path, output: str | None, input_shape: Shape | None) -> None:
        self.proto, self.path, self.folder = proto, path, path.parent
        self.properties = {each.key: each.value for each in proto.metadata_props}
        self.ours = proto.producer_name == "cnn" and MODEL in self.properties
        self.opset = max((each.version for each in proto.opset_import if each.domain in KNOWN_DOMAINS), default=0)
        self.budget = Budget()
        self.tensors = {each.name: each for each in proto.graph.initializer}
        self.output = self._output(output)
        self.nodes = self._needed()
        self._readers = Counter(name for node in self.nodes for name in set(node.inputs))
        self._readers.update(name for node in self.nodes for name in _repeated(node.inputs))
        self._readers[self.output] += 1
        self.input, self.batch, self.kind, shape, self.axes = self._input(input_shape)
        self.builder = Builder(shape)
        self.constants: dict[str, Numbers] = {}

    def readers(self, name: str) -> int:
        """How many nodes read a value."""
        return self._readers[name]

    def title(self, node: Node) -> str:
        """A name for a layer: that of its weight in most exporters is the module's; ours name the node."""
        if self.ours:
            return node.name
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        stem = weight.removesuffix("weight").rstrip("._/")
        known = weight in self.tensors and stem != weight and any(each.isalpha() for each in stem)
        return stem if known and "::" not in stem else ""

    def read(self) -> tuple[Value, str]:
        """The network's output and the name of the scores in the file."""
        height, width, channels = self.builder.input_shape
        image = Value(self.input, self.axes, (height, width, channels), self.readers(self.input), INPUT)
        if self.axes == "NC":
            place = self.builder.add(Flatten(), [INPUT])
            image = Value(self.input, self.axes, self.builder.shape(place), self.readers(self.input), place)
        values: dict[str, Given] = {"": None, self.input: image}
        unknown: set[str] = set()
        problems: list[Problem] = []
        for node in self.nodes:
            lost = any(name in unknown for name in node.inputs)
            known = node.operator in OPERATORS or node.operator in KNOWN or node.operator in PASSED_ON
            try:
                if not known:
                    raise Unfit("there is no layer for it")
                if lost:
                    unknown.update(node.outputs)
                    continue
                values[node.outputs[0]] = self._taken(node, [self._given(name, values) for name in node.inputs])
            except (Unfit, UsageError, RecursionError) as error:
                values[node.outputs[0]] = stand_in = self._stand_in(node, values)
                unknown.update(node.outputs if stand_in is None else node.outputs[1:])
                problems.append(Problem(node.name, node.operator, _reason(error)))
        final = values.get(self.output)
        if not problems:
            try:
                return self._ended(final)
            except (Unfit, UsageError, RecursionError) as error:
                problems.append(Problem(self.output, "output", _reason(error)))
        raise NotUnderstood(self.path, problems)

    def _stand_in(self, node: Node, values: Mapping[str, Given]) -> Value | None:
        """For the output of a node of single elements that does not fit: its largest input, so that more is found."""
        found = [each for name in node.inputs if isinstance(each := values.get(name), Value)]
        if node.operator not in ELEMENTWISE or not found or any(each.scores is not None for each in found):
            return None
        largest = max(found, key=lambda each: prod(each.shape))
        try:
            place = self.builder.stand_in(largest)
        except (Unfit, UsageError, RecursionError):
            return None
        name = node.outputs[0]
        return Value(name, largest.axes, largest.shape, self.readers(name), place, largest.order)

    def _given(self, name: str, values: Mapping[str, Given]) -> Given:
        if name in values:
            return values[name]
        if name not in self.constants:
            if name not in self.tensors:
                raise Unfit(f"it reads {name!r}, which nothing before it gives")
            self.constants[name] = array(self.tensors[name], self.folder, self.budget)
        return self.constants[name]

    def _taken(self, node: Node, inputs: list[Given]) -> Given:
        """What the node gives. Raises Unfit or UsageError if it cannot be taken over."""
        try:
            return self._understood(node, inputs)
        except RecursionError as error:
            raise Unfit(TOO_DEEP) from error
        except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
            raise Unfit(f"its constants do not fit together ({str(error)[:200]})") from error

    def _understood(self, node: Node, inputs: list[Given]) -> Given:
        images = [each for each in inputs if isinstance(each, Value)]
        if not images:
            return constant(node, [each for each in inputs if not isinstance(each, Value)], self.budget)
        first = images[0]
        if node.operator == "CastLike" and first is not inputs[0] and isinstance(inputs[0], np.ndarray):
            return inputs[0].astype(np.float32)  # images are floats here
        if node.operator == "Shape":
            shape = shape_of(self, first)
            return np.array(shape[node.whole("start", 0) : node.whole("end", len(shape))], np.int64)
        if len(images) == 1 and first.scores is not None and node.operator in (*ENDINGS, *PASSED_ON):
            return passed_on(self, node, [first])
        if node.operator not in OPERATORS:
            raise Unfit("there is no layer for it")
        return OPERATORS[node.operator](self, node, inputs)

    def _ended(self, final: Given) -> tuple[Value, str]:
        """The output as a vector of scores."""
        if not isinstance(final, Value):
            raise Unfit("the output does not depend on the images")
        scores = final.scores or self.output
        place = self.builder.place(final)
        if final.order is not None:
            raise Unfit("the output is a flattened image, whose elements are in another order here")
        if len(final.shape) == 3:
            if final.shape[:2] != (1, 1):
                raise Unfit(f"the output is an image of {final.shape}, and a classifier gives one score per class")
            place = self.builder.add(Flatten(), [place])
        if place == INPUT:
            raise Unfit("there is no layer between the input and the output")
        return replace(final, place=place, shape=self.builder.shape(place)), scores

    def _output(self, asked: str | None) -> str:
        """The name of the output to import."""
        known = {each.name: each for each in self.proto.graph.output}
        if asked is not None:
            if asked not in known:
                raise UsageError(f"{shown(self.path)} has no output {asked!r}; it has {listed(known)}.")
            return asked
        if self.ours and SCORES in known:
            return SCORES
        kinds = {name: each.type.tensor_type.elem_type for name, each in known.items()}
        numbers = [name for name, kind in kinds.items() if kind in (0, *FLOATS)]
        made = {name: node for node in self.proto.graph.node for name in node.output}
        # Where both scores and probabilities are given, the scores are taken.
        scores = {made[name].input[0] for name in numbers if name in made and made[name].op_type == "Softmax"}
        found = [name for name in numbers if name in scores] or numbers
        if len(found) != 1:
            raise UsageError(
                f"{shown(self.path)} has {counted(len(found), 'output')} of numbers ({listed(found)}); name one by "
                "--output."
            )
        return str(found[0])

    def _needed(self) -> list[Node]:
        """The nodes that the output depends on, in the order of the file."""
        producers: dict[str, int] = {}
        for place, proto in enumerate(self.proto.graph.node):
            for name in proto.output:
                if name and name in producers:
                    raise FileFormatError(f"{shown(self.path)} gives {name!r:.100} twice; export it again.")
                producers[name] = place
        wanted, left = set[int](), [self.output]
        while left:
            name = left.pop()
            number = producers.get(name) if name else None
            if number is not None and number not in wanted:
                wanted.add(number)
                left += self.proto.graph.node[number].input
        if not wanted:
            raise FileFormatError(f"{shown(self.path)} has no node that gives {self.output!r:.100}; export it again.")
        nodes = [Node(self.proto.graph.node[each], each, self.opset, self.folder) for each in sorted(wanted)]
        if any(not node.outputs for node in nodes):
            raise FileFormatError(f"{shown(self.path)} has a node without outputs; export it again.")
        return nodes

    def _input(self, asked: Shape | None) -> tuple[str, int, int, tuple[int, int, int], str]:
        """Name, images per batch, type, shape (H, W, C) and axes of the network's input."""
        read = {name for node in self.nodes for name in node.inputs}
        found = [each for each in self.proto.graph.input if each.name in read and each.name not in self.tensors]
        if len(found) != 1:
            names = listed(each.name for each in found)
            raise FileFormatError(
                f"{shown(self.path)} has {counted(len(found), 'input')} ({names}), and a network here has one, the "
                "images; export one with a single input."
            )
        tensor = found[0].type.tensor_type
        sizes = [each.dim_value if each.HasField("dim_value") else 0 for each in tensor.shape.dim]
        name, kind = found[0].name, tensor.elem_type
        if kind not in (*FLOATS, UINT8):
            raise FileFormatError(f"{shown(self.path)} takes inputs of type {kind}, not images of numbers.")
        if len(sizes) == 2:
            rows, columns, channels = _of_vector(sizes[1]) if asked is None else asked
            axes, sizes = "NHWC", [sizes[0], rows, columns, channels]
            if not sizes[1]:
                raise UsageError(f"{shown(self.path)} leaves the length of its input open; give --shape H,W,C.")
        else:
            axes = "NHWC" if self._transposed_first(name) else "NCHW"
        if len(sizes) != 4:
            raise FileFormatError(f"{shown(self.path)} takes inputs of {len(sizes)} axes, not images N C H W.")
        by_axis = dict(zip(axes, sizes, strict=True))
        shape = asked or (by_axis["H"], by_axis["W"], by_axis["C"])
        if min(shape) < 1 or prod(shape) > MOST_NUMBERS:
            raise UsageError(
                f"{shown(self.path)} takes images of {shape}; give the height, width and channels by --shape."
            )
        for axis, size in zip("HWC", shape, strict=True):
            if by_axis[axis] not in (0, size):
                raise UsageError(f"{shown(self.path)} takes images with {axis} = {by_axis[axis]}, not {size}.")
        batch = max(1, by_axis["N"])
        return name, batch, kind, (shape[0], shape[1], shape[2]), "NC" if tensor.shape.dim[2:] == [] else axes

    def _transposed_first(self, name: str) -> bool:
        """Whether the input is N H W C: its readers, but for steps of single elements, are a Transpose from that."""
        for _ in range(8):
            readers = [node for node in self.nodes if name in node.inputs]
            if readers and all(each.operator == "Transpose" for each in readers):
                try:
                    return all(each.wholes("perm") == [0, 3, 1, 2] for each in readers)
                except Unfit:  # said again where the node is taken
                    return False
            if len(readers) != 1 or readers[0].operator not in ("Cast", "Identity", "Add", "Sub", "Mul", "Div"):
                return False
            name = readers[0].outputs[0]
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return TOO_DEEP
    return str(error).rstrip(".")


def _repeated(names: Sequence[str]) -> list[str]:
    """Names that stand more than once, once for each time more."""
    return [name for name, count in Counter(names).items() for _ in range(count - 1)]


def _of_vector(length: int) -> tuple[int, int, int]:
    """An image for a vector: a square one if there is one, else a row."""
    side = round(length**0.5)
    return (side, side, 1) if side * side == length else (1, length, 1)
