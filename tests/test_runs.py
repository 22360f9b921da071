"""The folder of a run: a file operation that fails, a second process or a removed folder lose nothing."""

import itertools
import json
import shutil
import sys

import numpy as np
import pytest
from helpers.faulty_disk import FaultyDisk, Killed, folder_bytes

import cnn
from cnn.cli import main
from cnn.data.dataset import Dataset, Split
from cnn.system.lock import FolderLock
from cnn.training.checkpoint import write_checkpoint

NET = """
name = "small"
input = [4, 4, 1]
layers = [{type = "Flatten"}, {type = "Linear", units = 3}]

[recipe]
epochs = 2
batch_size = 8
"""
SAME = "model.safetensors", "checkpoint.safetensors", "metrics.jsonl"
"""What is the same, byte by byte, however often a run was interrupted, if the clock is."""


def split(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 80, (count, 4, 4, 1), dtype=np.uint8) + (60 * labels).astype(np.uint8)[:, None, None, None]
    return Split(images, labels)


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A command line that trains a tiny network on few images, under a clock that only counts how often it is read."""
    data = Dataset("few", split(15, 0), split(6, 1), ("one", "two", "three"))
    clock = itertools.count()
    monkeypatch.setattr("cnn.commands._common.load_dataset", lambda *_, **__: data)
    monkeypatch.setattr("cnn.training.trainer.now", lambda: float(next(clock)))
    (tmp_path / "net.toml").write_text(NET)
    options = ["--backend", "numpy", "--threads", "1", "--watts", "1", "--validation", "0.2"]
    return ["train", "synthetic", "--model", str(tmp_path / "net.toml"), *options]


def resume(out, *more):
    return main(["train", "--resume", "--out", str(out), *more])


@pytest.mark.parametrize("kind", ["full", "kill"])
def test_a_run_goes_on_to_the_same_bytes_after_any_file_operation_failed(kind, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    disk = FaultyDisk(monkeypatch, tmp_path / "runs")
    assert main([*words, "--out", str(tmp_path / "runs" / "whole")]) == 0
    expected, operations = folder_bytes(tmp_path / "runs" / "whole", *SAME), disk.count
    ended = 0
    for number in range(1, operations + 1):
        out = tmp_path / "runs" / str(number)
        capsys.readouterr()
        disk.begin(number, kind)
        try:
            code = main([*words, "--out", str(out)])
        except Killed:
            code = -1
        disk.begin(None)
        if kind == "full" and code:
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("cnn: ")
            assert "No space left on device" in line
        ended += code != 0
        if (out / "settings.json").exists():
            assert resume(out) == 0, number
        else:
            assert main([*words, "--out", str(out)]) == 0, number
        assert folder_bytes(out, *SAME) == expected, number
        assert {path.name for path in out.iterdir()} == {*SAME, "settings.json", "summary.json"}
    assert ended >= operations - 1 > 30  # removing the lock may fail


def test_a_run_to_resume_that_lost_its_checkpoint_is_refused_and_kept(words, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*words, "--out", str(out)]) == 0
    (out / "checkpoint.safetensors").unlink()
    before = folder_bytes(out, "model.safetensors", "metrics.jsonl")
    capsys.readouterr()
    assert resume(out) == 1
    assert "has metrics.jsonl, model.safetensors, summary.json, but no checkpoint" in capsys.readouterr().err
    for name in ("model.safetensors", "summary.json"):
        (out / name).unlink()
    assert resume(out) == 1
    assert folder_bytes(out, "metrics.jsonl") == {"metrics.jsonl": before["metrics.jsonl"]}


def test_a_folder_that_holds_any_file_of_a_run_is_not_written_to(words, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_only_one_process_writes_to_a_folder(words, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*words, "--out", str(out), "--epochs", "1"]) == 0
    before = folder_bytes(out, *SAME)
    with FolderLock(out):
        assert resume(out, "--epochs", "2") == 2
        assert f"Another process is writing to {out}; wait" in capsys.readouterr().err
        assert folder_bytes(out, *SAME) == before
    assert resume(out, "--epochs", "2") == 0
    assert not (out / ".lock").exists()


def test_a_data_folder_is_found_from_elsewhere(words, tmp_path, monkeypatch):
    out, asked = tmp_path / "run", []
    load = vars(sys.modules["cnn.commands._common"])["load_dataset"]
    monkeypatch.setattr(
        "cnn.commands._common.load_dataset", lambda *_, data_dir, **__: asked.append(data_dir) or load()
    )
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", str(out), "--data-dir", "data", "--epochs", "1"]) == 0
    monkeypatch.chdir("/")
    assert resume(out) == 0
    assert asked == [str(tmp_path / "data")] * 2


class Removes:
    """Removes the folder of a run after an epoch, as somebody else would."""

    def __init__(self, original):
        self.original = original

    def __call__(self, run, path):
        self.original(run, path)
        if run.position.epoch == 1:
            shutil.rmtree(path.parent)


def test_a_folder_that_is_removed_during_the_run_is_written_again(words, tmp_path, monkeypatch, capsys):
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr("cnn.training.trainer.write_checkpoint", Removes(write_checkpoint))
    out = tmp_path / "run"
    assert main([*words, "--out", str(out)]) == 0
    assert "was removed during the run; what is missing is written again" in capsys.readouterr().err
    assert folder_bytes(out, *SAME) == folder_bytes(tmp_path / "whole", *SAME)
    assert {path.name for path in out.iterdir()} == {*SAME, "settings.json", "summary.json"}
    assert resume(out) == 0


def test_the_settings_say_what_the_run_is(words, tmp_path):
    out = tmp_path / "run"
    assert main([*words, "--out", str(out), "--lr", "0.5", "--optimizer", "Adam", "--seed", "3"]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert None not in settings["options"].values()
    run = settings["run"]
    assert (run["version"], run["backend"], run["batch_size"], run["epochs"]) == (cnn.__version__, "numpy", 8, 2)
    assert run["optimizer"] == {"type": "Adam", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
    assert (run["learning_rate"], run["schedule"]) == (0.5, {"type": "Constant", "lr": 0.5})
    assert run["library"].startswith("NumPy")
    assert (run["training_images"], run["validation_images"], run["test_images"], run["seed"]) == (12, 3, 6, 3)


@pytest.mark.parametrize(
    "change",
    [
        [],
        3,
        {"epochs": 0},
        {"epochs": "2"},
        {"lr": "fast"},
        {"optimizer": 3},
        {"threads": 1.5},
        {"backend_options": 3},
        {"scale_lr": 1},
        {"validation": 2},
        {"dataset": 7},
        {"speed": 9},
    ],
    ids=str,
)
def test_settings_of_the_wrong_kind_are_refused_in_one_sentence(change, words, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*words, "--out", str(out), "--epochs", "1"]) == 0
    before = folder_bytes(out, *SAME)
    path = out / "settings.json"
    stored = json.loads(path.read_text())["options"]
    for table in (change,) if not isinstance(change, dict) else (stored | change, {"options": stored | change}):
        path.write_text(json.dumps(table))
        capsys.readouterr()
        assert resume(out, "--epochs" if change == {"optimizer": 3} else "--seed", "1") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"cnn: {path}")
    assert folder_bytes(out, *SAME) == before


def test_settings_of_an_older_release_are_understood(words, tmp_path):
    out = tmp_path / "run"
    assert main([*words, "--out", str(out), "--epochs", "1"]) == 0
    stored = json.loads((out / "settings.json").read_text())["options"]
    (out / "settings.json").write_text(json.dumps(stored | {"lr": None, "patience": None}))
    assert resume(out, "--epochs", "2") == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "nothing\n", "\xff", '{"epoch": 2}\n' * 5], ids=str)
def test_damaged_metrics_are_written_anew_from_the_checkpoint(text, words, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main([*words, "--out", str(whole)]) == 0
    assert main([*words, "--out", str(out), "--epochs", "1"]) == 0
    (out / "metrics.jsonl").write_text(text, encoding="latin-1")
    assert resume(out, "--epochs", "2") == 0
    assert folder_bytes(out, *SAME) == folder_bytes(whole, *SAME)


def test_early_stopping_is_told(words, tmp_path, monkeypatch, capsys):
    # With the labels of the validation images turned round, each epoch makes their loss worse.
    monkeypatch.setattr(
        "cnn.commands.train._held_out", lambda data, *_: (data.train, Split(data.train.images, 2 - data.train.labels))
    )
    out = tmp_path / "run"
    assert main([*words, "--out", str(out), "--epochs", "20", "--patience", "2", "--lr", "0.5"]) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    best, done = summary["best_epoch"], summary["epochs"]
    assert done == best + 2 < 20
    assert summary["stopped_early"]
    assert summary["saved_epoch"] == best
    reason = f"as the validation loss has not been lower than in epoch {best}"
    told = f"stopped after epoch {done}, {reason}; the weights of epoch"
    assert f"early stopping   {told} {best} are kept" in printed
    before = folder_bytes(out, *SAME)
    assert resume(out) == 0
    assert f"{told} {best} are kept; to go on, give a --patience above 2" in capsys.readouterr().out
    assert folder_bytes(out, *SAME) == before
    # A run that reaches its last epoch keeps the best weights, too.
    assert main([*words, "--out", str(out) + "2", "--epochs", str(best + 1), "--patience", "2", "--lr", "0.5"]) == 0
    assert f"early stopping   the weights of epoch {best} are kept, as the" in capsys.readouterr().out


def test_a_finished_run_says_that_nothing_is_left(words, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*words, "--out", str(out)]) == 0
    capsys.readouterr()
    assert resume(out) == 0
    assert "nothing is left to do; to go on, give --epochs a number above 2" in capsys.readouterr().out


@pytest.mark.parametrize(("lr", "told"), [("1e-9", True), ("0.3", False)])
def test_a_network_that_guesses_is_told_so(lr, told, words, tmp_path, monkeypatch, capsys):
    data = Dataset("few", split(300, 0), split(6, 1), ("one", "two", "three"))
    monkeypatch.setattr("cnn.commands._common.load_dataset", lambda *_, **__: data)
    net = tmp_path / "net.toml"
    net.write_text(NET.replace("units = 3", 'units = 3, weights = "Zeros"'))
    assert main([*words, "--out", str(tmp_path / "run"), "--lr", lr]) == 0
    printed = capsys.readouterr().out
    assert ("the network answered at random in epoch 1" in printed) == told
    assert printed.count("answered at random") == told
    assert ("ignores the images (loss 1.09" in printed) == told
