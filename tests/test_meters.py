"""Meters of coprocessors and GPUs on recorded formats, and the way of joules from a meter to a run's summary."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import stand_in_card
from helpers.fresh_python import printed

from cnn.cli import main
from cnn.commands import train
from cnn.cost import count
from cnn.data.dataset import Split
from cnn.energy.calibration import Calibration, calibration_file, save
from cnn.energy.meters import ConstantPower, Measured, available, open_meter
from cnn.energy.reader import Integral, MeterUnavailable, Reader
from cnn.energy.xeon_phi import Micras, Micsmc
from cnn.errors import Interrupted
from cnn.layers import Flatten, Linear
from cnn.meter import NO_ENERGY, UNCOUNTED, Energy, Meter, energy_words
from cnn.model.sequential import Sequential
from cnn.model.zoo import architecture
from cnn.system.machine import this_machine
from cnn.system.storage import read_arrays, save_arrays
from cnn.system.timing import now
from cnn.training.position import Position
from cnn.training.trainer import Callback, Trainer

FORUM_499748 = """\
119000000
118000000
121000000
189000000
34000000
33000000
54000000
38000000 0 869000
32000000 0 1000000
33000000 0 1501000
"""
"""A card's /sys/class/micras/power as Intel posted it: 119 W."""

TWO_CARDS = """
mic0 (freq):
   Core Frequency: .......... 1.05 GHz
   Total Power: ............. 104.00 Watts
   Low Power Limit: ......... 236.00 Watts
   High Power Limit: ........ 245.00 Watts
   Physical Power Limit: .... 245.00 Watts
Please note that the power levels displayed cannot be used to determine idle power consumption.

mic1 (freq):
   Core Frequency: .......... 1.05 GHz
   Total Power: ............. 119.50 Watts
   Low Power Limit: ......... 236.00 Watts
   High Power Limit: ........ 245.00 Watts
   Physical Power Limit: .... 245.00 Watts
Please note that the power levels displayed cannot be used to determine idle power consumption.
"""
"""What `micsmc -f` of MPSS 3 prints, put together from the formats in its source."""

OLDER = """
Card 1 (freq):
   Core Frequency: .......... 1.05 GHz
   Total Power: ............. 130 Watts
"""
"""The same of MPSS 2."""


def micras(root, text=FORUM_499748):
    path = root / "sys/class/micras/power"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def micsmc(root, text=TWO_CARDS, *, code=0, error=""):
    """A command that prints `text` when asked for power."""
    path = root / "usr/bin/micsmc"
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / "said").write_text(text)
    path.write_text(f"#!/bin/sh\ntest \"$*\" = -f || exit 9\ncat '{root}/said'\necho '{error}' >&2\nexit {code}\n")
    path.chmod(0o755)


def watts_of(reader):
    """The reader's joules over the seconds of a short wait, bounded by the clock on both sides."""
    before, first = now(), reader.joules()
    started = now()
    time.sleep(0.05)
    ended, last = now(), reader.joules()
    after = now()
    return (last - first) / (after - before), (last - first) / (ended - started)


def test_a_card_reads_its_own_power(tmp_path):
    path = micras(tmp_path)
    reader = Micras(tmp_path)
    least, most = watts_of(reader)
    assert least <= 119 <= most
    path.write_text(FORUM_499748.replace("119000000", "61000000"))
    reader.sample()
    least, most = watts_of(reader)
    assert least <= 61 <= most


@pytest.mark.parametrize("text", ["", "\n", "watts\n", "119000000 0 869000\n"])
def test_a_power_file_of_another_form_is_refused(tmp_path, text):
    micras(tmp_path, text)
    with pytest.raises(MeterUnavailable, match="not a number"):
        Micras(tmp_path)


def test_micsmc_gives_the_power_of_all_cards(tmp_path):
    micsmc(tmp_path)
    reader = Micsmc(tmp_path)
    assert reader.covers == "mic0, mic1"
    least, most = watts_of(reader)
    assert least <= 104 + 119.5 <= most
    micsmc(tmp_path, OLDER)
    reader = Micsmc(tmp_path)
    assert reader.covers == "Card 1"
    least, most = watts_of(reader)
    assert least <= 130 <= most


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("", {}, "showed the power of 0 cards of"),
        ("mic0 (freq):\n   Core Frequency: .......... 1.05 GHz\n", {}, r"showed the power of 0 cards of \['mic0'\]"),
        (TWO_CARDS + "\nmic2 (freq):\n", {}, r"showed the power of 2 cards of \['mic0', 'mic1', 'mic2'\]"),
        ("", {"code": 1, "error": "No coprocessor found"}, "failed with exit code 1: No coprocessor found"),
    ],
)
def test_output_without_every_cards_power_is_refused(tmp_path, text, more, words):
    micsmc(tmp_path, text, **more)
    with pytest.raises(MeterUnavailable, match=words):
        Micsmc(tmp_path)


def test_a_card_that_is_lost_is_no_saving(tmp_path):
    micsmc(tmp_path)
    reader = Micsmc(tmp_path)
    micsmc(tmp_path, TWO_CARDS[: TWO_CARDS.index("mic1")])
    for ask in (reader.sample, reader.joules):
        with pytest.raises(MeterUnavailable, match="showed the power of 1 cards"):
            ask()
    micsmc(tmp_path)
    reader.sample()
    least, most = watts_of(reader)
    assert least <= 104 + 119.5 <= most


@pytest.fixture(scope="module")
def nvml(tmp_path_factory):
    """The folder of a library that NVML's binding loads as the driver's."""
    pytest.importorskip("pynvml")
    compiler = stand_in_card.compiler()
    if compiler is None:
        pytest.skip("the stand-in for NVML needs gcc, and there is none")
    folder = tmp_path_factory.mktemp("nvml")
    source, library = Path(__file__).with_name("helpers") / "nvml.c", folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, *stand_in_card.FLAGS, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(folder)


READ_GPUS = """
    import time
    from cnn.energy.nvml import Nvml
    from cnn.system.timing import now
    reader = Nvml()
    before, first = now(), reader.joules()
    time.sleep(0.5)
    reader.sample()
    print(reader.covers, (reader.joules() - first) / (now() - before), sep=": ")
    reader.close()
"""


@pytest.mark.parametrize(("counter", "how"), [("1", ""), ("0", " (power, sampled)")])
def test_all_gpus_are_counted(nvml, counter, how):
    covers, watts = printed(READ_GPUS, LD_LIBRARY_PATH=nvml, NVML_COUNTER=counter).split(": ")
    assert covers == "Tesla K40, Tesla K40" + how
    assert float(watts) == pytest.approx(500, rel=0.02)


def test_no_gpu_is_explained(nvml):
    code = "from cnn.energy.meters import available; print(*(each.reason for each in available()), sep='\\n')"
    assert "NVML shows no GPU's energy (there is no GPU)" in printed(code, LD_LIBRARY_PATH=nvml, NVML_GPUS="0")


def test_every_reader_says_whether_it_is_ready(tmp_path):
    micras(tmp_path)
    found = {each.name: each for each in available(tmp_path)}
    assert list(found) == ["powercap", "perf", "micras", "micsmc", "nvml"]
    assert found["micras"].to_dict() == {
        "ready": True,
        "name": "micras",
        "part": "processor",
        "covers": "the card's board",
        "reason": None,
    }
    assert "install MPSS" in found["micsmc"].reason
    assert not found["micsmc"].to_dict()["ready"]


def test_a_meter_is_of_every_part_or_of_none(tmp_path):
    micras(tmp_path)
    with open_meter(["processor"], root=tmp_path) as meter:
        assert (meter.kind, meter.source) == ("measured", "micras: the card's board")
    with open_meter(["processor", "coprocessor"], root=tmp_path) as meter:
        assert meter.kind == "unavailable"
        assert meter.source.startswith("no meter of the coprocessor is ready")
    micsmc(tmp_path)
    with open_meter(["processor", "coprocessor"], root=tmp_path) as meter:
        assert meter.source == "micras: the card's board; micsmc: mic0, mic1"
    with open_meter(["processor"], watts=90, root=tmp_path) as meter:
        assert meter.stop(10, 2.0) == Energy(180, "modelled", "90 W, as given, times the seconds of the steps")


class Scripted(Reader):
    """Gives the given joules, and fails for None."""

    name = "scripted"
    part = "processor"
    covers = "what the test says"

    def __init__(self, *joules):
        self.script = list(joules)

    def joules(self):
        value = self.script.pop(0)
        if value is None:
            raise MeterUnavailable("the meter was pulled out")
        return value


def test_a_stretch_is_the_difference_and_a_failure_spoils_only_its_own():
    with Measured([Scripted(10.0, 12.5, 20.0, None, 30.0, 31.0, None, 40.0, 50.0)]) as meter:
        for expected in (2.5, None, 1.0, None):
            meter.start()
            energy = meter.stop(1, 0.1)
            assert energy.joules == expected
            if expected is None:
                assert (energy.kind, energy.source) == ("unavailable", "the meter was pulled out")


def test_a_counter_that_stands_still_measures_nothing():
    with Measured([Scripted(5.0, 5.0, 5.0, 5.0)]) as meter:
        meter.start()
        assert meter.stop(1, 0.001).joules == 0
        meter.start()
        assert meter.stop(1, 2.0) == Energy(None, "unavailable", f"the meter counted nothing ({meter.source})")


class Sampled(Reader):
    """1 W until it is sampled, then 1000 W; it may also fail."""

    name = "sampled"
    part = "processor"
    period = 0.02
    covers = "a step of power"

    def __init__(self, fail=False):
        self.fail, self.closed, self.samples = fail, False, 0
        self.watts = iter([1.0])
        self.integral = Integral(lambda: next(self.watts, 1000.0))

    def joules(self):
        return self.integral.joules()

    def sample(self):
        if self.fail:
            raise MeterUnavailable("no sample")
        self.samples += 1
        self.integral.sample()

    def close(self):
        self.closed = True


def test_power_is_sampled_beside_the_work_until_the_meter_is_closed():
    reader = Sampled()
    with Measured([reader]) as meter:
        meter.start()
        time.sleep(0.5)
        joules = meter.stop(1, 0.5).joules
    assert 250 < joules < 1000 * 1.5
    assert reader.closed
    samples = reader.samples
    time.sleep(0.1)
    assert reader.samples == samples > 0


def test_a_failure_of_sampling_reaches_the_stretch():
    with Measured([Sampled(fail=True)]) as meter:
        meter.start()
        time.sleep(0.2)
        assert meter.stop(1, 0.2) == Energy(None, "unavailable", "no sample")


def test_a_sum_is_of_the_weaker_kind():
    measured, modelled = Energy(2.0, "measured", "powercap: package-0"), Energy(3.0, "modelled", "65 W")
    assert sum([measured, measured], NO_ENERGY) == Energy(4.0, "measured", "powercap: package-0")
    assert sum([measured, modelled, measured], NO_ENERGY) == Energy(7.0, "modelled", "powercap: package-0; 65 W")
    lost = Energy(None, "unavailable", "gone")
    assert (Energy(1.0, "modelled", "65 W") + Energy(1.0, "modelled", "5 W")).source == "65 W; 5 W"
    assert measured + lost + modelled == Energy(None, "unavailable", "powercap: package-0; gone; 65 W")


@pytest.mark.parametrize(
    ("joules", "text"),
    [(5e-7, "0.5 µJ"), (0.0046171, "4.617 mJ"), (999.99, "1000 J"), (1234.5, "1.234 kJ"), (7.2e6, "7.2 MJ")],
)
def test_joules_in_words(joules, text):
    assert energy_words(joules, joules, "measured") == f"{text}, {text}/image (measured)"
    assert energy_words(None, None, "unavailable") == "unavailable"


def trainer(meter, checkpoint=None, **settings):
    rng = np.random.default_rng(0)
    data = Split(rng.integers(0, 256, (20, 2, 2, 1), dtype=np.uint8), rng.integers(0, 2, 20))
    model = Sequential([Flatten(), Linear(2)], (2, 2, 1), backend="numpy", seed=0)
    return Trainer(model, data, validation=data, batch_size=4, checkpoint=checkpoint, meter=meter, **settings)


class PerImage(Meter):
    """One joule per image, by the trainer's count, and a record of when it was on."""

    kind = "modelled"
    source = "a joule an image"

    def __init__(self):
        self.on, self.stretches = False, []

    def start(self):
        assert not self.on
        self.on = True

    def stop(self, images, seconds):
        assert self.on
        assert seconds > 0
        self.on = False
        self.stretches.append(images)
        return Energy(float(images), self.kind, self.source)


def test_steps_are_counted_and_neither_validation_nor_saving(tmp_path, monkeypatch):
    meter = PerImage()
    run = trainer(meter, tmp_path / "run", checkpoint_every=2)
    evaluate, save, off = run.model.evaluate, run.save, []
    monkeypatch.setattr(run.model, "evaluate", lambda data: off.append(not meter.on) or evaluate(data))
    monkeypatch.setattr(run, "save", lambda: off.append(not meter.on) or save())
    results = run.run(2)
    assert meter.stretches == [8, 8, 4, 4, 8, 8]
    assert off == [True] * 9
    for result in results:
        assert (result.joules, result.joules_per_image) == (20, 1)
        assert (result.energy, result.energy_source) == ("modelled", "a joule an image")
        assert result.row()["joules"] == 20


def test_without_a_meter_energy_is_unavailable():
    run = trainer(PerImage())
    (result,) = Trainer(run.model, run.train).run(1)
    assert (result.joules, result.joules_per_image, result.energy) == (None, None, "unavailable")
    assert result.energy_source == "the run was given no meter"


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_batch(self, trainer):
        if trainer.position.step == self.step:
            trainer.request_stop("a test")


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_epoch_adds_up(stop, tmp_path):
    with pytest.raises(Interrupted):
        trainer(PerImage(), tmp_path / "run").run(2, [StopAt(stop)])
    resumed = trainer(PerImage(), tmp_path / "run")
    resumed.resume()
    assert [result.joules for result in resumed.run(2)] == [20, 20]
    with pytest.raises(Interrupted):
        trainer(PerImage(), tmp_path / "other").run(2, [StopAt(stop)])
    resumed = trainer(ConstantPower(50), tmp_path / "other")
    resumed.resume()
    mixed, alone = resumed.run(2)
    assert mixed.joules >= 4 * stop
    assert mixed.energy_source.startswith("a joule an image")
    assert alone.joules == pytest.approx(50 * alone.seconds)


def test_a_run_tells_its_energy_on_every_line_and_in_every_file(net, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["train", "--model", net, "--backend", "numpy", "--out", str(out)]
    assert main([*options, "--epochs", "1", "--watts", "65"]) == 0
    printed = capsys.readouterr().out
    assert "modelled: 65 W, as given" in printed
    assert " J (modelled)" in next(line for line in printed.splitlines() if line.startswith("epoch 1/1"))
    # A resumed run remembers the watts, and its summary counts all epochs.
    assert main(["train", "--resume", "--out", str(out), "--epochs", "3"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["energy"] for row in rows] == ["modelled"] * 3
    for row in rows:
        assert row["joules"] == pytest.approx(65 * row["seconds"])
        assert row["joules_per_image"] == pytest.approx(row["joules"] / 3800)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["joules"] == pytest.approx(65 * summary["seconds"])
    assert summary["joules_per_image"] == pytest.approx(summary["joules"] / (3 * 3800))
    assert (summary["energy"], summary["energy_source"]) == ("modelled", rows[0]["energy_source"])


def test_a_run_from_before_energy_was_counted_goes_on_without(net, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["train", "--model", net, "--backend", "numpy", "--out", str(out)]
    assert main([*options, "--epochs", "1", "--watts", "65"]) == 0
    metrics = out / "metrics.jsonl"
    row = {key: value for key, value in json.loads(metrics.read_text()).items() if not key.startswith(("joul", "ener"))}
    metrics.write_text(json.dumps(row) + "\n" + '{"epoch": 2, "train_lo')  # and a row that a full disk cut off
    path = out / "checkpoint.safetensors"
    arrays, table = read_arrays(path, "checkpoint")
    assert len(table.pop("results")) == 1
    save_arrays(path, "checkpoint", arrays, table)
    assert main(["train", "--resume", "--out", str(out), "--epochs", "2"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["joules"], summary["joules_per_image"], summary["energy"]) == (None, None, "unavailable")
    assert "training energy  unavailable: not all of it was counted" in capsys.readouterr().out
    assert Position.from_table({"epoch": 1, "batch": 3}).energy == UNCOUNTED


@pytest.fixture
def calibrated(monkeypatch, tmp_path):
    """A calibration of numpy at one thread in a separate cache, with no law; returns its file."""
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "open_meter", lambda parts, watts: open_meter(parts, watts=watts, root=tmp_path))
    cpu = this_machine().cpu or "unknown"
    known = Calibration("numpy", "lib", 1, cpu, "2000-01-01", 1e11, 0.1, 10, 1e10, 1e-6, (), {})
    save(replace(known, idle_watts=10.0, busy_watts=30.0))
    return calibration_file()


def trained(net, out, *more):
    """The summary of an epoch of the tiny network on the calibrated backend and threads."""
    where = ["--backend", "numpy", "--threads", "1", "--out", str(out)]
    assert main(["train", "--model", net, "--epochs", "1", "--batch-size", "475", *where, *more]) == 0
    return json.loads((out / "summary.json").read_text())


def test_without_a_meter_training_is_modelled_by_the_calibration(net, calibrated, tmp_path, capsys):
    summary = trained(net, tmp_path / "run")
    # Without laws every pass runs at the triad's rate and every product at SGEMM's: 20 W above idle while busy.
    stages = count(architecture(net), 475, training=True).stages
    dynamic = 20 * sum(max(stage.flops / 1e11, stage.bytes / 1e10) for stage in stages) / 475
    assert summary["joules"] == pytest.approx(10 * summary["seconds"] + 3800 * dynamic)
    assert summary["energy"] == "modelled"
    assert summary["energy_source"].startswith("the calibration of 2000-01-01 with 10 W idle and 30 W busy")
    (row,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert row["joules_per_image"] == pytest.approx(summary["joules_per_image"]) == row["joules"] / 3800
    printed = capsys.readouterr().out
    assert "energy   modelled: the calibration of 2000-01-01" in printed
    assert " J (modelled)" in next(line for line in printed.splitlines() if line.startswith("epoch 1/1"))


def test_watts_and_meters_go_before_the_calibration(net, calibrated, tmp_path, monkeypatch):
    assert trained(net, tmp_path / "watts", "--watts", "65")["energy_source"].startswith("65 W, as given")
    monkeypatch.setattr(train, "open_meter", lambda parts, watts: PerImage())
    assert trained(net, tmp_path / "metered")["energy_source"] == "a joule an image"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"backend": "numpy"', '"backend": "other"', "numpy at 1 thread has no calibration"),
        ('"idle_watts": 10.0', '"idle_watts": null', "the calibration of 2000-01-01 has no watts"),
        ('"idle_watts": 10.0', '"idle_watts": "ten"', "has no calibration with watts"),
        ('"busy_watts": 30.0', '"busy_watts": NaN', "has no calibration with watts"),
        ('"triad_rate": 10000000000.0', '"triad_rate": 0', "has no calibration with watts"),
        ('"busy_watts": 30.0', '"busy_watts": 5.0', "the calibration is damaged"),
        ('"laws": {}', '"laws": []', "has no calibration with watts"),
        ('"version"', "", "has no calibration with watts"),
    ],
)
def test_a_calibration_that_tells_no_energy_leaves_it_unavailable(net, calibrated, tmp_path, old, new, reason):
    text = calibrated.read_text()
    assert old in text
    calibrated.write_text(text.replace(old, new))
    summary = trained(net, tmp_path / "run")
    assert (summary["joules"], summary["energy"]) == (None, "unavailable")
    assert summary["energy_source"].startswith("no meter of the processor is ready")
    assert reason in summary["energy_source"]


def test_watts_must_be_a_number(capsys):
    assert main(["train", "--watts", "lots"]) == 2
    assert "'lots' is not a number above 0" in capsys.readouterr().err
