"""Networks in ONNX files as exporters write them: each becomes layers that give ONNX Runtime's scores."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.onnx_graphs import draw, model, node, runtime, write
from onnx import TensorProto, helper, numpy_helper

import cnn
from cnn.cli import main
from cnn.errors import CnnError, FileFormatError, UsageError
from cnn.onnx.reader import NotUnderstood
from cnn.onnx.runtime import Session

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
PLAIN = cnn.Preprocessing(1 / 255, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
END = [node("GlobalAveragePool", "z", "g"), node("Flatten", "g", "y")]
CONV = {"w": draw(4, 3, 3, 3), "b": draw(4)}
FIRST = node("Conv", "x w b", "c")


def imported(tmp_path, proto, **settings):
    """The model, after its scores have been compared with ONNX Runtime's, and the names of its layers' classes."""
    path = write(tmp_path / "net.onnx", proto)
    settings.setdefault("preprocessing", PLAIN)
    probabilities = settings.pop("probabilities", False)
    found = cnn.import_onnx(path, backend="numpy", **settings).model
    images = np.random.default_rng(1).integers(0, 256, (3, *found.input_shape), np.uint8)
    x = settings["preprocessing"].apply(images)
    shape = [each.dim_value for each in proto.graph.input[0].type.tensor_type.shape.dim]
    if len(shape) == 2:
        x = x.reshape(3, -1)
    elif shape[-1] != found.input_shape[-1] or shape[1] == shape[-1]:
        x = x.transpose(0, 3, 1, 2)
    if proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        theirs = runtime(proto, np.ascontiguousarray(x), settings.get("output") or proto.graph.output[0].name)
        ours = found.predict(images) if probabilities else found.forward(found.load_images(images))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
    return found, [type(each).__name__ for each in found.layers]


ROOT2 = np.float32(np.sqrt(2))
FUNCTIONS = {
    "Relu": ([node("Relu", "c", "z")], {}, "relu"),
    "Tanh after Identity": ([node("Identity", "c", "i"), node("Tanh", "i", "z")], {}, "tanh"),
    "relu by Max": ([node("Max", "c zero", "z")], {"zero": np.float32(0)}, "relu"),
    "relu by Clip": ([node("Clip", "c zero", "z")], {"zero": np.float32(0)}, "relu"),
    "relu6": ([node("Clip", "c zero six", "z")], {"zero": np.float32(0), "six": np.float32(6)}, "ReLU6"),
    "relu6 by Min": ([node("Relu", "c", "r"), node("Min", "r six", "z")], {"six": np.float32(6)}, "ReLU6"),
    "leaky": ([node("LeakyRelu", "c", "z", alpha=0.2)], {}, "LeakyReLU"),
    "leaky by PRelu": ([node("PRelu", "c s", "z")], {"s": np.full((4, 1, 1), 0.1, np.float32)}, "LeakyReLU"),
    "silu": ([node("Sigmoid", "c", "s"), node("Mul", "s c", "z")], {}, "SiLU"),
    "silu by Exp": (
        [node("Neg", "c", "n"), node("Exp", "n", "e"), node("Add", "e one", "d"), node("Div", "c d", "z")],
        {"one": np.float32(1)},
        "SiLU",
    ),
    "hard swish": ([node("HardSwish", "c", "z")], {}, "HardSwish"),
    "hard swish by HardSigmoid": (
        [node("HardSigmoid", "c", "s", alpha=1 / 6, beta=0.5), node("Mul", "c s", "z")],
        {},
        "HardSwish",
    ),
    "hard swish by Clip": (
        [
            node("Add", "c three", "a"),
            node("Clip", "a zero six", "l"),
            node("Mul", "c l", "m"),
            node("Div", "m six", "z"),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        "HardSwish",
    ),
    "gelu by Erf": (
        [
            node("Div", "c root", "d"),
            node("Erf", "d", "e"),
            node("Add", "e one", "a"),
            node("Mul", "c a", "m"),
            node("Mul", "m half", "z"),
        ],
        {"root": ROOT2, "one": np.float32(1), "half": np.float32(0.5)},
        "GELU",
    ),
    "a number added and multiplied": (
        [node("Mul", "c m", "t"), node("Add", "t a", "z")],
        {"m": np.float32(0.5), "a": np.float32(3)},
        None,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_single_elements_are_recognised(name, tmp_path):
    nodes, constants, wanted = FUNCTIONS[name]
    found, kinds = imported(tmp_path, model([FIRST, *nodes, *END], CONV | constants))
    separate = [wanted] if wanted and wanted[0].isupper() else []
    assert kinds == ["Conv2D", *separate, "GlobalAvgPool2D"]
    assert found.layers[0].activation == (None if separate else wanted)


BN = {name: np.abs(draw(4)) + 0.5 for name in ("scale", "shift", "mean", "variance")}
NORM = node("BatchNormalization", "c scale shift mean variance", "n", epsilon=1e-3, momentum=0.8)
C1 = draw(4, 1, 1)
FLAT = draw(4 * 6 * 6, 5)
GRAPHS = {
    "a normalisation with its activation": ([FIRST, NORM, node("Relu", "n", "z"), *END], BN, "Conv2D BatchNorm"),
    "factors after a normalisation": (
        [FIRST, NORM, node("Mul", "n f", "t"), node("Add", "o t", "z"), *END],
        BN | {"f": C1, "o": C1 + 1},
        "Conv2D BatchNorm",
    ),
    "a bias that is added": ([node("Conv", "x w", "c"), node("Add", "c o", "z"), *END], {"o": C1}, "Conv2D"),
    "factors with a reader beside them": (
        [FIRST, node("Mul", "c f", "t"), node("Add", "t c", "z"), *END],
        {"f": C1},
        "Conv2D Conv2D Add",
    ),
    "a sum of three": (
        [FIRST, node("Relu", "c", "r"), node("Sum", "c r r", "z"), *END],
        {},
        "Conv2D ReLU Add",
    ),
    "residual": (
        [FIRST, node("Tanh", "c", "r"), node("Add", "c r", "s"), node("Relu", "s", "z"), *END],
        {},
        "Conv2D Tanh Add",
    ),
    "concatenation": (
        [FIRST, node("Tanh", "c", "r"), node("Concat", "c r", "z", axis=1), *END],
        {},
        "Conv2D Tanh Concat",
    ),
    "groups, dilation and uneven padding": (
        [FIRST, node("Conv", "c v", "z", group=2, dilations=[1, 2], pads=[0, 1, 2, 3], strides=[2, 1]), *END],
        {"v": draw(6, 2, 2, 3)},
        "Conv2D Conv2D",
    ),
    **{
        f"auto_pad {mode}": ([node("Conv", "x w b", "z", auto_pad=mode, strides=[3, 2]), *END], {}, "Conv2D")
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    },
    "padding before a convolution": (
        [node("Pad", "x p", "q"), node("Conv", "q w b", "z", pads=[1, 0, 0, 1]), *END],
        {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])},
        "Conv2D",
    ),
    "zeros around what is not negative, before a pool": (
        [FIRST, node("Relu", "c", "r"), node("Pad", "r p", "q"), node("MaxPool", "q", "z", kernel_shape=[3, 3]), *END],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        "Conv2D MaxPool2D",
    ),
    "zeros around what may be negative, before a pool": (
        [FIRST, node("Pad", "c p", "q"), node("MaxPool", "q", "z", kernel_shape=[3, 3]), *END],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        "Conv2D Conv2D MaxPool2D",
    ),
    "the mean without padding": (
        [FIRST, node("AveragePool", "c", "z", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 2, 0]), *END],
        {},
        "Conv2D AvgPool2D",
    ),
    "the mean with padding": (
        [FIRST, node("AveragePool", "c", "z", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1), *END],
        {},
        "Conv2D AvgPool2D",
    ),
    "a pool that rounds up": (
        [FIRST, node("MaxPool", "c", "z", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), *END],
        {},
        "Conv2D MaxPool2D",
    ),
    "a pool larger than the image": (
        [FIRST, node("AveragePool", "c", "z", kernel_shape=[7, 7], pads=[0, 0, 1, 1]), *END],
        {},
        "Conv2D AvgPool2D",
    ),
    "local response": (
        [FIRST, node("LRN", "c", "z", size=3, alpha=0.3, beta=0.6, bias=2.0), *END],
        {},
        "Conv2D LocalResponseNorm",
    ),
    "vectors by ReduceMean": (
        [FIRST, node("ReduceMean", "c", "g", axes=[-1, -2], keepdims=0), node("Gemm", "g k", "y", transB=1, alpha=0.5)],
        {"k": draw(5, 4)},
        "Conv2D Linear",
    ),
    "a convolution of one pixel": (
        [FIRST, node("GlobalAveragePool", "c", "g"), node("Conv", "g k", "t"), node("Squeeze", "t a", "y")],
        {"k": draw(5, 4, 1, 1), "a": np.array([2, 3])},
        "Conv2D Linear",
    ),
    "a shape that is computed": (
        [
            FIRST,
            node("Shape", "c", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n axes", "u"),
            node("Concat", "u rest", "t", axis=0),
            node("Reshape", "c t", "f"),
            node("MatMul", "f m", "v"),
            node("Add", "v o", "y"),
        ],
        {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]), "m": FLAT, "o": draw(5)},
        "Conv2D Flatten Linear",
    ),
    "dropout": ([FIRST, node("Dropout", "c rate", "z"), *END], {"rate": np.float32(0.25)}, "Conv2D Dropout"),
    "pictures that are normalised anew, channel by channel": (
        [
            *(
                part
                for k in range(3)
                for part in (
                    node("Gather", f"x k{k}", f"g{k}", axis=1),
                    node("Unsqueeze", f"g{k} one", f"u{k}"),
                    node("Mul", f"u{k} f{k}", f"m{k}"),
                    node("Add", f"m{k} o{k}", f"a{k}"),
                )
            ),
            node("Concat", "a0 a1 a2", "j", axis=1),
            node("Conv", "j w b", "z"),
            *END,
        ],
        {f"k{k}": np.array(k) for k in range(3)}
        | {f"f{k}": np.float32(0.4 + k / 9) for k in range(3)}
        | {f"o{k}": np.float32(k - 0.5) for k in range(3)}
        | {"one": np.array([1])},
        "Conv2D",
    ),
    "preprocessing in the graph": (
        [
            node("Sub", "x m", "a"),
            node("Div", "a s", "d"),
            node("Conv", "d w b", "z", pads=[1, 1, 1, 1]),
            *END,
        ],
        {"m": draw(3, 1, 1), "s": np.float32([[[0.5]], [[0.25]], [[2]]])},
        "Conv2D",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_become_layers(name, tmp_path):
    nodes, constants, wanted = GRAPHS[name]
    _, kinds = imported(tmp_path, model(nodes, CONV | constants, opset=17))
    assert [kind for kind in kinds if kind not in ("GlobalAvgPool2D",)] == wanted.split()


def test_channels_last_as_keras_has_them(tmp_path):
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c"),
        node("Add", "c o", "a"),
        node("Relu", "a", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", "p", "l", perm=[0, 2, 3, 1]),
        node("Reshape", "l shape", "f"),
        node("MatMul", "f m", "v"),
        node("Add", "v b", "s"),
        node("Softmax", "s", "y"),
    ]
    constants = {"w": CONV["w"], "o": C1, "shape": np.array([-1, 36]), "m": draw(36, 5), "b": draw(5)}
    proto = model(nodes, constants, shape=("n", 8, 8, 3))
    found, kinds = imported(tmp_path, proto, probabilities=True)
    assert kinds == ["Conv2D", "MaxPool2D", "Flatten", "Linear"]
    assert found.layers[0].activation == "relu"


def test_vectors_as_scikit_learn_has_them(tmp_path):
    nodes = [
        node("MatMul", "x m", "a"),
        node("Add", "a b", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r k", "c"),
        node("Add", "c o", "s"),
        node("Softmax", "s", "y", axis=1),
        node("ArgMax", "y", "label", axis=1),
        helper.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    constants = {"m": draw(36, 5), "b": draw(5), "k": draw(5, 3), "o": draw(3)}
    proto = model(nodes, constants, shape=("n", 36), outputs=("y",))
    found, kinds = imported(tmp_path, proto, preprocessing=cnn.Preprocessing(1 / 255), probabilities=True)
    assert kinds == ["Flatten", "Linear", "Linear"]
    assert found.input_shape == (6, 6, 1)
    wide = cnn.import_onnx(tmp_path / "net.onnx", backend="numpy", input_shape=(2, 18, 1)).model
    assert wide.input_shape == (2, 18, 1)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float16 as a field", "whole float16 network"])
def test_halves_become_floats(kind, tmp_path):
    weight, bias = draw(4, 3, 3, 3), draw(4)
    half = weight.astype(np.float16)
    number = TensorProto.BFLOAT16 if kind == "bfloat16" else TensorProto.FLOAT16
    if kind == "bfloat16":
        raw = (weight.view(np.uint32) >> 16).astype(np.uint16)
        tensor = helper.make_tensor("h", number, weight.shape, raw.tobytes(), raw=True)
        exact = (raw.astype(np.uint32) << 16).view(np.float32)
    elif kind == "float16 as a field":
        tensor, exact = helper.make_tensor("h", number, weight.shape, half.ravel()), half.astype(np.float32)
        assert not tensor.raw_data
    else:
        tensor, exact = numpy_helper.from_array(half, "h"), half.astype(np.float32)
    if kind.startswith("whole"):
        nodes = [node("Conv", "x h b", "z"), *END]
        proto = model(nodes, {"h": tensor, "b": bias.astype(np.float16)}, kind=number)
    else:
        proto = model([node("Cast", "h", "w", to=1), node("Conv", "x w b", "z"), *END], {"h": tensor, "b": bias})
    found = cnn.import_onnx(write(tmp_path / "net.onnx", proto), backend="numpy").model
    np.testing.assert_array_equal(found.state()["conv1.weight"], exact.transpose(2, 3, 1, 0))


def external(location, *, offset=0, length=None, shape=(4, 3, 3, 3)):
    """A weight whose numbers lie in another file."""
    tensor = TensorProto(data_type=1, dims=shape, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": str(offset), "length": str(length or 4 * int(np.prod(shape)))}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_external_data_are_read(tmp_path):
    weight = draw(4, 3, 3, 3)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"12345678" + weight.tobytes())
    proto = model([FIRST, node("Relu", "c", "z"), *END], {"w": external("weights/w.bin", offset=8), "b": CONV["b"]})
    found = cnn.import_onnx(write(tmp_path / "net.onnx", proto), backend="numpy").model
    np.testing.assert_array_equal(found.state()["conv1.weight"], weight.transpose(2, 3, 1, 0))


def test_external_data_stay_in_the_folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(4 * 108))
    (folder / "link").symlink_to(tmp_path / "w.bin")
    (folder / "short").write_bytes(bytes(20))
    cases = {
        "../w.bin": "outside the folder",
        str(tmp_path / "w.bin"): "not a file in the folder",
        "link": "outside the folder",
        "short": "ends beyond the file",
        "": "not a file in the folder",
    }
    for location, message in cases.items():
        proto = model([FIRST, node("Relu", "c", "z"), *END], {"w": external(location), "b": CONV["b"]})
        with pytest.raises(NotUnderstood, match=message):
            cnn.import_onnx(write(folder / "net.onnx", proto), backend="numpy")
    proto = model([FIRST, node("Relu", "c", "z"), *END], {"w": external("gone"), "b": CONV["b"]})
    with pytest.raises(FileFormatError, match="There is no file of external data"):
        cnn.import_onnx(write(folder / "net.onnx", proto), backend="numpy")


def test_functions_of_the_file_are_inlined(tmp_path):
    opset = [helper.make_opsetid("", 17)]
    silu = helper.make_function(
        "own", "silu", ["a"], ["b"], [node("Sigmoid", "a", "s"), node("Mul", "a s", "b")], opset
    )
    call = helper.make_node("silu", ["c"], ["z"], domain="own")
    _, kinds = imported(tmp_path, model([FIRST, call, *END], CONV, functions=[silu]))
    assert kinds == ["Conv2D", "SiLU", "GlobalAvgPool2D"]


def test_functions_that_grow_without_end_are_refused(tmp_path):
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def twice(name, inner):
        nodes = [
            helper.make_node(inner, ["a"], ["m"], domain="own"),
            helper.make_node(inner, ["m"], ["b"], domain="own"),
        ]
        return helper.make_function("own", name, ["a"], ["b"], nodes, opset)

    levels = [twice(f"f{k}", f"f{k - 1}") for k in range(1, 40)]
    first = helper.make_function("own", "f0", ["a"], ["b"], [node("Relu", "a", "b")], opset)
    call = helper.make_node("f39", ["c"], ["z"], domain="own")
    for functions, message in (
        ([first, *levels], "more than 20,000 nodes"),
        ([twice("f39", "f39")], "call themselves"),
    ):
        path = write(tmp_path / "net.onnx", model([FIRST, call, *END], CONV, functions=functions))
        with pytest.raises(FileFormatError, match=message):
            cnn.import_onnx(path, backend="numpy")


def test_one_of_several_outputs_is_chosen(tmp_path):
    nodes = [FIRST, node("Relu", "c", "z"), *END, node("Softmax", "y", "p", axis=1), node("Tanh", "y", "t")]
    found, _ = imported(tmp_path, model(nodes, CONV, outputs=("y", "p")))
    assert type(found.loss).__name__ == "SoftmaxCrossEntropy"
    path = write(tmp_path / "net.onnx", model(nodes, CONV, outputs=("y", "t")))
    with pytest.raises(UsageError, match="2 outputs of numbers"):
        cnn.import_onnx(path, backend="numpy")
    kinds = [type(each).__name__ for each in cnn.import_onnx(path, backend="numpy", output="t").model.layers]
    assert kinds == ["Conv2D", "GlobalAvgPool2D", "Tanh"]
    with pytest.raises(UsageError, match="no output 'u'"):
        cnn.import_onnx(path, backend="numpy", output="u")


def test_everything_that_is_not_understood_is_listed_and_nothing_written(tmp_path, capsys):
    nodes = [
        FIRST,
        node("Softplus", "c", "s"),
        node("GlobalAveragePool", "s", "m1"),
        node("Mul", "s m1", "m"),
        helper.make_node("Strange", ["m"], ["u"], name="odd", domain="own"),
        node("Resize", "u - scales", "z"),
        *END,
    ]
    path = write(tmp_path / "net.onnx", model(nodes, CONV | {"scales": np.float32([1, 1, 2, 2])}))
    assert main(["import", str(path), "--out", str(tmp_path / "m.safetensors"), "--backend", "numpy"]) == 1
    told = capsys.readouterr()
    listed = " ".join(told.out.split())
    for name in (
        "(GlobalAveragePool): no layer computes s",
        "odd (own.Strange): there is no layer",
        "(Resize): there is",
    ):
        assert name in listed
    assert "3 nodes that cannot be imported (GlobalAveragePool, own.Strange, Resize)" in told.err
    assert told.err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


REFUSED = {
    "kernels of one dimension": (node("Conv", "c k", "z"), {"k": draw(4, 4, 3)}, "1 dimensions"),
    "squeeze and excitation": (node("Mul", "c g", "z"), {}, "a product of two branches"),
    "a channel": (node("Gather", "c p", "z", axis=1), {"p": np.array([1])}, "it takes vectors"),
    "other shapes added": (node("Add", "c g", "z"), {}, "only images or vectors of one shape"),
    "a factor per pixel": (node("Mul", "c q", "z"), {"q": draw(6, 6)}, "each pixel by a number of its own"),
    "softmax inside": (node("Softmax", "c", "z", axis=1), {}, "it is not over the classes"),
    "reflection": (node("Pad", "c p", "z", mode="reflect"), {"p": np.array([0, 0, 1, 1] * 2)}, "only with zeros"),
    "a part": (node("Slice", "c p q", "z"), {"p": np.array([0]), "q": np.array([1])}, "there is no layer for it"),
    "a variance below 0": (
        node("BatchNormalization", "c f f f v", "z"),
        {"f": np.ones(4, np.float32), "v": -np.ones(4, np.float32)},
        "a variance is below 0",
    ),
    "an attribute of another type": (node("MaxPool", "c", "z", kernel_shape=3), {}, "kernel_shape is of another type"),
    "an even number of channels": (node("LRN", "c", "z", size=4), {}, "only odd numbers are centred"),
    "tanh for gelu": (node("Gelu", "c", "z", approximate="tanh"), {}, "approximation of GELU"),
    "a shuffle": (node("Reshape", "c s", "z"), {"s": np.array([0, 2, 2, 6, 6])}, "a shuffle of channels"),
    "a huge kernel": (node("MaxPool", "c", "z", kernel_shape=[2**40, 2**40]), {}, "goes beyond 65,536 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_layer_is_named_with_its_reason(name, tmp_path):
    last, constants, message = REFUSED[name]
    nodes = [
        FIRST,
        node("GlobalAveragePool", "c", "g"),
        last,
        node("GlobalAveragePool", "z", "h"),
        node("Flatten", "h", "y"),
    ]
    path = write(tmp_path / "net.onnx", model(nodes, CONV | constants, opset=20))
    with pytest.raises(NotUnderstood) as caught:
        cnn.import_onnx(path, backend="numpy")
    assert message in caught.value.problems[0].reason
    assert caught.value.problems[0].operator == last.op_type


HOSTILE = {
    "a constant of a terabyte": (
        [node("ConstantOfShape", "s", "w"), FIRST, node("Relu", "c", "z"), *END],
        {"s": np.array([2**14, 2**14, 2**10]), "b": CONV["b"]},
        "numbers",
    ),
    "a constant that is spread": (
        [node("Expand", "o s", "w"), FIRST, node("Relu", "c", "z"), *END],
        {"o": np.float32(1), "s": np.array([2**20, 2**20]), "b": CONV["b"]},
        "numbers",
    ),
    "constants that do not fit": (
        [node("Reshape", "o s", "w"), FIRST, node("Relu", "c", "z"), *END],
        {"o": draw(5), "s": np.array([2, 2]), "b": CONV["b"]},
        "do not fit together",
    ),
    "fewer numbers than its shape": (
        [FIRST, node("Relu", "c", "z"), *END],
        {"w": TensorProto(data_type=1, dims=[4, 3, 3, 3], raw_data=b"1234"), "b": CONV["b"]},
        "has 4 bytes for the shape",
    ),
    "a negative size": (
        [FIRST, node("Relu", "c", "z"), *END],
        {"w": TensorProto(data_type=1, dims=[-4, 3, 3, 3]), "b": CONV["b"]},
        "which is not one",
    ),
    "an order that is a number": (
        [node("Transpose", "x", "t", perm=3), node("Conv", "t w b", "z"), *END],
        CONV,
        "perm is of another type",
    ),
    "a large constant that is copied at each node": (
        [
            node("Expand", "o s", "e0"),
            *(node("Neg", f"e{k}", f"e{k + 1}") for k in range(3)),
            node("Cast", "e3", "e4", to=11),
            node("ReduceSum", "e4", "k"),
            FIRST,
            node("Add", "c k", "z"),
            *END,
        ],
        CONV | {"o": np.float32(1), "s": np.array([400])},
        "the constants have more than",
    ),
    "a thousand functions in a row": (
        [FIRST, node("Relu", "c", "v0")]
        + [node("Sigmoid", f"v{k}", f"v{k + 1}") for k in range(1000)]
        + [node("Relu", "v1000", "z"), *END],
        CONV,
        "too many nodes in a row",
    ),
    "a shape that is no number": (
        [FIRST, node("GlobalAveragePool", "c", "g"), node("Reshape", "g k", "y")],
        CONV | {"k": np.float32([np.nan, 4])},
        "cannot convert float NaN",
    ),
    "a border without end": (
        [FIRST, node("Pad", "c k", "z"), *END],
        CONV | {"k": np.float32([0, 0, 1, np.inf] * 2)},
        "cannot convert float infinity",
    ),
    "a limit that is computed": (
        [FIRST, node("Clip", "c c c", "z"), *END],
        CONV,
        "computed from the images",
    ),
    "a rate that is empty": (
        [FIRST, node("Dropout", "c k", "z"), *END],
        CONV | {"k": np.zeros(0, np.float32)},
        "its rate is empty",
    ),
    "a value from nowhere": ([node("Conv", "x w b", "z"), *END], {"w": CONV["w"]}, "which nothing before it gives"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_sizes_are_bounded_before_memory_is_taken(name, tmp_path, monkeypatch):
    nodes, constants, message = HOSTILE[name]
    if "copied" in name:
        monkeypatch.setattr("cnn.onnx.files.Budget.__init__.__defaults__", (1800,))
    with pytest.raises(NotUnderstood, match=message):
        cnn.import_onnx(write(tmp_path / "net.onnx", model(nodes, constants)), backend="numpy")


def test_chains_without_end_are_refused(tmp_path):
    negated = [node("Neg", f"n{k}" if k else "c", f"n{k + 1}") for k in range(9000)]
    doubled = [node("Concat", f"d{k} d{k}" if k else "c c", f"d{k + 1}", axis=1) for k in range(60)]
    pooled = [node("MaxPool", f"m{k}" if k else "c", f"m{k + 1}", kernel_shape=[1, 1]) for k in range(5000)]
    for nodes, last, message in (
        (negated, "n9000", "too many nodes in a row"),
        (doubled, "d60", "has more than 67,108,864 numbers"),
        (pooled, "m5000", "4,001"),
    ):
        path = write(tmp_path / "net.onnx", model([FIRST, *nodes, node("Relu", last, "z"), *END], CONV))
        with pytest.raises(NotUnderstood, match=message):
            cnn.import_onnx(path, backend="numpy")


def branches(inner):
    """A node with two branches that call a function twice."""
    calls = [helper.make_node(inner, ["a"], ["m"], domain="own"), helper.make_node(inner, ["m"], ["b"], domain="own")]
    graph = helper.make_graph(calls, "branch", [], [helper.make_empty_tensor_value_info("b")])
    return helper.make_node("If", ["a"], ["b"], then_branch=graph, else_branch=graph)


def test_functions_that_grow_in_branches_are_refused(tmp_path):
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    first = helper.make_function("own", "f0", ["a"], ["b"], [node("Relu", "a", "b")], opset)
    levels = [helper.make_function("own", f"f{k}", ["a"], ["b"], [branches(f"f{k - 1}")], opset) for k in range(1, 10)]
    nodes = [FIRST, helper.make_node("f9", ["c"], ["z"], domain="own"), *END]
    path = write(tmp_path / "net.onnx", model(nodes, CONV, functions=[first, *levels]))
    with pytest.raises(FileFormatError, match="more than 20,000 nodes"):
        cnn.import_onnx(path, backend="numpy")


def test_tensors_among_attributes_are_checked_before_onnx_runtime_reads_them(tmp_path):
    outside = external("../../../etc/passwd", shape=(1,), length=8)
    outside.data_type = TensorProto.INT64
    for tensor, message in (
        (TensorProto(data_type=1, dims=[4], raw_data=b"12"), "2 bytes for the shape"),
        (outside, "outside the folder"),
    ):
        relu = node("Relu", "c", "z")
        relu.attribute.append(helper.make_attribute("extra", tensor))
        with pytest.raises(FileFormatError, match=f"attribute that is damaged: .*{message}"):
            cnn.import_onnx(write(tmp_path / "net.onnx", model([FIRST, relu, *END], CONV)), backend="numpy")


def test_files_that_are_no_network_are_one_sentence(tmp_path, capsys):
    good = model([FIRST, node("Relu", "c", "z"), *END], CONV).SerializeToString()
    open_size = model([FIRST, node("Relu", "c", "z"), *END], CONV, shape=("n", 3, "h", "w"))
    contents = {
        b"": "has no network in it",
        b"not an ONNX file": "damaged or not an ONNX file",
        good[:-40]: "damaged or not an ONNX file",
        model([node("Relu", "u", "y")], {"u": draw(2)}).SerializeToString(): "has 0 inputs",
        model([node("Relu", "x", "z")]).SerializeToString(): "no node that gives 'y'",
        model([FIRST, node("Relu", "c", "y")], CONV, shape=("n", 3, 8)).SerializeToString(): "inputs of 3 axes",
        model([FIRST, node("Relu", "c", "c")], CONV, outputs=("c",)).SerializeToString(): "gives 'c' twice",
        open_size.SerializeToString(): "give the height, width and channels by --shape",
    }
    for content, message in contents.items():
        (tmp_path / "net.onnx").write_bytes(content)
        assert main(["import", str(tmp_path / "net.onnx"), "--backend", "numpy"]) in (1, 2)
        told = capsys.readouterr().err
        assert message in told, told
        assert told.count("\n") == 1
    found = cnn.import_onnx(tmp_path / "net.onnx", backend="numpy", input_shape=(6, 7, 3)).model
    assert found.input_shape == (6, 7, 3)
    for path, message in ((tmp_path / "gone.onnx", "There is no ONNX file"), (tmp_path, "is a folder")):
        with pytest.raises(FileFormatError, match=message):
            cnn.import_onnx(path)


def test_other_scores_than_those_of_onnx_runtime_are_refused(tmp_path, monkeypatch):
    honest = Session.run
    monkeypatch.setattr(Session, "run", lambda *given: honest(*given) + 0.01)
    with pytest.raises(CnnError, match="was not imported: the model's scores differ"):
        imported(tmp_path, model([FIRST, node("Relu", "c", "z"), *END], CONV))


def test_the_command_saves_a_model_that_predicts(tmp_path, capsys):
    path = write(tmp_path / "net.onnx", model([FIRST, node("Relu", "c", "z"), *END], CONV))
    assert main(["import", str(path), "--backend", "numpy", "--mean", "0.5,0.4,0.3", "--std", "1,2,3"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2 layers, 112 parameters" in told
    assert "largest difference" in told
    saved = cnn.load_model(tmp_path / "net.safetensors", backend="numpy")
    assert saved.preprocessing == cnn.Preprocessing(1 / 255, [0.5, 0.4, 0.3], [1, 2, 3])
    assert main(["import", str(path), "--backend", "numpy"]) == 2
    assert "exists already" in capsys.readouterr().err
    out = str(tmp_path / "other.safetensors")
    assert main(["import", str(path), "--backend", "numpy", "--out", out]) == 0
    assert "they are divided by 255" in " ".join(capsys.readouterr().out.split())
    assert main(["eval", out, "synthetic", "--backend", "numpy"]) == 2


def test_changed_files_never_give_a_traceback(tmp_path, capsys):
    layers = [cnn.Conv2D(2, 3, padding=1), cnn.BatchNorm(), cnn.MaxPool2D(2, ceil=True), cnn.Flatten(), cnn.Linear(3)]
    one = cnn.Sequential(layers, (5, 5, 1), backend="numpy")
    cnn.export_onnx(one, tmp_path / "good.onnx")
    good = (tmp_path / "good.onnx").read_bytes()
    dice, codes = np.random.default_rng(11), set()
    for number in range(250):
        changed = bytearray(good)
        for _ in range(dice.integers(1, 4)):
            place = int(dice.integers(len(changed)))
            kind = dice.integers(4)
            if kind == 0:
                changed[place] ^= 1 << int(dice.integers(8))
            elif kind == 1:
                changed[place] = int(dice.integers(256))
            elif kind == 2:
                del changed[place : place + int(dice.integers(1, 20))]
            else:
                changed[place:place] = changed[place - 10 : place]
        (tmp_path / "bad.onnx").write_bytes(changed)
        out = tmp_path / f"{number}.safetensors"
        codes.add(code := main(["import", str(tmp_path / "bad.onnx"), "--out", str(out), "--backend", "numpy"]))
        told = capsys.readouterr().err
        assert code == 0 or told.startswith("cnn: "), told
        assert told.count("\n") <= 1, told
        assert out.exists() == (code == 0)
    assert codes >= {0, 1}


SHUFFLED = "light_shufflenet"


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_the_networks_that_come_with_onnx(path, tmp_path):
    proto = onnx.load(path)
    if path.stem == SHUFFLED:
        with pytest.raises(NotUnderstood, match="a shuffle of channels"):
            cnn.import_onnx(write(tmp_path / "net.onnx", proto), backend="numpy")
        return
    filled(proto)
    found = cnn.import_onnx(write(tmp_path / "net.onnx", proto), backend="numpy").model
    [name] = {each.name for each in proto.graph.input} - {each.name for each in proto.graph.initializer}
    images = np.random.default_rng(1).integers(0, 256, (1, *found.input_shape), np.uint8)
    x = (images / np.float32(255)).transpose(0, 3, 1, 2)
    assert name in {each for node_ in proto.graph.node for each in node_.input}
    wanted = runtime(proto, np.ascontiguousarray(x), proto.graph.output[0].name)
    scores = found.forward(found.load_images(images))
    ours = found.predict(images) if abs(wanted.sum() - 1) < 1e-3 else scores
    assert np.ptp(wanted) > 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def filled(proto):
    """Gives the weights, which these files have left out, random values, and an eighth of the filters."""
    dice = np.random.default_rng(5)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            sizes = numpy_helper.to_array(tensor)
            eighth = np.where(sizes % 8 == 0, sizes // 8, sizes)
            tensor.CopyFrom(numpy_helper.from_array(eighth, tensor.name))
        elif tensor.dims[:1] and tensor.dims[0] % 8 == 0:
            values = dice.uniform(0.5, 1.5, [tensor.dims[0] // 8, *tensor.dims[1:]]).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    shapes = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    kept = []
    variances = {each.input[4] for each in proto.graph.node if each.op_type == "BatchNormalization"}
    for each in proto.graph.node:
        if each.op_type != "ConstantOfShape":
            kept.append(each)
            continue
        shape = shapes[each.input[0]]
        value = dice.normal(0, (2 / max(1, np.prod(shape[1:]))) ** 0.5 if len(shape) > 1 else 0.1, shape)
        value = np.abs(value) + 1 if each.output[0] in variances else value
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), each.output[0]))
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    for each in proto.graph.input:
        for size in each.type.tensor_type.shape.dim:
            if each.name in shapes and size.dim_value % 8 == 0:
                size.dim_value //= 8
    del proto.graph.value_info[:]
    for size in proto.graph.output[0].type.tensor_type.shape.dim:
        size.ClearField("dim_value")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet"])
@pytest.mark.parametrize("exporter", ["torch.export", "TorchScript"])
def test_what_pytorch_exports(name, exporter, tmp_path):
    if any(find_spec(each) is None for each in ("torch", "torchvision", "onnxscript")):
        pytest.skip("PyTorch with torchvision and onnxscript is not installed")
    import torch
    import torchvision

    settings = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    module = getattr(torchvision.models, name)(weights=None, **settings).eval()
    example, path = torch.zeros(1, 3, 64, 64), tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter is deprecated, and both use deprecated functions
        torch.onnx.export(module, (example,), path, dynamo=exporter == "torch.export")
    found = cnn.import_onnx(path, preprocessing=PLAIN).model
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    with torch.no_grad():
        wanted = module(torch.tensor(PLAIN.apply(images).transpose(0, 3, 1, 2))).numpy()
    scores = found.backend.to_numpy(found.forward(found.load_images(images)))
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
