"""`cnn runs`: means over seeds by hand, runs of other settings apart, and published accuracies missed are told."""

import json

import pytest

from cnn.cli import main
from cnn.training.results import EpochResult


@pytest.fixture
def folder(tmp_path):
    """Writes the folder of a run of LeNet."""

    def write(name, accuracy, seed, *, settings=None, result=None, **options):
        path = tmp_path / name
        path.mkdir()
        row = EpochResult(1, 0.1, 0.9, None, None, 0.01, 500.0, 60.0 + seed, None, None, "unavailable", "none")
        (path / "metrics.jsonl").write_text(json.dumps(row.row()) + "\n")
        run = {"model": "lenet", "dataset": "mnist", "seed": seed, "precision": "float32", "epochs": 11}
        run |= {"library": f"BLAS 1.0 (/opt/{name}/lib.so)", "started": name} | (settings or {})
        given = {"dataset": "mnist", "model": "lenet", "accumulate": 1, "seed": seed} | options
        (path / "settings.json").write_text(json.dumps({"options": given, "run": run}))
        if accuracy is not None:
            summary = {"test_accuracy": accuracy, "tta": "none"} | (result or {})
            (path / "summary.json").write_text(json.dumps(summary))
        return str(path)

    return write


def told(capsys, *words):
    capsys.readouterr()
    assert main(["runs", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_runs_of_the_same_settings_are_averaged_over_their_seeds(folder, capsys, monkeypatch):
    runs = [folder(name, accuracy, seed) for name, accuracy, seed in (("a", 0.99, 0), ("b", 0.98, 1), ("c", 0.991, 2))]
    found = told(capsys, *runs)
    (row,) = found["rows"]
    assert row["accuracy"] == pytest.approx(0.987)
    assert row["deviation"] == pytest.approx(0.006082762530298219)  # the root of (9 + 49 + 16) / 2 millionths
    assert (row["least"], row["most"], row["seeds"], row["seconds"]) == (0.98, 0.991, [0, 1, 2], 61.0)
    assert row["published"] == {"accuracy": 0.9897, "source": "Caffe, examples/mnist"}
    assert row["command"] == "cnn train mnist --model lenet --precision float32"
    (verdict,) = found["verdicts"]
    assert verdict == {
        "reached": False,
        "text": "lenet on mnist: the mean of 3 seeds, 98.70 %, misses the published 98.97 % (Caffe, examples/mnist) "
        "by 0.27 points",
    }
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", *runs]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "98.70 % (98.00 to 99.10)" in printed
    assert main(["runs", *runs, "--markdown"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == (
        "| `lenet` | `mnist` | 1 | 98.97 % (Caffe, examples/mnist) | 98.70 % (98.00 to 99.10), seeds 0, 1, 2 | 61 s | "
        "`cnn train mnist --model lenet --precision float32` |"
    )


@pytest.mark.parametrize(
    "change", [{"epochs": 5}, {"precision": "bfloat16"}, {"threads": 4}, {"optimizer": {"type": "Adam"}}], ids=str
)
def test_runs_of_other_settings_are_apart(change, folder, capsys):
    found = told(capsys, folder("a", 0.99, 0), folder("b", 0.98, 1, settings=change), folder("c", 0.97, 2))
    assert [row["seeds"] for row in found["rows"]] == [[0, 2], [1]]
    (name, value), *_ = ({"optimizer.type": "Adam"} if "optimizer" in change else change).items()
    assert found["rows"][1]["apart"][name] == value


def test_test_time_augmentation_has_a_row_of_its_own(folder, capsys):
    result = {"tta": "flip+shift", "tta_test_accuracy": 0.9411}
    settings = {"model": "airbench94", "dataset": "cifar10"}
    found = told(capsys, folder("a", 0.9345, 0, settings=settings, result=result))
    assert [(row["tta"], row["views"], row["accuracy"]) for row in found["rows"]] == [
        ("none", 1, 0.9345),
        ("flip+shift", 6, 0.9411),
    ]
    # The published accuracy is one of six views.
    assert found["rows"][0]["published"] is None
    assert [each["reached"] for each in found["verdicts"]] == [True]


def test_a_run_that_has_not_ended_or_repeats_a_seed_is_left_out_and_told(folder, capsys):
    runs = [folder("a", 0.99, 0), folder("b", None, 1), folder("c", 0.5, 0)]
    found = told(capsys, *runs)
    assert found["rows"][0]["accuracy"] == 0.99
    assert found["left_out"] == [
        {"run": "b", "reason": "the run has not ended"},
        {"run": "c", "reason": "it has the settings and the seed of a"},
    ]
    assert main(["runs", runs[1]]) == 0
    assert capsys.readouterr().out == "note: b is left out: the run has not ended\n"
    assert main(["runs", runs[0], "--json", "--markdown"]) == 2


def test_many_seeds_are_counted(folder, capsys):
    runs = [folder(f"r{seed}", 0.99, seed) for seed in range(11)]
    assert main(["runs", *runs[:10]]) == 0
    assert "8, 9)" in capsys.readouterr().out
    assert main(["runs", *runs]) == 0
    assert "(11 seeds)" in capsys.readouterr().out


def test_a_run_in_its_first_epoch_is_left_out(folder, capsys, tmp_path):
    runs = [folder("a", 0.99, 0), folder("b", None, 1)]
    (tmp_path / "b" / "metrics.jsonl").write_text("")
    found = told(capsys, *runs)
    assert [row["runs"] for row in found["rows"]] == [["a"]]
    assert found["left_out"] == [{"run": "b", "reason": "the run has not ended"}]
    assert main(["report", runs[1]]) == 1  # which has nothing to show
    assert "has not ended an epoch" in capsys.readouterr().err


@pytest.mark.parametrize("tta", [["flip"], {"flip": 1}, "flip", "flap", None])
def test_views_that_a_summary_does_not_count_have_no_row(tta, folder, capsys):
    found = told(capsys, folder("a", 0.99, 0, result={"tta": tta, "tta_test_accuracy": None}))
    assert [row["tta"] for row in found["rows"]] == ["none"]
    found = told(capsys, folder("b", 0.99, 0, result={"test_accuracy": None}))
    assert found["left_out"] == [{"run": "b", "reason": "the run has not ended"}]


def test_a_run_without_its_options_has_no_command(folder, capsys, tmp_path):
    run = folder("a", 0.99, 0, settings={"model": "two\nlines"})
    table = json.loads((tmp_path / "a" / "settings.json").read_text())
    (tmp_path / "a" / "settings.json").write_text(json.dumps(table | {"options": {}}))
    assert told(capsys, run)["rows"][0]["command"] is None
    assert main(["runs", run]) == 0
    assert "its options are not recorded by the release that wrote the run" in capsys.readouterr().out
    assert main(["runs", run, "--markdown"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "| `two lines` | `mnist` | 1 |  | 99.00 %, seed 0 | 60 s |  |"


def test_a_run_in_another_precision_says_so_and_is_resumed_in_it(net, tmp_path, capsys):
    out = str(tmp_path / "run")
    words = ["--model", net, "--backend", "numpy", "--epochs", "1", "--out", out]
    assert main(["train", "synthetic", *words, "--precision", "bfloat16"]) == 0
    (row,) = told(capsys, out)["rows"]
    assert row["precision"] == "bfloat16"
    assert "--precision bfloat16" in row["command"]
    assert main(["train", "--resume", "--out", out, "--epochs", "2"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 2
