"""Reads a network from an ONNX file, and holds it to the scores that ONNX Runtime computes from the same nodes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.arrays import Shape
from cnn.backend import Backend
from cnn.data.preprocessing import Preprocessing
from cnn.errors import CnnError, FileFormatError, UsageError, listed
from cnn.layers import BatchNorm, Flatten, Layer
from cnn.losses import Loss
from cnn.model.sequential import Sequential
from cnn.model.wiring import INPUT, INPUT_NAME, wire
from cnn.onnx import library
from cnn.onnx.builder import Builder, Value
from cnn.onnx.constants import KNOWN, constant
from cnn.onnx.export import SCORES
from cnn.onnx.files import Budget, Numbers, Unfit, array, read_proto
from cnn.onnx.functions import ELEMENTWISE
from cnn.onnx.metadata import KEPT, MODEL, entry
from cnn.onnx.nodes import KNOWN_DOMAINS, Node
from cnn.onnx.operators import ENDINGS, OPERATORS, PASSED_ON, Given, passed_on, shape_of
from cnn.onnx.runtime import Comparison, Session, compared
from cnn.paths import shown
from cnn.words import counted

CHECKED = 3
"""Random images that an import is checked with, unless the file fixes their number."""
MOST_CHECKED = 64
_FLOATS = (1, 10, 11, 16)
_FLOAT, _UINT8 = 1, 2
_PIXELS = 1 / 16
"""A network whose first factor is smaller takes pixels from 0 to 255; a larger one divides values of about 1."""


GUESSED = (
    "the file does not say how pixels become its input; they are divided by 255 (--scale, --mean and --std change "
    "that, such as --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 for most networks of PyTorch)"
)


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


@dataclass(frozen=True)
class Imported:
    """The model, how far its scores are from ONNX Runtime's, and what was assumed."""

    model: Sequential
    comparison: Comparison
    notes: tuple[str, ...]


def import_onnx(
    path: str | Path,
    *,
    backend: Backend | str | None = None,
    preprocessing: Preprocessing | None = None,
    output: str | None = None,
    input_shape: Shape | None = None,
) -> Imported:
    """The network in an ONNX file as a model that can be trained on.

    `preprocessing` leads from pixels to the file's input, unless the file has it; without, it is guessed and noted.
    `output` names one of several outputs, `input_shape` (H, W, C) is for a file that leaves it open. Raises
    NotUnderstood, a FileFormatError, with every node that no layer stands for, FileFormatError for a file that is
    damaged, and CnnError if the model's scores are not those of ONNX Runtime.
    """
    path = Path(path)
    proto = read_proto(path)
    reader = _Reader(proto, path, output, input_shape)
    final, scores = reader.read()
    layers, arrays = _layers(reader.builder, final)
    own = entry(reader.properties, MODEL) if reader.ours else None
    own = own if isinstance(own, dict) else {}
    notes: list[str] = []
    outer = preprocessing or reader.stored_preprocessing() or _guessed(reader, notes)
    try:
        _restore(layers, own.get("layers"))
        model = Sequential(
            layers,
            reader.builder.input_shape,
            name=_name(proto.graph.name, path),
            loss=_loss(own.get("loss")),
            preprocessing=reader.whole_preprocessing(outer),
            classes=reader.classes(own),
            backend=backend,
        )
        model.border = _border(own.get("border"))
        model.load_state(_named(model, arrays))
    except UsageError as error:
        raise FileFormatError(f"{shown(path)} describes no network that can be built: {error}") from error
    comparison = _checked(model, reader, outer, scores, path)
    return Imported(model, comparison, tuple(notes))


class _Reader:
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
            except (Unfit, UsageError) as error:
                values[node.outputs[0]] = stand_in = self._stand_in(node, values)
                unknown.update(node.outputs if stand_in is None else node.outputs[1:])
                problems.append(Problem(node.name, node.operator, str(error).rstrip(".")))
        final = values.get(self.output)
        if not problems:
            try:
                return self._ended(final)
            except (Unfit, UsageError) as error:
                problems.append(Problem(self.output, "output", str(error).rstrip(".")))
        raise NotUnderstood(self.path, problems)

    def _stand_in(self, node: Node, values: Mapping[str, Given]) -> Value | None:
        """For the output of a node of single elements that does not fit: its largest input, so that more is found."""
        found = [each for name in node.inputs if isinstance(each := values.get(name), Value)]
        if node.operator not in ELEMENTWISE or not found or any(each.scores is not None for each in found):
            return None
        largest = max(found, key=lambda each: prod(each.shape))
        try:
            place = self.builder.stand_in(largest)
        except (Unfit, UsageError):
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
        numbers = [name for name, kind in kinds.items() if kind in (0, *_FLOATS)]
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
        if kind not in (*_FLOATS, _UINT8):
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
        if min(shape) < 1 or max(shape) > 1 << 16:
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
                return all(each.has("perm") and each.wholes("perm") == [0, 3, 1, 2] for each in readers)
            if len(readers) != 1 or readers[0].operator not in ("Cast", "Identity", "Add", "Sub", "Mul", "Div"):
                return False
            name = readers[0].outputs[0]
        return False

    def stored_preprocessing(self) -> Preprocessing | None:
        """What our own file says that its input went through, None if that is in the graph or not known."""
        steps = entry(self.properties, "preprocessing") if self.ours else None
        if not isinstance(steps, dict) or steps.get("in_graph") is not False:
            return None
        return _preprocessing(steps)

    @property
    def takes_pixels(self) -> bool:
        """Whether the graph begins with what makes its input of pixels from 0 to 255."""
        if self.kind == _UINT8 or self.ours:
            return True
        return self.builder.factor is not None and float(np.max(self.builder.factor)) <= _PIXELS

    def whole_preprocessing(self, outer: Preprocessing) -> Preprocessing:
        """`outer`, then what the graph does to its input first."""
        factor, offset = self.builder.factor, self.builder.offset
        if factor is None or offset is None:
            return outer
        stored = _preprocessing(entry(self.properties, "preprocessing")) if self.ours else None
        mean = np.zeros(1) if outer.mean is None else outer.mean.astype(np.float64)
        std = np.ones(1) if outer.std is None else outer.std.astype(np.float64)
        uniform = np.ptp(factor) <= 1e-6 * np.max(factor) and np.ptp(std) == 0
        if uniform:
            scale = float(factor.flat[0] / std.flat[0])
            found = Preprocessing(outer.scale * scale, _shortest(mean * scale - offset))
        else:
            spread = np.broadcast_to(std / factor, (self.builder.input_shape[2],)).astype(np.float32)
            found = Preprocessing(outer.scale, _shortest(mean - offset * spread), spread)
        return stored if stored is not None and _alike(stored, found) else found

    def classes(self, own: Mapping[str, Any]) -> list[str] | None:
        """The names of the classes, None if the file has none."""
        if not self.ours or own.get("named") is not True:
            return None
        found = entry(self.properties, "classes")
        fits = isinstance(found, list) and all(isinstance(each, str) for each in found)
        return found if fits else None


def _repeated(names: Sequence[str]) -> list[str]:
    """Names that stand more than once, once for each time more."""
    return [name for name, count in Counter(names).items() for _ in range(count - 1)]


def _of_vector(length: int) -> tuple[int, int, int]:
    """An image for a vector: a square one if there is one, else a row."""
    side = round(length**0.5)
    return (side, side, 1) if side * side == length else (1, length, 1)


def _name(given: str, path: Path) -> str:
    """The network's name: the graph's, unless it is what an exporter gives every graph."""
    common = not given or given in ("main_graph", "torch_jit", "torch-jit-export", "graph", "tf2onnx")
    return path.stem if common else given[:100]


def _guessed(reader: _Reader, notes: list[str]) -> Preprocessing:
    """Preprocessing for a file that says nothing of it."""
    if reader.takes_pixels:
        return Preprocessing(1.0)
    notes.append(GUESSED)
    return Preprocessing(1 / 255)


def _preprocessing(steps: Any) -> Preprocessing | None:
    try:
        return Preprocessing(float(steps["scale"]), steps.get("mean"), steps.get("std"))
    except (CnnError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _shortest(mean: Numbers) -> npt.NDArray[np.float32] | None:
    return mean.astype(np.float32) if np.any(mean) else None


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two of them give the same numbers, but for rounding."""
    images = np.linspace(0, 255, 256, dtype=np.uint8)

    def applied(pre: Preprocessing) -> Any:
        mean = 0 if pre.mean is None else pre.mean.astype(np.float64)
        return (images.reshape(-1, 1, 1, 1) * pre.scale - mean) / (1 if pre.std is None else pre.std.astype(np.float64))

    try:
        return bool(np.allclose(applied(one), applied(other), rtol=1e-5, atol=1e-5))
    except ValueError:
        return False


def _layers(builder: Builder, final: Value) -> tuple[list[Layer], list[dict[str, Numbers]]]:
    """The layers that the output depends on, each with its name and inputs, and their arrays."""
    assert final.place is not None
    places = builder.reachable(final.place)
    names: dict[int, str] = {INPUT: INPUT_NAME}
    taken, numbers = {INPUT_NAME}, Counter[str]()
    for place in places:
        built = builder.layers[place]
        name = "".join(each if each.isalnum() or each in "_-" else "_" for each in built.title).strip("_")[:60]
        while not name or name in taken:
            kind = type(built.layer).__name__.lower().removesuffix("2d")
            numbers[kind] += 1
            name = f"{kind}{numbers[kind]}"
        taken.add(name)
        names[place] = name
    chosen = [builder.layers[place] for place in places]
    for built in chosen:
        built.layer.inputs = [names[each] for each in built.inputs]
    layers = [built.layer for built in chosen]
    wanted = [names[place] for place in places]
    if not _generated(layers, wanted):
        for layer, name in zip(layers, wanted, strict=True):
            layer.name = name
    return layers, [built.arrays for built in chosen]


def _generated(layers: Sequence[Layer], wanted: Sequence[str]) -> bool:
    """Whether layers without a name get the names that they should have."""
    try:
        return [each.name for each in wire(layers)] == list(wanted)
    except UsageError:
        return False


def _restore(layers: list[Layer], stored: Any) -> None:
    """Gives layers the settings that a file of ours keeps beside its graph."""
    if not isinstance(stored, dict):
        return
    for place, each in enumerate(wire(layers)):
        extra = stored.get(each.name)
        if isinstance(extra, dict) and extra.keys() <= set(KEPT):
            layers[place] = Layer.from_config(each.layer.config() | extra)


def _loss(stored: Any) -> Loss | None:
    try:
        return Loss.from_config(stored) if isinstance(stored, dict) else None
    except UsageError:
        return None


def _border(stored: Any) -> tuple[float, float] | None:
    fits = isinstance(stored, list) and len(stored) == 2 and all(isinstance(each, int | float) for each in stored)
    return (float(stored[0]), float(stored[1])) if fits else None


def _named(model: Sequential, arrays: Sequence[Mapping[str, Numbers]]) -> dict[str, npt.NDArray[Any]]:
    """The state of the model: every array by name, in its type and shape."""
    found = {}
    wanted = model.arrays()
    for layer, own in zip(model.layers, arrays, strict=True):
        for key, value in own.items():
            name = f"{layer.name}.{key}"
            if name not in wanted and isinstance(layer, BatchNorm):
                continue  # a factor of 1 or an offset of 0 that is not trained
            shape = tuple(wanted[name].shape) if name in wanted else value.shape
            fits = value.shape == shape or value.size == 1
            found[name] = np.array(np.broadcast_to(value, shape) if fits else value, model.dtype, order="C")
            if not np.isfinite(found[name]).all():
                raise UsageError(f"{name} has values that are not finite.")
    return found


def _checked(model: Sequential, reader: _Reader, outer: Preprocessing, scores: str, path: Path) -> Comparison:
    """Compares the model's scores of random images with ONNX Runtime's. Raises CnnError if they differ."""
    fixed = reader.batch if 1 < reader.batch <= MOST_CHECKED else 0
    count = fixed or (CHECKED if _open_batch(reader) else 1)
    images = np.random.default_rng(0).integers(0, 256, (count, *model.input_shape), np.uint8)
    x = images if reader.kind == _UINT8 else outer.apply(images)
    if reader.axes == "NCHW":
        x = x.transpose(0, 3, 1, 2)
    elif reader.axes == "NC":
        x = x.reshape(count, -1)
    ours = model.backend.to_numpy(model.forward(model.load_images(images)))
    session = Session(_plain_content(reader, scores))
    theirs = session.run(scores, {reader.input: np.ascontiguousarray(x)})
    if theirs.shape != ours.shape:
        raise CnnError(f"{shown(path)} gives scores {theirs.shape} in ONNX Runtime, and {ours.shape} here.")
    found = compared(ours, theirs)
    if not found.agrees:
        raise CnnError(
            f"{shown(path)} was not imported: the model's scores differ from ONNX Runtime's by {found.difference:.2g} "
            "of the largest; please report it with the file."
        )
    return found


def _open_batch(reader: _Reader) -> bool:
    [found] = [each for each in reader.proto.graph.input if each.name == reader.input]
    return bool(not found.type.tensor_type.shape.dim[0].dim_value)


def _plain_content(reader: _Reader, scores: str) -> bytes:
    """The nodes that were read, with all constants in the file itself and every kind of float as float32."""
    onnx = library.onnx()
    helper, helpers = onnx.helper, onnx.numpy_helper
    protos = []
    for node in reader.nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node.proto)
        for attribute in copied.attribute:
            if attribute.type == 4 and attribute.t.data_type in _FLOATS:
                wide = array(attribute.t, reader.folder, Budget()).astype(np.float32)
                attribute.t.CopyFrom(helpers.from_array(wide))
            if node.operator == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = _FLOAT
        protos.append(copied)
    read = {name for node in reader.nodes for name in node.inputs} & reader.tensors.keys()
    constants = []
    for name in sorted(read):
        value = reader.constants.get(name)
        value = array(reader.tensors[name], reader.folder, Budget()) if value is None else value
        constants.append(helpers.from_array(value.astype(np.float32) if value.dtype == np.float64 else value, name))
    [given] = [each for each in reader.proto.graph.input if each.name == reader.input]
    image = onnx.ValueInfoProto()
    image.CopyFrom(given)
    if reader.kind in _FLOATS:
        image.type.tensor_type.elem_type = _FLOAT
    result = helper.make_empty_tensor_value_info(scores)
    graph = helper.make_graph(protos, "check", [image], [result], constants)
    proto = helper.make_model(graph, opset_imports=list(reader.proto.opset_import))
    proto.ir_version = max(4, reader.proto.ir_version)
    content: bytes = proto.SerializeToString()
    return content
