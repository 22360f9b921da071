"""Calibration of this machine, on few probes: it is kept, read back, and held against steps that run here."""

import json
from itertools import islice

import pytest
from PIL import Image

from cnn.backend import create
from cnn.cli import main
from cnn.energy import calibration
from cnn.energy.probes import probes, timings
from cnn.energy.validation import CORNELL_DIFFERENCE
from cnn.errors import CnnError, FileFormatError
from cnn.layers import Conv2D, Linear


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A cache of its own, and probes enough for a law of each kind of layer that mlp has."""
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path))

    def linear():
        return islice((probe for probe in probes() if isinstance(probe.layer, Linear)), 12)

    monkeypatch.setattr(calibration, "probes", linear)
    monkeypatch.setattr(calibration, "SGEMM", calibration.SGEMM[:9])
    monkeypatch.setattr(calibration, "triad_bytes_per_second", lambda: 1e10)
    return tmp_path


def test_a_calibration_is_kept_and_validated(few, capsys):
    assert main(["calibrate", "--backend", "numpy", "--threads", "1", "--idle-watts", "5", "--busy-watts", "9"]) == 0
    assert "Linear, weight gradient" in capsys.readouterr().out
    kept = calibration.load("numpy", 1)
    assert (kept.idle_watts, kept.busy_watts, kept.triad_rate) == (5, 9, 1e10)
    assert {"Linear, forward", "input, forward", "update, update"} <= kept.laws.keys()
    assert all(point.seconds > 0 for law in kept.laws.values() for point in law.points)
    arguments = ["model", "validate", "--backend", "numpy", "--threads", "1", "--model", "mlp", "--repeats", "2"]
    assert main([*arguments, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    errors = [abs(case["predicted"]["value"] / case["measured"] - 1) for case in table["cases"]]
    assert table["mean_absolute_error"] == pytest.approx(sum(errors) / 2)
    assert {part["layer"] for part in table["cases"][0]["parts"]} >= {"linear1", "linear3", "update", "input and loss"}
    assert main([*arguments, "--layers", "--png", str(few / "curves.png")]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["linear2", "backward"] in [line[:2] for line in lines]
    # 8.69 and 0.99 times one thread without vectors, which one with vectors outran by 1.47.
    assert ["2x-e5-2620v3,", "OpenMP,", "AVX2", "10", "5.91"] in [line[:5] for line in lines]
    assert ["xeon-phi-5110p,", "offload,", "no", "vectors", "120", "0.67"] in [line[:6] for line in lines]
    assert CORNELL_DIFFERENCE in printed
    assert [point["threads"] for point in table["cornell"]] == [1, 2, 4, 6, 8, 10, 12, 24, 1, 30, 60, 120, 180, 120]
    with Image.open(few / "curves.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_a_machine_that_is_not_calibrated_says_how(few):
    with pytest.raises(CnnError, match="cnn calibrate --backend numpy --threads 3"):
        calibration.load("numpy", 3)


def test_a_damaged_file_is_named(few):
    (few / "calibration.json").write_text("{}")
    with pytest.raises(FileFormatError, match="delete it"):
        calibration.load_all()


def test_watts_come_in_pairs(few, capsys):
    assert main(["calibrate", "--idle-watts", "5"]) == 2
    assert main(["calibrate", "--idle-watts", "5", "--busy-watts", "4"]) == 2
    assert "both" in capsys.readouterr().err


def test_probes_are_small_enough_and_of_both_gradients():
    drawn = list(probes())
    convolutions = [probe for probe in drawn if isinstance(probe.layer, Conv2D)]
    assert {probe.layer.kernel for probe in convolutions} >= {3, 5}
    assert {1, 3} <= {probe.shape[2] for probe in convolutions}
    phases = [timing.stage.phase for timing in timings(convolutions[0], create("numpy"))]
    assert phases == ["forward", "data gradient", "weight gradient"]
