"""The reference of layers, settings and recipes; layers of one's own, by entry point and by --import."""

import json
import sys

import numpy as np
import pytest

import cnn
from cnn.cli import main
from cnn.commands.reference import reference
from cnn.errors import CnnError
from cnn.layers import Layer
from cnn.plugins import import_modules

MODULE = '''
"""A layer of somebody's own."""

from dataclasses import dataclass

import cnn


@dataclass(eq=False)
class {name}(cnn.Layer):
    """Multiplies by a constant."""

    by: float = 2.0
    """The constant."""

    def shape_after(self, input_shape):
        return input_shape

    def forward(self, x, *, training):
        y = self.output_buffer(len(x))
        y[...] = x * self.by
        return y

    def backward(self, dy):
        dx = self.input_gradient_buffer(len(dy))
        dx[...] = dy * self.by
        return dx
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module with a layer of a name of its own; both are forgotten after the test."""
    made = []

    def write(name):
        made.append(name)
        (tmp_path / f"own_{name.lower()}.py").write_text(MODULE.format(name=name))
        return f"own_{name.lower()}"

    monkeypatch.chdir(tmp_path)
    yield write
    for name in made:
        Layer._members.pop(name, None)
        sys.modules.pop(f"own_{name.lower()}", None)


def net(tmp_path, layer):
    path = tmp_path / "net.toml"
    path.write_text(
        f'input = [28, 28, 1]\nlayers = [{{type = "{layer}", by = 0.5}}, {{type = "Flatten"}}, '
        '{type = "Linear", units = 10}]\n[recipe]\nepochs = 1\n'
    )
    return str(path)


def test_every_setting_of_every_class_is_explained():
    found = reference()
    assert set(found) >= {"Conv2D", "Residual" if "Residual" in found else "Add", "SGD", "Warmup", "He", "Augmentation"}
    for name, entry in found.items():
        if not Layer._members.get(name, cnn.Conv2D).__module__.startswith("cnn."):
            continue  # of another test
        assert entry["text"], name
        for setting in entry["settings"]:
            assert setting["text"], f"{name}: {setting['name']}"
    padding = next(each for each in found["Conv2D"]["settings"] if each["name"] == "padding")
    assert padding["default"] == '"valid"'
    assert padding["text"].startswith('padding is "valid", "same"')
    assert found["Recipe"]["settings"][0] == {
        "name": "epochs",
        "kind": "float",
        "default": "10",
        "text": "Passes over the training images; a fraction ends within one",
    }


def test_the_reference_is_printed(capsys):
    assert main(["reference"]) == 0
    listing = capsys.readouterr().out
    assert "  Conv2D: Correlates images" in listing
    assert "Settings: momentum, weight_decay, nesterov, lr_outside," in listing
    assert main(["reference", "maxpool2d"]) == 0
    assert "  kernel: Height and width of the window, one number or (rows, columns) (" in capsys.readouterr().out
    assert main(["reference", "SGD", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["SGD"]
    assert main(["reference", "Konv2D"]) == 2
    assert "did you mean 'Conv2D'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            '{type = "Flatten"}]\n[recipe]\naugmentation = {flop = true}\n#',
            "did you mean 'flip'? Known are: flip, pad_crop",
        ),
        ('{type = "Conv2D", filter = 3}', "did you mean 'filters'? Known are: filters, "),
        ('{type = "Conv2D", filter = 3}', "(`cnn reference Conv2D` says what they are)"),
        ('{type = "Konv"}', "or a layer of your own (--import MODULE; `cnn reference` says what they are)"),
    ],
)
def test_a_wrong_key_points_to_the_reference(layer, words, tmp_path, capsys):
    (tmp_path / "net.toml").write_text(f"input = [4, 4, 1]\nlayers = [{layer}]\n")
    assert main(["summary", str(tmp_path / "net.toml")]) == 2
    assert words in capsys.readouterr().err


def test_a_module_of_ones_own_is_imported_for_a_run_and_its_model(own, tmp_path, capsys):
    path, module = net(tmp_path, "Halve"), own("Halve")
    words = ["train", "--model", path, "--backend", "numpy", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "There is no layer 'Halve'" in capsys.readouterr().err
    assert main([*words, "--import", module]) == 0
    assert str(tmp_path) not in sys.path
    Layer._members.pop("Halve")
    sys.modules.pop(module)
    # A resumed run imports it by itself; a saved model is told of it.
    assert main(["train", "--resume", "--epochs", "2", "--out", str(tmp_path / "run")]) == 0
    Layer._members.pop("Halve")
    sys.modules.pop(module)
    assert main(["eval", str(tmp_path / "run"), "mnist-5k", "--backend", "numpy"]) == 1
    assert "--import MODULE" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "run"), "mnist-5k", "--backend", "numpy", "--import", module]) == 0


def test_a_module_that_cannot_be_imported_is_said(own, tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "program.py").write_text("raise SystemExit(0)\n")
    for name, words in (
        ("nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("broken", "ZeroDivisionError"),
        ("program", "SystemExit: 0"),
    ):
        with pytest.raises(CnnError, match=rf"'{name}' cannot be imported \({words}"):
            import_modules(name)


def test_a_registered_layer_is_found_by_its_name(own, tmp_path, monkeypatch):
    module = own("Third")
    info = tmp_path / "third-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cnn.layers]\nThird = {module}:Third\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = cnn.architecture(net(tmp_path, "Third")).build(backend="numpy")
    cnn.save_model(model, tmp_path / "m.safetensors")
    Layer._members.pop("Third")
    sys.modules.pop(module)
    again = cnn.load_model(tmp_path / "m.safetensors", backend="numpy")
    assert again.layers[0].by == 0.5
    images = np.zeros((2, 28, 28, 1), np.uint8)
    assert again.predict(images).tolist() == model.predict(images).tolist()
