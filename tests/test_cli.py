"""The command line as a user sees it: what it prints and writes, and how it reports mistakes."""

import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from helpers.ready_backends import SURE
from PIL import Image

from cnn.cli import COMMANDS, main
from cnn.data.dataset import load_dataset, search_folders
from cnn.errors import CnnError
from cnn.measure.other_work import OtherWork
from cnn.model.architecture import read_architecture
from cnn.model.zoo import ZOO
from cnn.system.storage import read_arrays


def cnn(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cnn", *arguments]


def train(net: str, out: Path, *more: str) -> list[str]:
    return ["train", "mnist-5k", "--model", net, "--out", str(out), "--backend", "numpy", *more]


@pytest.fixture(scope="module")
def trained(net: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the tiny network."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(train(net, folder)) == 0
    return folder


def test_training_leaves_every_file_of_a_run(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {"checkpoint.safetensors", "metrics.jsonl", "model.safetensors", "settings.json", "summary.json"}
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["dataset"] == "mnist-5k"
    assert 0.8 < summary["test_accuracy"] <= 1


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cnn.commands._run_folder.time.strftime", lambda form: "20260102-030405")
    words = ["train", "--model", net, "--epochs", "1", "--backend", "numpy"]
    assert [main(words) for _ in range(3)] == [0, 0, 0]
    name = "20260102-030405-tiny-mnist-5k"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [name, f"{name}-2", f"{name}-3"]
    assert all((folder / "model.safetensors").exists() for folder in (tmp_path / "runs").iterdir())
    monkeypatch.chdir(tmp_path / "runs" / name)
    Path("runs").touch()
    capsys.readouterr()
    assert main(words) == 1
    assert "cannot be created (Not a directory); name another one with --out" in capsys.readouterr().err


def test_a_run_leaves_the_recipe_of_its_network_as_it_was(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = read_architecture(Path(net))
    recipe = published.recipe
    before = deepcopy(vars(recipe)), deepcopy(vars(recipe.optimizer))
    monkeypatch.setitem(ZOO, "published", lambda classes: published)
    options = ("--epochs", "1", "--weight-decay", "0.01", "--lr", "0.02", "--scale-lr", "--warmup", "1", "--flip")
    assert main(train("published", tmp_path / "run", *options)) == 0
    _, table = read_arrays(tmp_path / "run" / "checkpoint.safetensors", "checkpoint")
    assert table["settings"]["optimizer"]["weight_decay"] == 0.01
    assert (vars(recipe) | {"optimizer": None}) == (before[0] | {"optimizer": None})
    assert vars(recipe.optimizer) == before[1]


def test_the_header_says_what_runs(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train(net, tmp_path / "run", "--epochs", "1", "--seed", "7", "--threads", "1")) == 0
    printed = capsys.readouterr().out
    for words in (
        "mnist-5k: 3,800 training, 200 validation, 1,000 test",
        "tiny",
        "numpy (named)",
        "1 thread",
        "7",
        "epoch 1/1",
    ):
        assert words in printed
    assert "test accuracy" in printed
    assert "model.safetensors" in printed


@pytest.mark.parametrize("command", ["summary", "cost", "profile", "bench", "compare", "tune"])
def test_a_network_may_be_the_one_of_a_run(
    command: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "profile": ["--backend", "numpy", "--batch-size", "2", "--repeats", "1"],
        "bench": ["--backend", "numpy", "--threads", "1", "--batch-size", "2", "--rounds", "1"],
        "compare": ["--no-measure"],
        "tune": ["--mode", "infer", "--backend", "numpy", "--threads", "1", "--rounds", "6", "--batch-sizes", "2"],
    }
    options = [*more.get(command, []), *(["--out", str(tmp_path / "tuned.toml")] if command == "tune" else [])]
    assert main([command, str(trained), *options]) == 0
    assert "tiny" in capsys.readouterr().out


def test_a_trained_model_cannot_be_tuned_for_training(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(trained)]) == 2
    assert "is trained already: give --mode infer, or a network's name or .toml file" in capsys.readouterr().err


def test_the_home_folder_may_be_short(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["train", "--model", net, "--epochs", "1", "--backend", "numpy", "--out=~/run"]) == 0
    assert main(["eval", "~/run", "mnist-5k", "--backend", "numpy"]) == 0
    monkeypatch.setenv("CNN_CACHE_DIR", "~/cache")
    monkeypatch.setenv("CNN_DATA_DIR", "~/data")
    assert search_folders() == [tmp_path / "data", tmp_path / "cache" / "data"]
    monkeypatch.setenv("CNN_DATA_DIR", "~nobody-here/data")
    with pytest.raises(CnnError, match="CNN_DATA_DIR is ~nobody-here/data, but there is no such home folder"):
        search_folders()


def test_eval_agrees_with_the_summary(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(trained), "mnist-5k", "--backend", "numpy", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] == json.loads((trained / "summary.json").read_text())["test_accuracy"]
    confusion = np.array(result["confusion"])
    assert confusion.sum(axis=1).tolist() == [100] * 10
    assert np.trace(confusion) == round(result["accuracy"] * 1000)


def test_test_time_augmentation_is_told_apart(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tta in ("none", "flip+shift"):
        assert main(["eval", str(trained), "mnist-5k", "--backend", "numpy", "--json", "--tta", tta]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["tta"] == tta
        accuracy = found["accuracy"]
    assert main(["eval", str(trained), "mnist-5k", "--backend", "numpy", "--tta", "flip+shift"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "with test-time augmentation (flip+shift: 6 views of each image)" in said
    out = str(tmp_path / "run")
    options = ["--init", str(trained / "model.safetensors"), "--epochs", "1", "--lr", "1e-9", "--backend", "numpy"]
    assert main(["train", "mnist-5k", *options, "--tta", "flip+shift", "--out", out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["tta"], summary["tta_test_accuracy"]) == ("flip+shift", accuracy)
    assert summary["test_accuracy"] != accuracy
    assert f"tta accuracy {accuracy:.2%} with test-time augmentation (flip+shift: 6 views of each image)" in said
    assert main(["report", out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"({100 * accuracy:.2f} % with test-time augmentation (flip+shift: 6 views of each image))" in said
    plain = json.loads((trained / "summary.json").read_text())
    assert (plain["tta"], plain["tta_test_accuracy"]) == ("none", None)


def test_eval_prints_the_confusion_matrix(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(trained / "model.safetensors"), "mnist-5k", "--backend", "numpy"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:3]] == ["backend", "library", "threads"]
    assert "numpy (named)" in printed
    assert "rows: true class" in printed


def test_predict_reads_image_files(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cnn.model.modelfile import load_model

    test = load_dataset("mnist-5k").test
    model = load_model(trained / "model.safetensors", backend="numpy")
    likeliest = model.predict(test.images).max(axis=1).argmax()
    path = tmp_path / "digit.png"
    Image.fromarray(test.images[likeliest, :, :, 0]).save(path)
    Image.fromarray(255 - test.images[likeliest, :, :, 0]).convert("RGB").resize((56, 56)).save(tmp_path / "big.png")
    assert main(["predict", str(trained / "model.safetensors"), str(path), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["class"] == str(test.labels[likeliest])
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert main(["predict", str(trained / "model.safetensors"), str(tmp_path / "big.png"), "--invert"]) == 0
    header, _, lines = capsys.readouterr().out.partition("\n\n")
    assert [line.split()[0] for line in header.splitlines()] == ["backend", "library", "threads"]
    assert lines.startswith(f"{tmp_path / 'big.png'}: {test.labels[likeliest]} ")
    assert lines.count("\n") == 1


def test_a_picture_unlike_the_training_images_is_told_of_invert(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digit = load_dataset("mnist-5k").test.images[3, :, :, 0]
    Image.fromarray(255 - digit).save(tmp_path / "ink.png")
    clear = Image.fromarray(np.zeros_like(digit))
    clear.putalpha(Image.fromarray(digit))
    clear.save(tmp_path / "clear.png")
    Image.fromarray(digit).save(tmp_path / "mnist.png")
    words = ["predict", str(trained / "model.safetensors"), "--backend", "numpy"]
    for name in ("ink", "clear"):
        assert main([*words, str(tmp_path / f"{name}.png"), str(tmp_path / "mnist.png")]) == 0
        printed = capsys.readouterr().out
        assert printed.count("note: its border has the grey level 255, those of the training images 0 to ") == 1
        assert "; add --invert if it shows dark on light where they show light on dark" in printed
        assert main([*words, str(tmp_path / f"{name}.png"), "--invert"]) == 0
        assert "note" not in capsys.readouterr().out
    assert main([*words, str(tmp_path / "clear.png"), "--background", "black", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["note"] is None


@pytest.mark.parametrize("name", ["lenet", "lenet5", "cifar10_quick", "cifar10_full", "vgg6", "mlp"])
def test_summary_of_each_network(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", name, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["parameters"] == sum(layer["parameters"] for layer in table["layers"])
    assert table["training_bytes"] > table["inference_bytes"] > 4 * table["parameters"]
    assert main(["summary", name]) == 0
    assert f"{table['parameters']:,} parameters" in capsys.readouterr().out


def test_profile_accounts_for_the_whole_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--backend", "numpy", "--batch-size", "4", "--repeats", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    lines = {(line["layer"], line["direction"]): line for line in result["lines"]}
    assert result["seconds"] == pytest.approx(sum(line["seconds"] for line in result["lines"]))
    assert result["images_per_second"] == pytest.approx(4 / result["step_seconds"])
    assert result["step_seconds_low"] <= result["step_seconds"] <= result["step_seconds_high"]
    assert lines["conv2", "forward"]["gemm_flops"] == 2 * 4 * 8 * 8 * 500 * 50
    # The first layer's data gradient is never computed.
    assert lines["conv1", "backward"]["gemm_flops"] == 2 * 4 * 24 * 24 * 25 * 20
    assert lines["conv2", "backward"]["gemm_flops"] == 2 * lines["conv2", "forward"]["gemm_flops"]
    for line in result["lines"]:
        assert line["im2col_seconds"] + line["gemm_seconds"] <= line["seconds"] * 1.001 + 1e-6
    # Pooling reads an image and writes a quarter of it.
    assert lines["maxpool1", "forward"]["bytes"] == 4 * (4 * (24 * 24 + 12 * 12) + 12 * 12) * 20
    assert lines["conv2", "forward"]["bytes"] == 0
    assert result["triad_bytes_per_second"] > 0
    assert main(["profile", "--batch-size", "4", "--repeats", "1"]) == 0
    assert "GFLOP/s" in capsys.readouterr().out


def test_bench_puts_backends_under_one_another(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "bench",
        net,
        "--backend",
        "numpy,reference",
        "--threads",
        "1",
        "--batch-size",
        "2",
        "--rounds",
        "1",
    ]
    assert main([*options, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    pairs = [(result["group"], result["backend"]) for result in results]
    assert pairs[:2] == [("tiny conv1 forward", "numpy"), ("tiny conv1 forward", "reference")]
    assert pairs[-2:] == [("tiny training step", "numpy"), ("tiny training step", "reference")]
    assert main([*options, "--steps-only"]) == 0
    printed = capsys.readouterr().out
    assert "tiny, batch 2, medians of 1 round\n" in printed
    assert "training step" in printed


def test_info_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    backends = {each["name"]: each for each in result["backends"]}
    assert {"reference", "numpy", "mkl"} <= set(backends)
    assert backends["numpy"]["ready"]
    loaded = {library["filepath"] for library in result["libraries"]}
    for name in SURE & {"mkl", "openblas"}:
        assert backends[name]["ready"]
        assert {"mkl": "libmkl_rt", "openblas": "openblas"}[name] in backends[name]["library"]["path"]
        assert backends[name]["library"]["path"] in loaded
    assert {"version", "backend", "threads", "machine", "datasets", "openmp_warning"} <= set(result)
    assert main(["info"]) == 0
    assert "backend in force" in capsys.readouterr().out


def test_data_list_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert {"mnist-5k", "mnist", "fashion-mnist", "cifar10", "cifar100", "folder", "synthetic"} <= set(found)
    assert found["mnist-5k"]["present"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: cnn {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fly"], 2, "invalid choice: 'fly'"),
        (["trian"], 2, "argument COMMAND: invalid choice: 'trian'; did you mean 'train'? See cnn --help."),
        (["data", "lst"], 2, "did you mean 'list'?"),
        (["data", "list", "--jsno"], 2, "unrecognized arguments: --jsno; did you mean --json? See cnn data --help."),
        (["train", "--epohcs=3"], 2, "unrecognized arguments: --epohcs=3; did you mean --epochs?"),
        (["train", "mnist", "x"], 2, "unrecognized arguments: x; see cnn train --help."),
        (["profile", "--model", "lenet"], 2, "MODEL is given without --model; see cnn profile --help."),
        (["tune", "--mode", "trian"], 2, "did you mean 'train'?"),
        (["train", "nodata"], 2, "There is no data set 'nodata'; known are: "),
        (["train", "cifar"], 2, "There is no data set 'cifar'; did you mean 'cifar10'? Known are: "),
        (["train", "--model", "nothing"], 2, "There is no architecture 'nothing'; known are: lenet"),
        (["train", "--model", "cifar10-quick"], 2, "did you mean 'cifar10_quick'?"),
        (["train", "--out", "~nobody-here/x"], 2, "'~nobody-here/x' has no home folder to start from"),
        (["train", "--validation", "0.0001"], 2, "give a fraction between 0 and 1 (--validation) that"),
        (["train", "--model", "absent.toml"], 1, "There is no TOML file "),
        (["train", "--backend", "cublas"], 2, "There is no backend 'cublas'; known are: "),
        (["train", "--backend", "mlk"], 2, "did you mean 'mkl'?"),
        (["compare", "--device", "tesla-k4@e5-2620v3"], 2, "no device 'tesla-k4'; did you mean 'tesla-k40'?"),
        (["compare", "--nodes", "1,2", "--link", "ethernet1g"], 2, "did you mean 'ethernet-1g'?"),
        (["devices", "tesla-k4"], 2, "did you mean 'tesla-k40'?"),
        (["train", "--epochs", "0"], 2, "'0' is not a number above 0"),
        (["train", "--lr", "nan"], 2, "'nan' is not a number above 0"),
        (["train", "--optimizer", "adma"], 2, "There is no optimizer 'adma'; did you mean 'Adam'?"),
        (
            ["train", "--optimizer", "Adagrad"],
            2,
            "There is no optimizer 'Adagrad'; known are: Adam, AdamW, RMSprop, SGD",
        ),
        (["train", "--resume"], 2, "--resume needs --out"),
        (["train", "--resume", "--out", "nowhere"], 1, "There is no run to resume in nowhere"),
        (["train", "cifar10", "--data-dir", "nowhere"], 1, "nowhere"),
        (["train", "--pad-crop", "40"], 2, "pad_crop is 40"),
        (["train", "--threads", "two"], 2, "'two' is not a whole number"),
        (["eval", "absent.safetensors", "mnist-5k"], 1, "There is no model file absent.safetensors"),
        (["predict", "absent.safetensors", "x.png"], 1, "There is no model file"),
        (["export", "lenet", "x.onnx"], 2, "lenet is a network without weights; name a model that cnn train saved"),
        (["cost", "net.onnx"], 2, "net.onnx is an ONNX file; run `cnn import "),
        (["eval", "net.onnx", "mnist-5k"], 2, "net.onnx is an ONNX file; run `cnn import "),
        (["train", "--model", "net.onnx"], 2, "net.onnx is an ONNX file; run `cnn import "),
        (["train", "--init", "net.onnx"], 2, "net.onnx is an ONNX file; run `cnn import "),
        (["summary", "vgg19"], 2, "There is no architecture 'vgg19'; did you mean 'vgg16'?"),
        (["bench", "--threads", "1,0"], 2, "'0' is not a whole number of at least 1"),
        (["bench", "--threads", "100000"], 2, "cannot be measured here"),
        (["backends", "get", "numpy"], 1, "Backend 'numpy' has nothing to fetch; `cnn backends list` shows"),
        (["backends", "get", "cublas"], 2, "There is no backend 'cublas'; known are: "),
        (["data", "get", "synthetic"], 1, "no download"),
        (["data", "get", "svhn"], 2, "There is no data set 'svhn'"),
    ],
)
def test_a_mistake_gets_one_sentence(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cnn: ")
    assert words in line


def class_folders(root: Path, *names: str, count: int = 5) -> Path:
    """A folder of grey images in class folders; the brightness tells the class."""
    for name in names:
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(np.full((28, 28), 9 * (ord(name[0]) - ord("a")) + k, np.uint8)).save(
                root / name / f"{k}.png"
            )
    return root


def test_a_model_of_other_classes_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = class_folders(tmp_path / "pets", "cat", "dog")
    assert main(["eval", str(trained / "model.safetensors"), "folder", "--data-dir", str(pets)]) == 2
    error = capsys.readouterr().err
    assert "cannot be evaluated on folder: There are images of cat, dog, but the model's classes are 0, 1, 2" in error


def test_classes_are_compared_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The data sets have three classes each, of which two have the same names at other places."""
    first, other = tmp_path / "first", tmp_path / "other"
    class_folders(first, "cat", "dog", "zebra")
    class_folders(other, "ant", "cat", "dog")
    words = ["train", "folder", "--model", "mlp", "--backend", "numpy", "--epochs", "1", "--validation", "0"]
    run = tmp_path / "run"
    assert main([*words, "--data-dir", str(first), "--out", str(run)]) == 0
    model = str(run / "model.safetensors")
    capsys.readouterr()
    assert main(["eval", model, "folder", "--data-dir", str(other), "--split", "train"]) == 2
    assert "images of ant, but the model's classes are cat, dog, zebra" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(run), "--epochs", "2", "--data-dir", str(other)]) == 2
    assert 'other settings (net: classes ["cat", "dog", "zebra"], now ["ant", "cat", "dog"])' in capsys.readouterr().err
    assert main(["eval", model, "folder", "--data-dir", str(first), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    (first / "cat").rename(tmp_path / "cat")
    assert main(["eval", model, "folder", "--data-dir", str(first), "--json"]) == 0
    part = json.loads(capsys.readouterr().out)
    assert part["classes"] == whole["classes"] == ["cat", "dog", "zebra"]
    assert part["confusion"] == [[0, 0, 0], *whole["confusion"][1:]]


def test_a_folder_of_pictures_alone_is_what_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_folders(tmp_path / "pets" / "train", "cat", "dog")
    class_folders(tmp_path / "pets" / "val", "cat", "dog", count=2)
    words = ["train", "--model", "mlp", "--backend", "numpy", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--data-dir", str(tmp_path / "pets")]) == 0
    assert "folder: 8 training, 4 validation, 2 test images 28x28x1, 2 classes" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["run"]["dataset"] == "folder"
    assert main(["train", "--data-dir", str(tmp_path)]) == 1
    assert "or name the data set that is there, such as mnist" in capsys.readouterr().err


def test_a_second_run_does_not_overwrite_the_first(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "model.safetensors").read_bytes()
    assert main(["train", "--out", str(trained)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (trained / "model.safetensors").read_bytes() == before


def test_divergence_names_the_layer_and_keeps_the_checkpoint(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train(net, tmp_path / "run", "--lr", "1e30")) == 1
    error = capsys.readouterr().err
    assert "conv1" in error or "linear1" in error
    assert "lower the learning rate" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_to_the_same_bytes(number: signal.Signals, net: str, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(train(net, whole, "--epochs", "3")) == 0
    process = subprocess.Popen(
        cnn(*train(net, stopped, "--epochs", "3")), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (stopped / "metrics.jsonl").exists() and (stopped / "metrics.jsonl").read_text())
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "its state is saved in" in error
    assert main(["train", "--out", str(stopped), "--resume"]) == 0
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert len((stopped / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_killed_run_resumes_to_the_same_bytes(net: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(train(net, whole, "--epochs", "2")) == 0
    process = subprocess.Popen(
        cnn(*train(net, killed, "--epochs", "2", "--checkpoint-every", "3")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for((killed / "checkpoint.safetensors").exists)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    process.kill()
    process.communicate()
    assert main(["train", "--out", str(killed), "--resume"]) == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_full_disk_loses_nothing(net: str, tmp_path: Path, trained: Path) -> None:
    out = tmp_path / "run"
    assert main(train(net, out, "--epochs", "1")) == 0
    before = (out / "checkpoint.safetensors").read_bytes()

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    result = subprocess.run(
        cnn("train", "--out", str(out), "--resume", "--epochs", "2"),
        preexec_fn=small_files,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert (out / "checkpoint.safetensors").read_bytes() == before


TUNE = [
    "tune",
    "NET",
    "--backend",
    "numpy",
    "--mode",
    "infer",
    "--threads",
    "1",
    "--rounds",
    "6",
    "--batch-sizes",
    "1,64",
]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["train", "--model", "NET", "--backend", "numpy", "--epochs", "8"],
            ["epoch 8/8: ", "images/s", "loss ", "accuracy "],
        ),
        (TUNE, ["batch_size: ", "/18 ", "batch_size stays 64: with 1 "]),
    ],
    ids=["train", "tune"],
)
def test_a_terminal_gets_a_bar(command: list[str], words: list[str], net: str, tmp_path: Path) -> None:
    command = [net if word == "NET" else word for word in command]
    master, slave = pty.openpty()
    process = subprocess.Popen(
        cnn(*command, "--out", str(tmp_path / "out")),
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    shown = b""
    while select.select([master], [], [], 60)[0]:
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
    os.close(master)
    assert process.wait(timeout=60) == 0
    for word in words:
        assert word.encode() in shown


def test_without_a_terminal_there_is_no_bar(net: str, tmp_path: Path) -> None:
    result = subprocess.run(
        cnn(*train(net, tmp_path / "run", "--epochs", "1")), capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    assert "\r" not in result.stdout
    assert "epoch 1/1  loss" in result.stdout


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.005)


def test_measurements_on_a_busy_machine_say_so(
    net: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OtherWork, "__exit__", lambda self, *error: setattr(self, "share", 0.46))
    options = [net, "--backend", "numpy", "--threads", "1", "--batch-size", "2"]
    for command in (["bench", *options, "--rounds", "1", "--steps-only"], ["profile", *options, "--repeats", "1"]):
        assert main(command) == 0
        assert "The machine was busy: other work took 46% of the processors" in capsys.readouterr().out
        assert main([*command, "--json"]) == 0
        assert "46%" in json.loads(capsys.readouterr().out)["busy"]


def test_any_setting_of_a_recipe_is_set_and_remembered(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    sets = ("epochs=1", "loss.label_smoothing=0.1", "schedule.lr=0.02", "slow_weights=EMA", "augmentation.pad_crop=1")
    words = [word for each in sets for word in ("--set", each)]
    words += ["--batch-size", "50", "--backend", "numpy", "--out", str(out)]
    assert main(["train", "synthetic", "--model", net, *words]) == 0
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    run = json.loads((out / "settings.json").read_text())["run"]
    assert (run["epochs"], run["batch_size"], run["schedule"]) == (1, 50, {"type": "Constant", "lr": 0.02})
    assert run["loss"] == {"type": "SoftmaxCrossEntropy", "label_smoothing": 0.1}
    assert run["slow_weights"]["type"] == "EMA"
    assert run["augmentation"]["pad_crop"] == 1


def test_the_rate_of_another_schedule_may_be_given_by_its_own_option(net: str, tmp_path: Path) -> None:
    words = ["--set", "schedule=OneCycle", "--lr", "0.1", "--epochs", "1", "--backend", "numpy"]
    assert main(["train", "synthetic", "--model", net, *words, "--out", str(tmp_path / "run")]) == 0
    schedule = json.loads((tmp_path / "run/settings.json").read_text())["run"]["schedule"]
    assert (schedule["type"], schedule["lr"]) == ("OneCycle", 0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "An option is given as NAME=VALUE, not as 'epochs'"),
        ("epochs=1e300", "epochs (1e+300) must be above 0 and at most 1,000,000"),
        ("epochs=1000001", "epochs (1000001) must be above 0 and at most 1,000,000"),
        ("epochs=two", "recipe: epochs must be float, not 'two'"),
        ("loss.smoothing=1", "SoftmaxCrossEntropy has no setting 'smoothing'; did you mean 'label_smoothing'"),
        ("augmentation.flip=3", "augmentation: flip must be bool, not 3"),
        ("epoch=3", "recipe has no setting 'epoch'; did you mean 'epochs'"),
    ],
)
def test_a_wrong_setting_of_a_recipe_is_refused_in_one_sentence(
    setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "synthetic", "--set", setting, "--backend", "numpy", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
