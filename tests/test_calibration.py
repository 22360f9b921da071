"""Calibration of this machine on few probes: it is stored, read back, and compared with steps that run here."""

import json
from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest
from helpers.readmes import documented
from PIL import Image

from cnn.cli import main
from cnn.cost import count
from cnn.energy import calibration
from cnn.energy.calibration import Calibration, step_spread
from cnn.energy.law import NOISES, START, Law, Point, from_table, to_table
from cnn.energy.law import _Fit as Fit
from cnn.energy.probes import FLOPS, probes
from cnn.energy.tasks import tasks
from cnn.energy.validation import CORNELL_DIFFERENCE
from cnn.errors import CnnError
from cnn.layers import BatchNorm, Conv2D, Flatten, Linear
from cnn.measure.benchmark import random_batch
from cnn.measure.profiler import least_times
from cnn.model.architecture import Architecture, Recipe
from cnn.model.zoo import ZOO, architecture
from cnn.precision import within
from cnn.registry import create
from cnn.system.cache import tell_once
from cnn.system.machine import this_machine


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A separate cache, and enough probes for a law of each kind of layer in mlp."""
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path))

    def perceptrons():
        yield from (
            probe
            for probe in probes()
            if not any(isinstance(layer, Conv2D) for layer in probe.architecture.network.layers)
        )

    monkeypatch.setattr(calibration, "probes", lambda: islice(perceptrons(), 6))
    monkeypatch.setattr(calibration, "LEAST_RUNS", 1)
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
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
    arguments = ["model", "validate", "mlp", "--backend", "numpy", "--threads", "1", "--repeats", "2"]
    assert main([*arguments, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert set(table) == documented()["cnn model validate"]
    errors = [abs(case["predicted"]["value"] / case["measured"] - 1) for case in table["cases"]]
    assert table["mean_absolute_error"] == pytest.approx(sum(errors) / 2)
    assert {part["layer"] for part in table["cases"][0]["parts"]} >= {"linear1", "linear3", "update", "input and loss"}
    assert main([*arguments, "--layers", "--png", str(few / "curves.png")]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["linear2", "backward"] in [line[:2] for line in lines]
    # 8.69 and 0.99 times one thread without vectors; one thread with vectors was 1.47 times as fast.
    assert ["2x-e5-2620v3,", "OpenMP,", "AVX2", "10", "5.91"] in [line[:5] for line in lines]
    assert ["xeon-phi-5110p,", "offload,", "no", "vectors", "120", "0.67"] in [line[:6] for line in lines]
    assert CORNELL_DIFFERENCE in " ".join(printed.split())
    assert [point["threads"] for point in table["cornell"]] == [1, 2, 4, 6, 8, 10, 12, 24, 1, 30, 60, 120, 180, 120]
    with Image.open(few / "curves.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_a_machine_that_is_not_calibrated_says_how(few):
    with pytest.raises(CnnError, match="cnn calibrate --backend numpy --threads 3"):
        calibration.load("numpy", 3)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": 2, "calibrations": [{"products": 3}]}', "[" * 100_000]
)
def test_a_damaged_file_is_named_and_replaced(few, capsys, content):
    (few / "calibration.json").write_text(content)
    tell_once.cache_clear()
    assert calibration.load_all() == []
    assert "calibration.json cannot be read" in capsys.readouterr().err
    measured = Calibration("numpy", "lib", 1, this_machine().cpu or "unknown", "2000-01-01", 1e11, 0, 1, 1, 0, (), {})
    calibration.save(measured)
    assert calibration.load_all() == [measured]


LAW = {"overhead": 1e-6, "points": [[1, 2, 3, 4, 5, 100, 1e-5]], "lengths": [START] * 8, "noise": NOISES[0]}


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("threads", "1", "threads must be int"),
        ("threads", 0, "impossible"),
        ("sgemm_rate", float("nan"), "impossible"),
        ("triad_rate", 0, "impossible"),
        ("call_seconds", -1.0, "impossible"),
        ("busy_watts", float("inf"), "impossible"),
        ("precision", [], "precision must be str"),
        ("products", [[8, 8, 8, -1.0]], "impossible"),
        ("laws", {"Pool": LAW}, "do not have 6 sizes"),
        ("laws", {"Pool": LAW | {"overhead": -1.0}}, "impossible"),
        ("laws", {"Pool": LAW | {"points": [[1, 2, 100, float("nan")]]}}, "impossible"),
    ],
)
def test_numbers_that_nothing_measures_are_not_used(few, capsys, name, value, why):
    values = {"backend": "numpy", "library": "lib", "threads": 1, "cpu": this_machine().cpu or "unknown", "date": ""}
    values |= {"sgemm_rate": 1e11, "sgemm_error": 0.1, "half": 10, "triad_rate": 1e10, "call_seconds": 1e-6}
    values |= {"products": [[8, 8, 8, 1e-6]], "laws": {}}
    for row, kept in ((values, 1), (values | {name: value}, 0)):
        (few / "calibration.json").write_text(json.dumps({"version": calibration.VERSION, "calibrations": [row]}))
        tell_once.cache_clear()
        assert len(calibration.load_all()) == kept
    said = capsys.readouterr().err
    assert "calibration.json cannot be read" in said
    assert why in said


def test_a_file_of_another_release_is_replaced(few, capsys):
    (few / "calibration.json").write_text('{"version": 1, "calibrations": []}')
    tell_once.cache_clear()
    assert calibration.load_all() == []
    assert "calibration.json is of another release; 'cnn calibrate' replaces it" in capsys.readouterr().err


def test_a_calibration_leaves_those_of_other_processors_and_threads_as_they_are(few):
    cpu = this_machine().cpu or "unknown"
    first = Calibration("numpy", "lib", 1, cpu, "2000-01-01", 1e11, 0.1, 10, 1e10, 1e-6, (), {})
    others = [replace(first, cpu="another"), replace(first, threads=2), replace(first, backend="mkl")]
    for each in [first, *others, replace(first, date="2000-01-02")]:
        calibration.save(each)
    stored = json.loads((few / "calibration.json").read_text())["calibrations"]
    assert [(row["cpu"], row["threads"], row["backend"]) for row in stored[:-1]] == [
        (each.cpu, each.threads, each.backend) for each in others
    ]
    assert calibration.load("numpy", 1).date == "2000-01-02"
    assert not (few / ".lock").exists()


def test_what_is_missing_is_counted_before_it_is_calibrated(few, monkeypatch, capsys):
    kept = []

    def stop(backend, threads, progress):
        kept.append((backend.name, threads))
        raise KeyboardInterrupt

    monkeypatch.setattr("cnn.commands._validation.measure", stop)
    assert main(["model", "validate", "mlp", "--backend", "numpy,reference", "--threads", "1"]) == 130
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("not calibrated yet: numpy at 1 thread, reference at 1 thread; 2 calibrations first, 3 to")
    assert second == "calibration 1 of 2: numpy at 1 thread"
    assert kept == [("numpy", 1)]


def test_a_law_is_fitted_once_and_of_many_points_uses_some(monkeypatch):
    rng = np.random.default_rng(0)
    points = [Point((n, n + 1, 3), 1000 * n, 1e-6 * n * float(rng.uniform(0.9, 1.1))) for n in range(1, 41)]
    made = Law(1e-7, tuple(points))
    table = json.loads(json.dumps(to_table(made)))
    fits = []
    monkeypatch.setattr("cnn.energy.law._Fit", lambda *given: fits.append(len(given[0])) or Fit(*given))
    read = from_table(table)
    assert read.seconds((5, 6, 3), 5000) == made.seconds((5, 6, 3), 5000)
    assert fits == [40]
    fits.clear()
    from_table(table | {"points": table["points"] * 100}).seconds((5, 6, 3), 5000)
    assert fits == [667]
    for wrong in ({"lengths": [0.0] * len(table["lengths"])}, {"lengths": [3.0]}, {"noise": 0.0}, {"noise": "x"}):
        with pytest.raises(ValueError, match=r"fit no law|could not convert"):
            from_table(table | wrong)


def test_what_is_common_to_the_layers_of_a_network_widens_the_interval_of_a_step():
    rng = np.random.default_rng(3)

    def spread(common):
        least = {}
        for probe in range(40):
            factor = float(np.exp(common * rng.standard_normal()))
            for layer in range(6):
                n = int(rng.integers(50, 5000))
                key = calibration.Place(f"law {layer % 3}", f"probe {probe}", True, (f"layer{layer}", "forward"))
                least[key] = Point((n, 64, 64), 10_000 * n, 1e-5 * n * factor)
        points = {
            name: [point for key, point in least.items() if key.law == name] for name in ("law 0", "law 1", "law 2")
        }
        laws = {name: Law(1e-7, tuple(found)) for name, found in points.items()}
        return step_spread(laws, least), laws

    assert spread(0.0)[0] < 0.02
    common, laws = spread(0.3)
    assert 0.1 < common < 0.4
    first = laws["law 0"]
    assert len(first.without({first.points[0]}).points) == len(first.points) - 1


def test_each_probe_is_predicted_from_all_others(monkeypatch):
    least = {
        calibration.Place("law", f"probe {probe}", training, (f"layer{layer}", "forward")): Point(
            (probe, layer), 1, 1e-5 * (1 + probe + layer + training)
        )
        for probe in range(3)
        for layer in range(2)
        for training in (True, False)
    }
    left_out = []
    law = Law(1e-7, tuple(least.values()))
    monkeypatch.setattr(Law, "without", lambda law, points: left_out.append(points) or law)
    monkeypatch.setattr(Law, "seconds", lambda law, sizes, work: (2e-5, 0.0))
    found = step_spread({"law": law}, least)
    own = [{point for key, point in least.items() if key.probe == f"probe {probe}"} for probe in range(3)]
    assert left_out == own
    times = [
        sum(1e-5 * (1 + probe + layer + training) for layer in range(2)) for probe in range(3) for training in (0, 1)
    ]
    assert found == pytest.approx(np.sqrt(np.mean([np.log(4e-5 / time) ** 2 for time in times])))


def test_watts_come_in_pairs(few, capsys):
    assert main(["calibrate", "--idle-watts", "5"]) == 2
    assert main(["calibrate", "--idle-watts", "5", "--busy-watts", "4"]) == 2
    assert "both" in capsys.readouterr().err


def test_probes_know_every_kind_of_layer_and_are_not_of_the_zoo():
    drawn = list(probes())
    zoo = [architecture(name) for name in ZOO]
    known = {task.law for probe in drawn for mode in (True, False) for task in tasks(cost_of(probe, training=mode))}
    for net in zoo:
        for training in (True, False):
            assert {task.law for task in tasks(count(net, 64, training=training))} <= known
    shapes = {str(net.network.config()) for net in zoo}
    assert not any(str(probe.architecture.network.config()) in shapes for probe in drawn)
    assert all(cost_of(probe).gemm_flops <= FLOPS or probe.batch == 1 for probe in drawn)


def cost_of(probe, *, training=True):
    return count(probe.architecture, probe.batch, training=training)


def test_every_stage_is_in_the_task_that_the_profiler_times():
    net = architecture("lenet5")
    model = net.build(backend="numpy")
    for training in (True, False):
        cost = count(net, 4, training=training)
        found = tasks(cost)
        timed = least_times(model, *random_batch(model, 4), training=training, repeats=1)
        assert {task.place for task in found} == timed.keys() - {("flatten1", "forward"), ("flatten1", "backward")}
        assert {stage for task in found for stage in task.stages} == {each for each in cost.stages if each.operations}
    laws = [task.law for task in tasks(count(net, 4, training=True))]
    # The tanh of each of four layers is a pass of its own; the first convolution has no data gradient.
    assert laws.count("Tanh, forward") == 4
    assert (laws.count("Conv2D, weight gradient"), laws.count("Conv2D, gradients")) == (1, 2)


def test_each_precision_has_a_calibration_of_its_own(few, capsys):
    values = dict.fromkeys((each.name for each in fields(calibration.Calibration)), 1.0)
    values |= {"cpu": this_machine().cpu or "unknown", "laws": {}, "products": (), "backend": "numpy", "threads": 1}
    values["library"] = "lib"
    plain, rounded = (
        calibration.Calibration(**values | {"precision": name, "date": name}) for name in ("float32", "bfloat16")
    )
    for each in (plain, rounded):
        calibration.save(each)
    assert calibration.find("numpy", 1) == plain
    with within("bfloat16"):
        assert calibration.find("numpy", 1) == rounded
        with pytest.raises(CnnError, match=r"at 2 threads in bfloat16; run '.* --threads 2 --precision bfloat16'"):
            calibration.load("numpy", 2)
    # A file of before there was a choice is of float32.
    path = few / "calibration.json"
    table = json.loads(path.read_text())
    table["calibrations"] = [row for row in table["calibrations"] if row.pop("precision") == "float32"]
    path.write_text(json.dumps(table))
    assert calibration.load_all() == [plain]
    capsys.readouterr()
    arguments = [
        "compare",
        "mlp",
        "--backend",
        "numpy",
        "--threads",
        "1",
        "--rounds",
        "1",
        "--device",
        "xeon-phi-5110p",
    ]
    assert main([*arguments, "--precision", "bfloat16", "--no-measure"]) == 0
    assert "computed in bfloat16; the catalogue's devices are predicted in float32" in " ".join(
        capsys.readouterr().out.split()
    )


def test_products_are_measured_in_the_precision(few, monkeypatch):
    seen = set()
    monkeypatch.setattr(calibration, "_least", lambda backend, progress: seen.add(backend.rounds) or {})
    for name in ("float32", "bfloat16"):
        with within(name):
            found = calibration.measure(create("numpy"), 1)
        assert (found.precision, found.sgemm_rate > 0) == (name, True)
    assert seen == {False, True}


def test_strides_folding_and_tiles_are_told_apart():
    layers = [Conv2D(4, 3, padding=1, bias=False), BatchNorm(), Conv2D(4, 3, 2), Flatten(), Linear(2)]
    net = Architecture("net", layers, (9, 9, 4), Recipe())
    found = {task.place[0]: task for task in tasks(count(net, 64, training=False))}
    assert [found[name].law for name in ("conv1", "batchnorm1", "conv2")] == [
        "Conv2D 3x3, classification",
        "BatchNorm folded, classification",
        "Conv2D strided 3x3, classification",
    ]
    # 9x9 outputs fill 81 of the 144 of nine tiles of 4x4, and 4x4 outputs one tile.
    assert [found[name].sizes[-1] for name in ("conv1", "conv2", "linear1")] == [56, 100, 100]
    training = {task.law for task in tasks(count(net, 64, training=True))}
    assert "BatchNorm, forward" in training
    assert not any("folded" in law for law in training)
