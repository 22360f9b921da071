"""`cnn bench`: its history, its page, and the change since an earlier benchmark."""

import json
import math
import os
import re
from xml.etree import ElementTree

import pytest

from cnn.cli import main
from cnn.report import bench_page as pages

QUICK = ("--backend", "numpy,reference", "--threads", "1", "--batch-size", "1", "--rounds", "2", "--steps-only")


def bench(capsys, net, *words):
    """The JSON of a quick benchmark."""
    capsys.readouterr()
    assert main(["bench", net, *QUICK, "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_run_is_kept_and_drawn(net, tmp_path, capsys):
    history, page = tmp_path / "history", tmp_path / "page.html"
    first = bench(capsys, net, "--history", str(history))
    second = bench(capsys, net, "--history", str(history), "--html", str(page))
    (history / "other.json").write_text("[]")
    os.mkfifo(history / "pipe.json")
    for number, (key, value) in enumerate(
        (("group", 7), ("backend", []), ("threads", "1"), ("images_per_second", "x"), ("images_per_second", math.nan))
    ):
        row = first["results"][0] | {key: value}
        (history / f"damaged{number}.json").write_text(json.dumps(first | {"results": [row]}))
    kept = [json.loads(path.read_text()) for path in sorted(history.glob("2*.json"))]
    assert kept == [first, second]
    found = pages.read_history(history)
    assert capsys.readouterr().err.count(".json is not a benchmark") == 7
    assert [run["date"] for run in found] == [first["date"], second["date"]]
    (chart,) = pages.history_charts(found)
    assert [series.label for series in chart.series] == ["numpy, 1 thread", "reference, 1 thread"]
    rates = [
        each["images_per_second"] for run in (first, second) for each in run["results"] if each["backend"] == "numpy"
    ]
    assert list(chart.series[0].y) == rates
    root = ElementTree.fromstring(page.read_text().removeprefix("<!DOCTYPE html>\n"))
    shown = " ".join(root.itertext())
    assert "A tiny training step takes" in shown
    assert "History" in shown
    assert not re.findall(r"https?://|<script", page.read_text())


def test_names_on_the_page_are_escaped(net, capsys):
    table = bench(capsys, net)
    table["results"][0]["backend"] = "<i>&"
    table["busy"] = "The machine was <busy>"
    text = pages.bench_page(table, [])
    assert "&lt;i&gt;&amp;" in text
    assert "&lt;busy&gt;" in text
    assert "History" not in text


def test_a_benchmark_against_an_earlier_one(net, tmp_path, capsys):
    old = bench(capsys, net)
    for each in old["results"]:
        each["times"] = [seconds * 100 for seconds in each["times"]]
    old |= {"busy": None, "libraries": {"numpy": "NumPy 0.1", "reference": old["libraries"]["reference"]}}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    new = bench(capsys, net, "--against", str(path))
    assert [(each["backend"], each["ratio"] < 0.5) for each in new["changes"]] == [("numpy", True), ("reference", True)]
    assert {each["verdict"] for each in new["changes"]} == ({None} if new["busy"] else {"faster"})
    page = tmp_path / "page.html"
    assert main(["bench", net, *QUICK, "--against", str(path), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "NumPy 0.1 then" in out
    assert f"Against {path}" in page.read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--history", "{file}"], 2, "is a file; give --history a folder"),
        (["--against", "{file}"], 1, "is not an output of cnn bench --json"),
        (["--against", "no.json"], 1, "There is no earlier measurement no.json"),
        (["--ranks", "1", "--history", "x"], 2, "--history is not for --ranks"),
    ],
)
def test_mistakes_are_one_sentence(words, code, message, net, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("{}")
    assert main(["bench", net, *QUICK, *(word.replace("{file}", str(file)) for word in words)]) == code
    assert message in capsys.readouterr().err


def test_a_benchmark_of_something_else_is_refused(net, tmp_path, capsys):
    old = bench(capsys, net)
    for change, message in (({"batch_size": 2}, "has batch size 2"), ({"results": []}, "has none of the jobs")):
        path = tmp_path / "old.json"
        path.write_text(json.dumps(old | change))
        assert main(["bench", net, *QUICK, "--against", str(path)]) == 2
        assert message in capsys.readouterr().err
