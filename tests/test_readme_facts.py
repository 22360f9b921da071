"""The outputs, names and predicted figures in the READMEs match what the commands print and what exists."""

import csv
import json
import re
from math import floor, log10

import pytest
from helpers.command_lines import commands
from helpers.readmes import ROOT, Readme, documented
from PIL import Image

import cnn.energy.meters as meters
from cnn import plugins
from cnn.backend_options import options_of
from cnn.cli import COMMANDS, main
from cnn.energy.checks import checks, held_out, summaries
from cnn.energy.devices import catalogue
from cnn.model.zoo import ZOO
from cnn.report.predicted import targets

ELSEWHERE = {"cnn bench --ranks", "cnn model validate", "cnn import --model"}
"""Outputs whose keys are compared in tests/test_ranks.py, tests/test_calibration.py and tests/test_foreign.py."""


def printed(capsys, *words):
    """The JSON that a command prints."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def outputs(net, tmp_path, capsys):
    """Every output that takes only seconds, by its name in the tables: a list of objects with the same keys."""
    run, image = tmp_path / "run", tmp_path / "black.png"
    words = ["train", "mnist-5k", "--model", net, "--epochs", "1", "--backend", "numpy", "--out", str(run)]
    assert main(words) == 0
    model = str(run / "model.safetensors")
    Image.new("L", (28, 28)).save(image)
    nodes = printed(capsys, "compare", net, "--no-measure", "--nodes", "1,2")
    assert nodes.pop("scaling")
    return {
        "metrics.jsonl": [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()],
        "summary.json": [json.loads((run / "summary.json").read_text())],
        "cnn lr-find": [printed(capsys, "lr-find", "--model", net, "--backend", "numpy", "--steps", "5")],
        "cnn report": [printed(capsys, "report", str(run), "--backend", "numpy")],
        "cnn runs": [printed(capsys, "runs", str(run))],
        "cnn eval": [printed(capsys, "eval", model, "mnist-5k")],
        "cnn predict": printed(capsys, "predict", model, str(image)),
        "cnn export": [printed(capsys, "export", model, str(run / "net.onnx"))],
        "cnn import": [printed(capsys, "import", str(run / "net.onnx"))],
        "cnn summary": [printed(capsys, "summary", net)],
        "cnn cost": [printed(capsys, "cost", net)],
        "cnn devices": [printed(capsys, "devices")],
        "cnn profile": [printed(capsys, "profile", net, "--batch-size", "1", "--repeats", "1")],
        "cnn bench": [printed(capsys, "bench", net, "--batch-size", "1", "--rounds", "1")],
        "cnn bench --data": [printed(capsys, "bench", "--data", "mnist-5k", "--backend", "numpy", "--rounds", "1")],
        "cnn tune": [printed(capsys, "tune", net, "--backend", "numpy", "--threads", "1", "--out", str(run / "t"))],
        "cnn compare": [printed(capsys, "compare", net, "--no-measure"), nodes],
        "cnn info": [printed(capsys, "info")],
        "cnn backends list": printed(capsys, "backends", "list"),
        "cnn data list": printed(capsys, "data", "list"),
    }


ROWS = ("rows", "same_network", "other_networks")


def test_every_json_key_is_documented(outputs):
    said = documented()
    assert set(said) == set(outputs) | ELSEWHERE | {*ROWS, "scaling"}
    for name, values in outputs.items():
        assert values, name
        for value in values:
            assert set(value) == said[name], name


def test_every_key_of_a_row_is_documented(tmp_path, capsys):
    said, file = documented(), tmp_path / "rows.csv"
    made = printed(capsys, "compare", "lenet5", "--no-measure", "--nodes", "1,2", "--csv", str(file))
    for name in (*ROWS, "scaling"):
        assert made[name], name
        for row in made[name]:
            assert set(row) == said[name], name
    with file.open() as stream:
        assert set(next(csv.reader(stream))) == {"table"} | said["rows"] | said["scaling"]


def test_the_files_of_a_run_are_documented(net, tmp_path):
    words = ["train", "mnist-5k", "--model", net, "--epochs", "1", "--backend", "numpy", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    files = Readme(ROOT / "cnn/commands/README.md").table("file")
    assert set(files) == {f"`{path.name}`" for path in (tmp_path / "run").iterdir()}


def first_column(file, head, number=0):
    """The names in the first cells of a table."""
    return {name for cell in Readme(ROOT / file).table(head, number) for name in re.findall(r"`([^`]+)`", cell)}


def test_tables_name_what_there_is():
    backends, datasets = set(plugins.names(plugins.BACKENDS)), set(plugins.names(plugins.DATASETS))
    assert first_column("README.md", "name") == first_column("backends/README.md", "name") == backends
    assert first_column("README.md", "name", 1) == first_column("datasets/README.md", "name") == datasets
    assert first_column("README.md", "name", 2) == set(ZOO)
    assert first_column("cnn/energy/README.md", "meter") == {reader.name for reader in meters.READERS}


@pytest.mark.parametrize("file", ["README.md", "cnn/commands/README.md"])
def test_every_command_is_in_the_table(file):
    spans = " ".join(f"`{name}`" for name in first_column(file, "command"))
    # `phi` is another command's former name.
    assert {words[0] for words in commands(spans.replace("`", "\n"))} == set(COMMANDS) - {"phi"}


def test_every_variable_is_in_the_table():
    """The variables in the sources, without those that are only passed on to another process."""
    sources = [path for folder in ("cnn", "backends", "datasets") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in sources for name in re.findall(r'"(CNN_[A-Z_]+)"', path.read_text(encoding="utf-8"))}
    assert first_column("README.md", "variable") == used


def test_every_option_of_a_backend_is_explained():
    text = (ROOT / "backends/README.md").read_text()
    for name in plugins.names(plugins.BACKENDS):
        for option in options_of(plugins.load(plugins.BACKENDS, name)):
            assert option in text, f"{name}: {option}"


def agrees(text, *values):
    """Whether a cell has these numbers, rounded to whole percents or two digits."""
    said = [float(each.replace(",", "")) for each in re.findall(r"[\d,]*\.?\d+", text)]
    if len(said) == 1:
        values = values[:1]
    units = [1 if "%" in text else 10 ** (floor(log10(value)) - 1) for value in values]
    return len(said) == len(values) and all(
        abs(one - other) <= 0.51 * unit for one, other, unit in zip(said, values, units, strict=True)
    )


def three(row, quantity):
    """An interval of a row: the estimate, its low and its high end."""
    return [row[quantity], row[f"{quantity}_low"], row[f"{quantity}_high"]]


NETS = ["lenet", "cifar10_quick", "vgg6"]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_the_cost_on_a_phi_is_what_the_model_says(net, mode, capsys):
    readme = Readme(ROOT / "cnn/energy/README.md")
    (block,) = [block for block in readme.blocks("") if "MODE" in block.text]
    (words,) = commands(block.text.replace("NET", net).replace("MODE", mode))
    rows = {(row["device"], row["software"]): row for row in printed(capsys, *words)["rows"]}
    asked = targets(words[words.index("--device") + 1].split(","), catalogue())
    for number, quantity in enumerate(("images_per_second", "images_per_joule"), 0 if mode == "train" else 2):
        for (label, cells), target in zip(readme.table("device", number).items(), asked, strict=True):
            values = three(rows[target.device.name, target.how], quantity)
            assert agrees(cells[NETS.index(net)], *values), (label, quantity, values)


MODELLED = {
    "Titan X, Caffe with cuDNN 4 [1]": (1, "titan-x-maxwell", "winograd-data"),
    "K40, Caffe with cuDNN [2]": (128, "tesla-k40", "implicit"),
    "2x E5-2620 v3, im2col": (128, "2x-e5-2620v3", "im2col"),
    "7250, im2col": (128, "xeon-phi-7250", "im2col"),
    "5110P by itself, im2col": (128, "xeon-phi-5110p", "im2col"),
}


@pytest.mark.parametrize("label", MODELLED)
def test_the_energy_of_alexnet_is_what_the_model_says(label, capsys):
    """The table's last row of a label counts: of the Titan X's two, that of batch 1."""
    batch, device, algorithm = MODELLED[label]
    words = ["alexnet", "--mode", "infer", "--no-measure", "--batch-size", str(batch), "--algorithm", algorithm]
    (row,) = printed(capsys, "compare", *words, "--device", device)["rows"]
    *_, cell = Readme(ROOT / "cnn/energy/README.md").table("device, software")[label]
    rate, watts, per_joule = re.split(r", (?=\d)", cell)
    assert agrees(rate, row["images_per_second"])
    assert agrees(watts, row["watts"])
    assert agrees(per_joule, *three(row, "images_per_joule"))


def test_the_errors_of_the_model_are_what_it_has():
    devices = catalogue()
    table = Readme(ROOT / "cnn/energy/README.md").table("published times of")
    for one, other in zip(summaries(checks(devices)), summaries(held_out(devices)), strict=True):
        values = (one.error, one.within, other.error, other.within)
        assert table[one.kind] == [str(one.number), *(f"{value:.0%}" for value in values)]


@pytest.mark.parametrize("net", NETS)
def test_the_predicted_scaling_is_what_the_model_says(net, capsys):
    readme = Readme(ROOT / "cnn/distributed/README.md")
    rows = printed(capsys, "compare", net, "--no-measure", "--nodes", "1,4,64,1024")["scaling"]
    found = {(row["nodes"], row["link"]): row for row in rows}
    for number, quantity in enumerate(("images_per_second", "efficiency", "images_per_joule")):
        table = readme.table("network, nodes", number)
        lines = {label: cells for label, cells in table.items() if label.startswith(f"{net}, ")}
        assert len(lines) == 4
        for label, cells in lines.items():
            nodes = int(label.partition(", ")[2].replace(",", ""))
            for cell, link in zip(cells, ("ethernet-1g", "ethernet-10g", "infiniband-fdr"), strict=True):
                percent = 100 if quantity == "efficiency" else 1
                values = [percent * each for each in three(found[nodes, link], quantity)]
                assert agrees(cell, *values), (label, link, quantity, values)


@pytest.mark.parametrize(
    ("text", "values", "right"),
    [
        ("26,000 (20,000-37,000)", (26020, 19582, 36771), True),
        ("26,000 (20,000-36,000)", (26020, 19582, 36771), False),
        ("0.73", (0.7349, 0.5, 0.9), True),
        ("0.75", (0.7349, 0.5, 0.9), False),
        ("98% (83-98%)", (98.46, 83.2, 98.46), True),
        ("98% (83-99%)", (98.46, 83.2, 98.46), False),
        ("6.8 (3.5-20)", (6.84, 3.5), False),
    ],
)
def test_wrong_figures_are_found(text, values, right):
    assert agrees(text, *values) == right
