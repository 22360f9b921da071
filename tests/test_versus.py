"""The comparison with PyTorch: its output, its output without PyTorch, and the numbers it refuses."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers.fresh_python import printed

BENCH = Path(__file__).parent.parent / "bench"

KEYS = {
    "net",
    "mode",
    "threads",
    "batch",
    "ours",
    "peers",
    "best_peer",
    "ratio_to_best_peer",
    "precision",
    "other_precision",
    "ratio_to_best_of_any_precision",
    "deployed",
    "ratio_to_best_deployed",
    "fraction_of_peak",
    "peak_memory",
    "library",
    "backend",
    "rounds",
    "spread",
    "cpu",
}

OTHER = {"float32": "bfloat16", "bfloat16": "float32"}

# Looked up before anything else, so that PyTorch cannot be imported even where it is installed.
NO_TORCH = """
import sys

sys.modules["torch"] = None
"""

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")

# In a separate interpreter, because PyTorch loads an OpenMP runtime; the numpy backend loads no second one.
AGREE = """
    from dataclasses import replace

    import numpy as np
    from versus_torch import Disagreement, TorchSide
    from versus_workers import OurSide, Work

    def tried(setting, evidence):
        try:
            peers.add(setting, evidence)
        except Disagreement as error:
            return str(error)
        return "agreed"

    for net in ("mlp", "lenet5", "cifar10_quick", "resnet20", "vgg6", "lenet"):
        for mode in ("infer", "train"):
            work = Work(net, mode, 4, 1)
            evidence = OurSide(work, "numpy").evidence()
            peers = TorchSide(work)
            for setting in ("NCHW", "channels_last", "bfloat16 channels_last"):
                print(net, mode, setting, tried(setting, evidence))
    for fault in ("scores", "loss"):
        wrong = replace(evidence, **{fault: getattr(evidence, fault) * np.float32(1.2)})
        print(fault, tried("bfloat16 NCHW", wrong))
    gone = replace(evidence.weights["linear1.weight"], gradient=np.roll(evidence.weights["linear1.weight"].gradient, 1))
    print("gone", tried("bfloat16 NCHW", replace(evidence, weights=evidence.weights | {"linear1.weight": gone})))
    for fault in ("scores", "loss"):
        wrong = replace(evidence, **{fault: getattr(evidence, fault) * np.float32(1.02)})
        print(fault, tried("NCHW", wrong))
    for fault in ("gradient", "updated"):
        own = evidence.weights["linear1.weight"]
        own = replace(own, **{fault: getattr(own, fault) * np.float32(1.1)})
        print(fault, tried("NCHW", replace(evidence, weights=evidence.weights | {"linear1.weight": own})))
    # The rows of the layer after Flatten in another order: the scores must tell.
    values = evidence.values | {"linear1.weight": np.roll(evidence.values["linear1.weight"], 1, axis=0)}
    print("value", tried("NCHW", replace(evidence, values=values)))
"""


def versus(*arguments: str, path: Path = BENCH) -> subprocess.CompletedProcess[str]:
    """Runs the script with the shortest possible turns; modules are looked up in `path` first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CNN_")}
    short = ["--rounds", "1", "--seconds", "0.001", "--no-compile", "--threads", "1"]
    return subprocess.run(
        [sys.executable, str(BENCH / "versus.py"), *short, *arguments],
        env=kept | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def measured(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Its JSON, after checks that apply to every run."""
    assert result.returncode == 0, result.stderr
    row: dict[str, Any] = json.loads(result.stdout)
    assert set(row) == KEYS
    assert row["threads"] == row["rounds"] == 1
    assert row["ours"] > 0
    assert row["fraction_of_peak"] > 0
    other = row["other_precision"]
    own = {"ours"} if other["ours"] is None else {"ours", f"ours {OTHER[row['precision']]}"}
    assert set(row["spread"]) == {*own, *row["peers"], *other["peers"], *row["deployed"]}
    assert set(row["peak_memory"]) == {"ours", *([row["best_peer"]] if row["peers"] else [])}
    assert all(bytes_at_peak > 1e7 for bytes_at_peak in row["peak_memory"].values())
    assert all(low <= high for low, high in row["spread"].values())
    return row


@needs_torch
def test_a_network_is_compared_with_every_setting() -> None:
    given = ("--net", "lenet", "--mode", "train", "--batch", "4", "--backend", "numpy", "--precision", "bfloat16")
    row = measured(versus(*given, "--json"))
    assert (row["net"], row["mode"], row["batch"], row["backend"]) == ("lenet", "train", 4, "numpy")
    assert len(row["peers"]) == 2
    assert row["best_peer"] == max(row["peers"], key=row["peers"].get)
    assert row["ratio_to_best_peer"] == pytest.approx(row["ours"] / row["peers"][row["best_peer"]])
    other = row["other_precision"]
    assert row["precision"] == "bfloat16"
    assert all("bfloat16" in name for name in row["peers"])
    assert len(other["peers"]) == 2
    assert not any("bfloat16" in name for name in other["peers"])
    best = max([*row["peers"].values(), *other["peers"].values()])
    assert row["ratio_to_best_of_any_precision"] == pytest.approx(max(row["ours"], other["ours"]) / best)
    assert (row["deployed"], row["ratio_to_best_deployed"]) == ({}, None)


def test_without_pytorch_it_says_so_and_measures_this_library(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    result = versus("--net", "mlp", "--mode", "infer", "--backend", "numpy", "--json", "--no-deployed", path=tmp_path)
    row = measured(result)
    assert (row["peers"], row["best_peer"], row["ratio_to_best_peer"]) == ({}, None, None)
    assert row["ratio_to_best_of_any_precision"] is row["ratio_to_best_deployed"] is None
    assert "PyTorch is not installed" in result.stderr


def test_the_table_needs_no_peer(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    result = versus("--net", "mlp", "--backend", "numpy", path=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "mlp train, batch 64" in result.stdout


def test_more_threads_than_there_are_is_wrong_usage() -> None:
    result = versus("--net", "mlp", "--threads", "100000")
    assert result.returncode == 2
    assert "--threads 100000 cannot be measured here" in result.stderr


@needs_torch
def test_pytorch_computes_the_same_numbers_and_other_numbers_are_refused() -> None:
    lines = printed(AGREE, BENCH).splitlines()
    agreed, refused = lines[:36], lines[36:]
    assert [line.split()[-1] for line in agreed] == ["agreed"] * 36, agreed
    expected = [
        "scores The value of the scores is off",
        "loss The value of the loss is off",
        "gone The value of the gradient of linear1.weight is off",
        "scores The value of the scores is off",
        "loss The value of the loss is off",
        "gradient The value of the gradient of linear1.weight is off",
        "updated The value of the update of linear1.weight is off",
        "value The value of the scores is off",
    ]
    assert len(refused) == len(expected)
    for line, start in zip(refused, expected, strict=True):
        assert line.startswith(start), line


@pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("onnx") is None, reason="ONNX Runtime is not installed"
)
def test_what_networks_are_deployed_with_is_timed_on_the_same_numbers() -> None:
    lines = printed(
        """
        from dataclasses import replace

        import numpy as np
        from versus_deployed import DeployedSide
        from versus_torch import Disagreement
        from versus_workers import OurSide, Work

        work = Work("cifar10_quick", "infer", 3, 1)
        ours = OurSide(work, "numpy")
        evidence, content = ours.evidence(), ours.exported()
        side = DeployedSide(work, "onnxruntime")
        print(side.version())
        side.add("float32", evidence, content)
        print(side.rate("float32", 0.01) > 0)
        wrong = replace(evidence, probabilities=evidence.probabilities * np.float32(1.01))
        try:
            side.add("float32", wrong, content)
        except Disagreement as error:
            print(error)
        """,
        BENCH,
    ).splitlines()
    assert lines[0][0].isdigit()
    assert lines[1] == "True"
    assert "value of the probabilities is off" in lines[2]
