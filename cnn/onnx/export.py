"""Writes a model as an ONNX file, after ONNX Runtime has computed the model's scores from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import cnn
from cnn.config import require
from cnn.errors import CnnError, UsageError
from cnn.layers import BatchNorm, Conv2D, Linear
from cnn.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from cnn.model.sequential import EVALUATED, Sequential
from cnn.onnx import library
from cnn.onnx.metadata import MODEL, extras
from cnn.onnx.runtime import LARGEST, Comparison, Session, compared
from cnn.onnx.writer import Fold, Tensor, Writer, normalisation, reordered
from cnn.paths import check_output
from cnn.system.storage import first_not_finite, write_atomically
from cnn.words import counted, unknown

OPSET, OLDEST = 21, 13
INPUTS = {
    "nchw": "pixels from 0 to 255 as float32 (N, C, H, W)",
    "nhwc-uint8": "pixels from 0 to 255 as uint8 (N, H, W, C)",
    "preprocessed": "the network's own input, float32 (N, C, H, W)",
}
"""What the graph's input may be; the first two are preprocessed in the graph."""
IMAGES, SCORES, PROBABILITIES = "images", "scores", "probabilities"
CHECKED = 4
"""Random images that a file is checked with."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked."""

    path: Path
    opset: int
    ir_version: int
    size: int
    comparison: Comparison
    notes: tuple[str, ...]


def export_onnx(
    model: Sequential,
    path: str | Path,
    *,
    opset: int = OPSET,
    input: str = "nchw",
    fold: bool = False,
    images: npt.NDArray[np.uint8] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Exported:
    """Writes `model` to an ONNX file with preprocessing, probabilities, class names and training figures in it.

    `input` is one of INPUTS. `fold` multiplies batch normalisations into the products before them. Before the file is
    written, ONNX Runtime computes the scores of `images` (N, H, W, C) uint8, or of random ones, from it. Raises
    UsageError for a layer or a setting that ONNX does not have, CnnError if the scores are not the model's.
    """
    require(isinstance(model, Sequential), f"Only a cnn.Sequential can be exported, not a {type(model).__name__}.")
    if input not in INPUTS:
        raise unknown("There is no input", input, INPUTS)
    onnx = library.onnx()
    newest = onnx.defs.onnx_opset_version()
    require(OLDEST <= opset <= newest, f"The opset must be from {OLDEST} to {newest}, not {opset}.")
    check_output(path)
    odd = first_not_finite(model.state())
    if odd is not None:
        raise CnnError(f"{model.name} was not exported: {odd} has values that are not finite; train it again.")
    size = 4 * sum(array.size for array in model.state().values())
    require(size < LARGEST, f"{model.name} has {size:,} bytes of weights; an ONNX file of one part ends at 2 GiB.")
    writer = Writer(onnx.helper, opset)
    proto = _proto(onnx, model, writer, opset, input, fold, training)
    content: bytes = proto.SerializeToString()
    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:  # of the checker or of shape inference
        raise CnnError(f"{model.name} cannot be exported: onnx's checker says: {_one_line(error)}.") from error
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (CHECKED, *model.input_shape), np.uint8)
    comparison = _checked(model, content, input, images)
    write_atomically(Path(path), content)
    return Exported(Path(path), opset, proto.ir_version, len(content), comparison, tuple(writer.notes))


def _proto(
    onnx: Any,
    model: Sequential,
    writer: Writer,
    opset: int,
    form: str,
    fold: bool,
    training: Mapping[str, Any] | None,
) -> Any:
    helper, types = onnx.helper, onnx.TensorProto
    height, width, channels = model.input_shape
    scores = _network(model, writer, _input(model, writer, form), fold)
    writer.node("Identity", [scores], SCORES)
    _probabilities(writer, model.loss)
    count = len(model.classes)
    shape, kind = ["batch", channels, height, width], types.FLOAT
    if form == "nhwc-uint8":
        shape, kind = ["batch", height, width, channels], types.UINT8
    graph = helper.make_graph(
        writer.nodes,
        model.name,
        [helper.make_tensor_value_info(IMAGES, kind, shape)],
        [helper.make_tensor_value_info(name, types.FLOAT, ["batch", count]) for name in (PROBABILITIES, SCORES)],
        [onnx.numpy_helper.from_array(value, name) for name, value in writer.constants.items()],
        doc_string=f"{IMAGES}: {INPUTS[form]}",
    )
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(
        graph,
        opset_imports=opsets,
        producer_name="cnn",
        producer_version=cnn.__version__,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    helper.set_model_props(proto, _metadata(model, form, training))
    return proto


def _input(model: Sequential, writer: Writer, form: str) -> str:
    """The nodes from the graph's input to the network's."""
    source, preprocessing = IMAGES, model.preprocessing
    preprocessing.check(model.input_shape)
    if form == "nhwc-uint8":
        source = writer.node("Transpose", [source], "input.nchw", perm=[0, 3, 1, 2])
        source = writer.node("Cast", [source], "input.float", to=1)
    if form == "preprocessed":
        return source
    if preprocessing.scale != 1:
        scale = writer.constant("input.scale", preprocessing.scale)
        source = writer.node("Mul", [source, scale], "input.scaled")
    if preprocessing.mean is not None:
        per_channel = preprocessing.mean.ndim == 1
        mean = preprocessing.mean[:, None, None] if per_channel else preprocessing.mean.transpose(2, 0, 1)
        source = writer.node("Sub", [source, writer.constant("input.mean", mean)], "input.centred")
    if preprocessing.std is not None:
        std = writer.constant("input.std", preprocessing.std[:, None, None])
        source = writer.node("Div", [source, std], "input.standardised")
    return source


def _network(model: Sequential, writer: Writer, source: str, fold: bool) -> str:
    """The nodes of all layers; returns the name of the scores in our order."""
    network = model.network
    tensors = {-1: Tensor(source)}
    folded = set[int]()
    for node in network.nodes:
        inputs = [tensors[place] for place in node.inputs]
        if node.place in folded:
            tensors[node.place] = inputs[0]
            continue
        after: Fold | None = None
        readers = network.readers[node.place]
        if fold and isinstance(node.layer, Conv2D | Linear) and node.layer.activation is None and len(readers) == 1:
            reader = network.nodes[readers[0]].layer
            if isinstance(reader, BatchNorm):
                after = normalisation(reader)
                folded.add(readers[0])
        tensors[node.place] = writer.layer(node, inputs, after)
    if folded:
        writer.notes.append(f"{counted(len(folded), 'batch normalisation')} folded into the products before them")
    return reordered(writer, tensors[network.nodes[-1].place], "output")


def _probabilities(writer: Writer, loss: Loss) -> None:
    """The nodes from the scores to the probabilities, which are what `Sequential.predict` returns."""
    if isinstance(loss, SoftmaxCrossEntropy):
        writer.node("Softmax", [SCORES], PROBABILITIES, axis=1)
    elif isinstance(loss, MeanSquaredError):
        # cnn.ops.losses.target_probabilities: the row is lifted until its largest score reaches `high`.
        low, high = (
            writer.constant(f"output.{name}", value) for name, value in (("low", loss.low), ("high", loss.high))
        )
        axis = writer.constant("output.axis", [1], np.int64)
        largest = (
            writer.node("ReduceMax", [SCORES, axis], "output.largest")
            if writer.opset >= 18
            else writer.node("ReduceMax", [SCORES], "output.largest", axes=[1])
        )
        lift = writer.node("Relu", [writer.node("Sub", [high, largest], "output.below")], "output.lift")
        rise = writer.node("Sub", [lift, low], "output.rise")
        heights = writer.node("Relu", [writer.node("Add", [SCORES, rise], "output.lifted")], "output.heights")
        writer.node("Div", [heights, writer.node("ReduceSum", [heights, axis], "output.sum")], PROBABILITIES)
    else:
        raise UsageError(
            f"The probabilities of a {type(loss).__name__} have no form in ONNX here; train with SoftmaxCrossEntropy."
        )


def _metadata(model: Sequential, form: str, training: Mapping[str, Any] | None) -> dict[str, str]:
    """What a reader of the file may want to know, and what brings it back as it was."""
    values, arrays = model.preprocessing.to_state()
    steps = values | {name: array.tolist() if array.ndim == 1 else "image" for name, array in arrays.items()}
    if form == "preprocessed" and "image" in steps.values():
        steps["mean"] = arrays["mean"].tolist()
    steps |= {"formula": "(pixels * scale - mean) / std", "in_graph": form != "preprocessed"}
    own = {
        "loss": model.loss.config(),
        "named": model.named,
        "border": model.border,
        "layers": extras(model),
    }
    found = {"classes": json.dumps(model.classes), "preprocessing": json.dumps(steps), MODEL: json.dumps(own)}
    return found | ({"training": json.dumps(dict(training))} if training else {})


def _checked(model: Sequential, content: bytes, form: str, images: npt.NDArray[np.uint8]) -> Comparison:
    """Compares the scores of `images`. Raises CnnError if they are not the model's."""
    session = Session(content)
    ours, theirs = [], []
    for start in range(0, len(images), EVALUATED):
        some = images[start : start + EVALUATED]
        x = model.load_images(some)
        host = model.backend.to_numpy(x)
        ours.append(model.backend.to_numpy(model.forward(x)))
        fed = some if form == "nhwc-uint8" else (some if form == "nchw" else host).transpose(0, 3, 1, 2)
        fed = np.ascontiguousarray(fed, None if form == "nhwc-uint8" else np.float32)
        theirs.append(session.run(SCORES, {IMAGES: fed}))
    found = compared(np.concatenate(ours), np.concatenate(theirs))
    if not found.agrees:
        raise CnnError(
            f"{model.name} was not exported: ONNX Runtime's scores differ from the model's by {found.difference:.2g} "
            "of the largest; try another --opset or --backend, and report it if it stays."
        )
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
