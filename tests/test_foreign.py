"""PyTorch's weights in a safetensors file: every array comes to its place, and what does not fit is named."""

import json

import numpy as np
import pytest
from helpers.readmes import documented
from safetensors.numpy import save_file

import cnn
from cnn.cli import main
from cnn.errors import FileFormatError, UsageError
from cnn.layers.shape import channels_first
from cnn.model import foreign, zoo

NAMES = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
VGG = ["classifier.0", "classifier.3", "classifier.6"], ["pre_logits.fc1", "pre_logits.fc2", "head.fc"]


def torch_names():
    """What torchvision calls the modules of resnet18, in the order of our layers, written out by hand."""
    block = ["conv1", "bn1", "conv2", "bn2"]
    modules = ["conv1", "bn1", *(f"layer1.{number}.{part}" for number in (0, 1) for part in block)]
    for stage in (2, 3, 4):
        modules += [f"layer{stage}.0.{part}" for part in (*block, "downsample.0", "downsample.1")]
        modules += [f"layer{stage}.1.{part}" for part in block]
    return [*modules, "fc"]


def as_torch(model, modules):
    """The model's arrays as PyTorch names them and lays them out."""
    weighted = [each for each in model.layers if each.parameters]
    names = {each.name: module for each, module in zip(weighted, modules, strict=True)}
    found = {}
    for name, array in model.state().items():
        layer, _, key = name.rpartition(".")
        if key == "weight":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        found[f"{names[layer]}.{NAMES.get(key, key)}"] = np.ascontiguousarray(array)
    return found


@pytest.fixture
def thin(monkeypatch):
    """resnet18 and vgg16 with an eighth of the filters and units, for small images."""

    def reduced(name, size):
        def build(classes=1000):
            plan = published(classes)
            tables = plan.network.config()
            for table in tables[:-1]:
                for key in ("filters", "units"):
                    if key in table:
                        table[key] //= 8
            plan.layers, plan.input_shape = [cnn.Layer.from_config(table) for table in tables], (size, size, 3)
            return plan

        published = zoo.ZOO[name]
        monkeypatch.setitem(zoo.ZOO, name, build)

    reduced("resnet18", 33)
    reduced("vgg16", 64)


def test_a_residual_network_of_torchvision(thin, tmp_path, capsys):
    one = cnn.architecture("resnet18", 7).build(backend="numpy", seed=5)
    state = one.state()
    for array in state.values():
        array[...] = np.random.default_rng(array.size).uniform(0.1, 1, array.shape)
    one.load_state(state)
    counters = {f"{module}.num_batches_tracked": np.int64([3]) for module in torch_names() if "bn" in module}
    save_file(as_torch(one, torch_names()) | counters, tmp_path / "torch.safetensors")
    out = tmp_path / "model.safetensors"
    arguments = ["import", str(tmp_path / "torch.safetensors"), "--model", "resnet18", "--backend", "numpy"]
    assert main([*arguments, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "layer2.0.downsample.0.weight" in told
    assert "7 classes" in " ".join(told.split())
    other = cnn.load_model(out, backend="numpy")
    assert other.state().keys() == state.keys()
    for name, array in other.state().items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table.keys() == documented()["cnn import --model"]
    rows = table["arrays"]
    assert rows[0] == {
        "name": "conv1.weight",
        "shape": [7, 7, 3, 8],
        "source": "conv1.weight",
        "source_shape": [8, 3, 7, 7],
    }
    assert main(arguments) == 2  # the default is the file itself
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("heads", VGG, ids=["torchvision", "timm"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_what_comes_after_flatten_is_brought_into_our_order(heads, kind, thin, tmp_path):
    one = cnn.architecture("vgg16", 3).build(backend="numpy", seed=5)
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    arrays = as_torch(one, [f"features.{number}" for number in numbers] + heads)
    first = f"{heads[0]}.weight"
    arrays[first] = np.ascontiguousarray(arrays[first][:, channels_first(2, 2, 64)])
    if heads is VGG[1]:
        arrays[first] = arrays[first].reshape(-1, 64, 2, 2)  # timm keeps it as a convolution
    save(arrays, tmp_path / "torch.safetensors", kind)
    other = foreign.import_weights(tmp_path / "torch.safetensors", "vgg16", backend="numpy").model
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    x = one.preprocessing.apply(images)
    wanted = np.array(one.forward(x))
    precise = {"F32": 1e-6, "F16": 2e-3, "BF16": 2e-2}[kind]
    np.testing.assert_allclose(other.forward(x), wanted, rtol=0, atol=precise * np.abs(wanted).max())


def save(arrays, path, kind):
    """A safetensors file of numbers of a type, of which NumPy has only two."""
    if kind == "F16":
        arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    if kind != "BF16":
        save_file(arrays, path)
        return
    header, start, blobs = {}, 0, []
    for name, array in arrays.items():
        blobs.append(((array.view(np.uint32) + 0x8000) >> 16).astype(np.uint16).tobytes())
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [start, start + len(blobs[-1])]}
        start += len(blobs[-1])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def test_the_first_mismatch_is_named(thin, tmp_path):
    path = tmp_path / "torch.safetensors"
    good = as_torch(cnn.architecture("resnet18", 7).build(backend="numpy"), torch_names())

    def refused(arrays, name="resnet18", error=FileFormatError):
        save_file(arrays, path)
        with pytest.raises(error) as caught:
            foreign.import_weights(path, name, backend="numpy")
        return str(caught.value)

    missing = {name: array for name, array in good.items() if name != "layer1.0.bn1.weight"}
    assert "it has no layer1.0.bn1.weight for batchnorm2.gamma (8,)" in refused(missing)
    other = good | {"layer1.1.conv1.weight": np.zeros((8, 8, 5, 5), np.float32)}
    assert "layer1.1.conv1.weight has the shape (8, 8, 5, 5)" in refused(other)
    assert "1 array more, first aux.weight (2,)" in refused(good | {"aux.weight": np.zeros(2, np.float32)})
    whole = good | {"conv1.weight": good["conv1.weight"].astype(np.int32)}
    assert "conv1.weight has numbers of type I32" in refused(whole)
    assert "values that are not finite" in refused(good | {"bn1.bias": np.full(8, np.nan, np.float32)})
    assert "is not vgg16: it has no features.0.weight" in refused(good, "vgg16")
    assert "did you mean 'resnet18'" in refused(good, "resnet19", UsageError)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileFormatError, match="damaged or no safetensors file"):
        foreign.import_weights(path, "resnet18", backend="numpy")
    with pytest.raises(FileFormatError, match="There is no safetensors file"):
        foreign.import_weights(tmp_path / "gone.safetensors", "resnet18")


def test_a_network_of_one_s_own_has_the_names_of_its_layers(tmp_path, net):
    one = cnn.architecture(str(net)).build(backend="numpy", seed=3)
    modules = [each.name for each in one.layers if each.parameters]
    arrays = as_torch(one, modules)
    save_file(arrays, tmp_path / "torch.safetensors")
    found = foreign.import_weights(tmp_path / "torch.safetensors", str(net), backend="numpy")
    assert {match.name for match in found.matches} == one.state().keys()
    assert [each.shape for each in found.matches] == [tuple(one.state()[each.name].shape) for each in found.matches]
