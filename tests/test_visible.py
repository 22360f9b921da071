"""Names that others chose reach the terminal, a spreadsheet and a plot as text, whatever they contain."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn.cli import main
from cnn.terminal.visible import visible, visible_output

RED = "\x1b[31mred\x1b[0m"


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("a\tb\n", "utf-8", "a\tb\n"),
        (RED, "utf-8", r"\x1b[31mred\x1b[0m"),
        ("\rover\x9b", "utf-8", r"\rover\x9b"),
        ("gpj.\u202eexe", "utf-8", r"gpj.\u202eexe"),
        ("na\udcefve.png", "utf-8", r"na\udcefve.png"),
        ("naïve 猫", "utf-8", "naïve 猫"),
        ("naïve 猫", "latin-1", r"naïve \u732b"),
        ("naïve 猫", "ascii", r"na\xefve \u732b"),
        ("naïve", None, "naïve"),
    ],
)
def test_a_text_is_shown_as_text(text: str, encoding: str | None, shown: str) -> None:
    assert visible(text, encoding) == shown


def test_what_is_printed_within_is_visible(capsys: pytest.CaptureFixture[str]) -> None:
    with visible_output():
        print(RED, end="", flush=True)
    print("\x1b", end="")
    assert capsys.readouterr().out == r"\x1b[31mred\x1b[0m" + "\x1b"


def test_class_and_file_names_in_the_output_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"c{RED}", os.fsdecode(b"d\xff"), "é"]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / "data" / name / f"{number}.png")
    run = tmp_path / "run"
    words = ["train", "--data-dir", str(tmp_path / "data"), "--model", "mlp", "--epochs", "1", "--validation", "0"]
    assert main([*words, "--backend", "numpy", "--out", str(run)]) == 0
    model, picture = str(run / "model.safetensors"), str(tmp_path / "data" / names[0] / "0.png")
    assert main(["predict", model, picture, "--backend", "numpy"]) == 0
    assert main(["eval", model, "folder", "--data-dir", str(tmp_path / "data"), "--backend", "numpy"]) == 0
    assert main(["eval", model + RED, "folder"]) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert out.count(r"c\x1b[31mred\x1b[0m") >= 3
    assert r"d\udcff" in out
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    command = [sys.executable, "-m", "cnn", "predict", model, picture, os.fsdecode(b"no\xff.png"), "--backend", "numpy"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "cnn: There is no image no\\udcff.png; check the path.\n")
    result = subprocess.run([*command[:-3], *command[-2:]], env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert rb"\xe9 " in result.stdout


def test_names_in_a_comparison_are_no_formulas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = '{value = 100.0, confidence = "read", source = "a test"}'
    numbers = "\n".join(f"{name} = {number}" for name in ("cores", "threads_per_core", "peak_gflops", "sgemm_gflops"))
    rest = "\n".join(f"{name} = {number}" for name in ("half_side", "stream_gbs", "idle_watts", "busy_watts"))
    names = ["=cmd|' /C calc'!A0", "$x^{$", r"red \u001b[31m"]
    tables = [f'[mine{place}]\nname = "{name}"\nkind = "cpu"\n{numbers}\n{rest}\n' for place, name in enumerate(names)]
    (tmp_path / "own.toml").write_text("\n".join(tables))
    files = [f"--{kind}={tmp_path / 'out'}.{kind}" for kind in ("csv", "png")]
    words = [
        "compare",
        "mlp",
        "--mode",
        "infer",
        "--devices",
        str(tmp_path / "own.toml"),
        "--device",
        "mine0,mine1,mine2",
        *files,
    ]
    assert main(words) == 0
    assert "\x1b" not in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert rows
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "@"))]
    assert any("=cmd" in cell for row in rows for cell in row.values())
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert main(["devices", "--devices", str(tmp_path / "own.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
