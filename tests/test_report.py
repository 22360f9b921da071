"""Reports of runs: what is computed, that every number of a page is in its JSON, charts, and what is refused."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from cnn.cli import _parser, main
from cnn.report.chart import Chart, Series, place_labels, placed_labels, tick_text, ticks
from cnn.report.chart_svg import chart_svg
from cnn.report.chart_text import chart_lines
from cnn.report.evaluation import Evaluation
from cnn.report.html import _environment
from cnn.report.numbers import count_text, duration, joules_text, number_text, percent, rate_text
from cnn.report.pictures import image_picture
from cnn.report.run import command, labels, read_run
from cnn.report.run_charts import frontier, run_charts
from cnn.report.run_page import run_page
from cnn.report.run_report import Seen, describe_run, describe_runs, sentence
from cnn.system.timing import now

NUMPY = ("--backend", "numpy", "--threads", "1")


@pytest.fixture(scope="module")
def run(net, tmp_path_factory):
    """The folder of a run with its report."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    words = ["train", "mnist-5k", "--model", net, "--epochs", "2", "--watts", "40", "--out", str(folder), "--report"]
    assert main([*words, *NUMPY]) == 0
    return folder


@pytest.fixture(scope="module")
def found(run):
    """What the run's own report says."""
    return json.loads((run / "report.json").read_text())


def page_of(text):
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def numbers(value):
    """Every number of JSON values."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def strings(value):
    """Every text of JSON values."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def forms(number):
    """Every way in which a page writes a number."""
    yield from (percent(number, digits).replace(" ", "\u00a0") for digits in (0, 1, 2))
    yield from (number_text(number), number_text(number * 1e3), count_text(number), duration(number))
    yield from (joules_text(number), rate_text(number), f"{number:.4f}", f"{number:.3g}", str(number), f"{number:,}")


def test_a_run_writes_a_page_and_its_numbers(run, found):
    text = (run / "report.html").read_text()
    root = page_of(text)
    tags = {each.tag for each in root.iter()}
    assert not tags & {"script", "link", "iframe", "object"}
    assert not re.findall(r"https?://|url\(|@import", text)
    assert re.findall(r'(?:href|src)="(?!data:image/png;base64,)', text) == []
    shown = " ".join(root.itertext())
    (one,) = found["runs"]
    assert found["sentence"] in shown
    assert one["machine"] in shown
    (note,) = one["notes"]
    assert "MNIST's training set" in note
    assert note in shown
    assert "cnn train mnist-5k --model" in one["command"]
    assert {each["layer"] for each in one["layers"]["lines"]} == {
        "conv1",
        "flatten1",
        "linear1",
        "input and loss",
        "update",
    }
    assert len(root.findall(".//img")) == len(one["test"]["mistakes"]) + 3  # filters, an image, maps of one layer
    assert one["image_probabilities"][0]["probability"] >= one["image_probabilities"][1]["probability"]


def test_every_number_in_a_table_of_the_page_is_in_the_json(run, found):
    (one,) = found["runs"]
    known = {form for number in numbers(found) for form in forms(number)} | {str(len(one["epochs"]))}
    known |= (
        {f"{form}/image" for form in known}
        | {f"epoch {form}" for form in known}
        | {f"of epoch {form}" for form in known}
    )
    known = (known | {*strings(found), "yes", "no"}) - {""}
    root = page_of((run / "report.html").read_text())
    cells = ["".join(cell.itertext()).strip() for cell in [*root.iter("td"), *root.iter("dd")]]
    unknown = [
        cell
        for cell in cells
        if re.search(r"\d", cell)
        and cell not in known
        # A bin of the calibration, a sum of two numbers, or a setting that is a table.
        and not all(part in known or part.partition(" ")[2] in known for part in re.split(r" to |, ", cell))
    ]
    assert len(cells) > 80
    assert not unknown


def test_the_report_of_a_finished_run_is_what_the_command_makes(run, found, tmp_path, capsys):
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    assert main(["report", str(run), *NUMPY, "--json", "--html", str(page), "--png", str(picture)]) == 0
    made = json.loads(capsys.readouterr().out)
    kept = {name: value for name, value in found["runs"][0].items() if name not in ("layers", "folder")}
    assert {name: value for name, value in made["runs"][0].items() if name in kept} == kept
    assert made["runs"][0]["test"]["accuracy"] == json.loads((run / "summary.json").read_text())["test_accuracy"]
    assert "The worst mistakes" in page.read_text()
    with Image.open(picture) as image:
        assert image.width == 1650


def test_text_fits_80_columns_and_has_table_and_plot(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["report", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("tiny reached ")
    assert any(line.startswith("loss (* training, o validation)") for line in lines)
    assert sum(line.startswith(("1 ", "2")) for line in lines) == 2


def test_code_in_texts_is_shown_as_code_and_escaped():
    code = _environment().filters["ticks"]
    assert code("`cnn <b>` says & tells") == "<code>cnn &lt;b&gt;</code> says &amp; tells"
    assert not isinstance(code("a ` <b>"), Markup)


def test_a_run_without_a_meter_says_so_and_why_but_shows_no_empty_figure(found):
    values = json.loads(json.dumps(found))
    values["runs"][0] |= {"test": None, "test_reason": "left out"}
    assert "<dt>energy, modelled</dt>" in run_page(values)
    none = {"joules": None, "joules_per_image": None, "energy": "unavailable", "energy_source": "no `meter`"}
    values["runs"][0] |= none
    text = run_page(values)
    assert "<dt>energy" not in text
    assert "No energy: no <code>meter</code>." in text


def test_what_cannot_be_computed_is_left_out_with_the_reason(run, tmp_path, capsys):
    without = tmp_path / "no model"
    shutil.copytree(run, without)
    (without / "model.safetensors").unlink()
    (without / "summary.json").unlink()
    (without / "settings.json").unlink()
    assert main(["report", str(without), "--json", *NUMPY]) == 0
    (one,) = json.loads(capsys.readouterr().out)["runs"]
    assert "has no saved model" in one["test_reason"]
    assert (one["finished"], one["test"], one["command"]) == (
        False,
        None,
        "not recorded by the release that wrote the run",
    )
    other = tmp_path / "other data"
    shutil.copytree(run, other)
    settings = json.loads((other / "settings.json").read_text())
    settings["run"]["dataset"] = "<gone> & lost"
    (other / "settings.json").write_text(json.dumps(settings))
    assert main(["report", str(other), "--html", str(tmp_path / "x.html"), *NUMPY]) == 0
    text = (tmp_path / "x.html").read_text()
    assert "<gone>" not in text
    assert "test images: There is no data set &#39;&lt;gone&gt; &amp; lost&#39;" in text


def test_several_runs_side_by_side(run, tmp_path, capsys):
    second = tmp_path / "sec<ond>"
    shutil.copytree(run, second)
    settings = json.loads((second / "settings.json").read_text())
    settings["run"]["seed"] = 7
    (second / "settings.json").write_text(json.dumps(settings))
    page = tmp_path / "page.html"
    assert main(["report", str(run), str(second), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"seed +0 +7", out)
    text = page.read_text()
    assert "<ond>" not in text
    assert "sec&lt;ond&gt;" in text
    shown = " ".join(page_of(text).itertext())
    assert "accuracy against seconds" in shown
    assert "accuracy against joules" in shown


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "There is no folder"),
        (lambda folder: folder.mkdir(), "has no metrics.jsonl"),
        (lambda folder: folder.mkdir() or (folder / "metrics.jsonl").write_text(""), "has not ended an epoch"),
        (lambda folder: folder.mkdir() or (folder / "metrics.jsonl").write_text("{}\n"), "cannot be read as metrics"),
    ],
)
def test_a_folder_without_a_run_is_refused_in_one_sentence(prepare, message, tmp_path, capsys):
    prepare(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err


def test_a_damaged_file_of_a_run_is_named(run, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "summary.json").write_text("[")
    assert main(["report", str(damaged)]) == 1
    assert "summary.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("summary.json", '"test_accuracy": ', '"test_accuracy": "x", "_": ', "has test_accuracy 'x'"),
        ("summary.json", '"test_loss": ', '"test_loss": [], "_": ', "has test_loss []"),
        ("summary.json", '"test_loss": ', '"test_loss": NaN, "_": ', "cannot be read"),
        ("settings.json", '"test_images": ', '"test_images": {}, "_": ', "has test_images {}"),
        ("settings.json", '"machine": "', r'"machine": "\ud800', "cannot be read"),
        ("metrics.jsonl", "}\n", ', "seconds": 1e200}\n', "seconds is 1e+200"),
        ("metrics.jsonl", '"energy_source": "', r'"energy_source": "\ud800', "cannot be read as metrics"),
    ],
)
def test_wrong_values_in_a_file_of_a_run_are_named(file, old, new, message, run, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    text = (damaged / file).read_text()
    assert old in text
    (damaged / file).write_text(text.replace(old, new, 1))
    assert main(["report", str(damaged), "--html", str(tmp_path / "page.html"), "--no-examine"]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_the_command_to_run_it_again_names_every_option():
    options = {"dataset": "mnist", "lr": 0.1, "scale_lr": True, "flip": False, "model": "a b.toml", "seed": None}
    options["backend_options"] = {"tile_bytes": 4096}
    options["recipe"] = {"epochs": 2, "loss": {"type": "MeanSquaredError"}, "multipliers": [{"pattern": "c*"}]}
    line = command(options)
    assert line == (
        "cnn train mnist --lr 0.1 --scale-lr --no-flip --model 'a b.toml' --backend-option tile_bytes=4096 "
        """--set epochs=2 --set 'loss.type="MeanSquaredError"' --set 'multipliers=[{pattern = "c*"}]'"""
    )
    words = shlex.split(line)[1:]
    assert _parser(words).parse_args(words).recipe == options["recipe"]


def test_the_command_of_a_run_is_one_that_cnn_takes(found):
    words = shlex.split(found["runs"][0]["again"])
    assert words[:3] == ["cnn", "train", "mnist-5k"]
    options = _parser(words[1:]).parse_args(words[1:])
    assert (options.epochs, options.watts, options.backend, options.seed) == (2, 40, "numpy", 0)


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path):
    one, other, third = tmp_path / "a/run", tmp_path / "b/run", tmp_path / "c"
    assert labels([one, other, third]) == [str(one), str(other), "c"]


EVALUATION = Evaluation(
    ("a", "b", "c"),
    np.array([0, 0, 1, 1]),
    np.array([[0.9, 0.05, 0.05], [0.2, 0.75, 0.05], [0.3, 0.65, 0.05], [0.84, 0.08, 0.08]]),
)


def test_confusion_precision_and_recall_by_hand():
    table = EVALUATION.to_dict()
    assert table["confusion"] == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert [each["precision"] for each in table["classes"]] == [0.5, 0.5, None]
    assert [each["recall"] for each in table["classes"]] == [0.5, 0.5, None]
    assert (table["accuracy"], table["wrong"]) == (0.5, 2)


def test_the_worst_mistakes_are_those_of_the_highest_probability():
    mistakes = EVALUATION.to_dict()["mistakes"]
    assert [(each["image"], each["true"], each["answer"]) for each in mistakes] == [(3, "b", "a"), (1, "a", "b")]
    assert (mistakes[0]["probability"], mistakes[0]["true_probability"]) == (0.84, 0.08)


def test_the_calibration_error_by_hand():
    table = EVALUATION.to_dict()
    assert [(each["low"], each["images"], each["accuracy"]) for each in table["calibration"]] == [
        (0.6, 1, 1.0),
        (0.7, 1, 0.0),
        (0.8, 1, 0.0),
        (0.9, 1, 1.0),
    ]
    assert table["calibration_error"] == pytest.approx((0.35 + 0.75 + 0.84 + 0.1) / 4)


def test_no_run_on_the_frontier_is_beaten():
    runs = [
        {"label": label, "seconds": seconds, "accuracy": accuracy}
        for label, seconds, accuracy in (("a", 1, 0.8), ("b", 2, 0.7), ("c", 3, 0.9), ("d", 3, 0.85), ("e", None, 1.0))
    ]
    assert frontier(runs, "seconds") == ["a", "c"]


def test_a_long_run_with_ten_thousand_images_is_small_and_quick(run):
    started = now()
    one = read_run(run)
    epochs = tuple(replace(one.epochs[0], epoch=k + 1, train_loss=1 / (k + 1)) for k in range(200))
    found = describe_run(replace(one, epochs=epochs))
    rng = np.random.default_rng(0)
    names = tuple(f"class {k}" for k in range(100))
    answers = Evaluation(names, rng.integers(0, 100, 10_000), rng.dirichlet(np.ones(100), 10_000))
    found["test"] = answers.to_dict()
    pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
    seen = Seen([image_picture(pixels)] * len(found["test"]["mistakes"]))
    text = run_page(describe_runs([found]), seen)
    assert len(text.encode()) < 2e6
    assert now() - started < 10
    assert text.count("<tr") > 300


def test_the_best_epoch_is_marked_and_the_sentence_says_what_came_out(run):
    found = describe_run(read_run(run))
    best = min(found["epochs"], key=lambda row: row["val_loss"])["epoch"]
    assert found["best_epoch"] == best
    assert run_charts(found["epochs"], best)[0].mark == (best, f"lowest validation loss: epoch {best}")
    assert f"tiny reached {percent(found['accuracy'])} on the 1,000 test images of mnist-5k after 2 epochs" in sentence(
        found
    )
    assert "(modelled)" in sentence(found)


CHART = Chart(
    "a <title>", "epoch", "loss", (Series("one", (1.0, 2.0, 3.0), (0.5, None, 0.1)), Series("b&", (1.0,), (0.2,)))
)


def test_a_chart_is_svg_with_escaped_names_and_without_what_is_unknown():
    root = ElementTree.fromstring(chart_svg(CHART))
    assert "a <title>" in "".join(root.itertext())
    assert "b&" in "".join(root.itertext())
    (line,) = [each for each in root.iter("path") if each.attrib.get("class") == "line"]
    assert line.attrib["d"].count("M") == 2
    assert chart_svg(Chart("", "x", "y", (Series("", (1.0,), (None,)),))) == ""


@pytest.mark.parametrize(
    ("low", "high", "logarithmic"),
    [(0.0, 1.0, False), (3.2, 3.9, False), (0.013, 8000, True), (2, 7, True), (5, 5e9, True)],
)
def test_ticks_lie_between_the_ends(low, high, logarithmic):
    found = ticks(low, high, 5, logarithmic)
    assert 1 <= len(found) <= 12
    assert all(low <= each <= high for each in found)
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.25"), (1500, "1500"), (25000, "25k"), (2.5e6, "2.5M"), (0, "0"), (1e-4, "0.0001")]
)
def test_numbers_of_an_axis(value, text):
    assert tick_text(value) == text


def test_labels_do_not_overlap():
    rng = np.random.default_rng(1)
    points = [tuple(each) for each in rng.uniform(100, 160, (12, 2))]
    found = place_labels(points, ["label"] * 12, (0, 0, 300, 300), (6, 12))
    boxes = [(x, y - 12, x + 30, y) for x, y in filter(None, found)]
    assert len(boxes) >= 6
    for k, one in enumerate(boxes):
        for other in boxes[:k]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_label_keeps_off_lines_and_points():
    line = Series("", (0.0, 100.0), (50.0, 50.0))
    dot = Series("", (50.0,), (50.0,), kind="points", sizes=(80.0,), texts=("name",))
    ((_, (left, bottom), _),) = placed_labels(Chart("", "", "", (line, dot)), float, float, (0, 0, 100, 100), (5, 10))
    assert bottom <= 49 or bottom - 10 >= 51
    assert 0 <= left <= 80


def test_a_chart_in_letters_has_its_width_and_its_points():
    lines = list(chart_lines(CHART, 60))
    assert max(map(len, lines)) <= 60
    assert sum(line.count("*") for line in lines[1:]) == 2
    assert sum(line.count("o") for line in lines[1:-1]) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250 ms"), (1.234, "1.23 s"), (125, "2 min 5 s"), (7300, "2 h 1 min"), (None, "-")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
