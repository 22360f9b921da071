"""Profiles: modes and precisions, changes since an earlier one, traces, counters and joules by layer."""

import json
import re
from xml.etree import ElementTree

import pytest

from cnn.cli import main
from cnn.compiled.convolution import Problem
from cnn.convolution import Convolution, Window
from cnn.instruments import AlgorithmChoice, Instruments
from cnn.measure.change import change
from cnn.measure.profiler import layer_counts, profile_step
from cnn.measure.trace import KERNELS, LAYERS, PHASES, THREADS, trace_step
from cnn.meter import Energy, Meter
from cnn.model.zoo import architecture
from cnn.registry import create
from cnn.report import layer_energy as by_layer
from cnn.report.layer_energy import layer_energy
from cnn.system.perf_events import SOFTWARE, Counters, CountersUnavailable, Event

QUICK = ("--backend", "numpy", "--threads", "1", "--batch-size", "2", "--repeats", "2")


def profile(capsys, net, *words):
    """The JSON of a quick profile."""
    capsys.readouterr()
    assert main(["profile", net, *QUICK, "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_inference_has_forward_passes_alone(net, capsys):
    found = profile(capsys, net, "--mode", "infer")
    assert found["mode"] == "infer"
    assert {line["direction"] for line in found["lines"]} == {"forward", ""}
    assert "update" not in {line["layer"] for line in found["lines"]}
    assert all(len(line["times"]) == 2 for line in found["lines"])
    assert found["machine"]["numpy"]


def test_a_folded_normalisation_moves_nothing_of_its_own(capsys):
    training, inference = (profile(capsys, "resnet8", "--mode", mode)["lines"] for mode in ("train", "infer"))
    moved = [
        {line["layer"]: line["bytes"] for line in lines if line["direction"] == "forward"}
        for lines in (training, inference)
    ]
    assert moved[0]["batchnorm1"] > moved[1]["batchnorm1"] == 0
    assert moved[1]["add1"] == moved[0]["add1"] > 0


def test_double_precision_moves_twice_the_bytes(net, capsys):
    single, double = (profile(capsys, net, "--precision", each) for each in ("float32", "float64"))
    moved = [
        {(line["layer"], line["direction"]): line["bytes"] for line in found["lines"] if line["bytes"]}
        for found in (single, double)
    ]
    # Pixels stay bytes.
    pixels = {("input and loss", ""): moved[0]["input and loss", ""] * 2 - moved[1]["input and loss", ""]}
    assert moved[1] == {place: 2 * count - pixels.get(place, 0) for place, count in moved[0].items()} != {}
    assert 0 < pixels["input and loss", ""] < moved[0]["input and loss", ""] / 4
    assert double["precision"] == "float64"


def test_algorithms_are_named_in_each_row_and_their_times_printed_once_a_shape(tmp_path, monkeypatch, capsys):
    path = tmp_path / "twice.toml"
    path.write_text(
        'name = "twice"\ninput = [6, 6, 3]\nlayers = [\n'
        + '{type = "Conv2D", filters = 3, kernel = 3, padding = 1, activation = "relu"},\n' * 2
        + '{type = "Flatten"}, {type = "Linear", units = 2}]\n'
    )
    convolution = Convolution(Window((6, 6), (3, 3), padding=(1, 1, 1, 1)), 3, 3)
    own, near = (str(Problem("forward", convolution, images, 1)) for images in (2, 3))
    choices = {own: AlgorithmChoice("direct", near, {"im2col": 0.002, "direct": 0.001})}
    for each, fastest in (("weight gradient", "winograd4"), ("data gradient", "im2col")):
        text = str(Problem(each, convolution, 2, 1))
        choices[text] = AlgorithmChoice(fastest, text, {})
    monkeypatch.setattr(Instruments, "algorithms", lambda self: choices)
    found = profile(capsys, str(path))
    names = {(line["layer"], line["direction"]): line["algorithm"] for line in found["lines"]}
    assert names["conv1", "forward"] == names["conv2", "forward"] == "direct"
    assert names["conv2", "backward"] == "winograd4 + im2col"
    assert names["linear1", "forward"] is None
    assert found["algorithms"] == {near: {"im2col": 0.002, "direct": 0.001}}
    assert main(["profile", str(path), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "times in ms by which the algorithms were chosen, of 3 images" in printed
    assert re.findall("^conv. .*forward +2.00 .*$", printed, re.MULTILINE) == [
        "conv1 and 1 more     forward    2.00    1.00"
    ]


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ([1.0, 1.1, 0.9, 1.0, 1.05] * 4, [0.7, 0.72, 0.68, 0.7] * 5, "faster"),
        ([0.7, 0.72, 0.68, 0.7] * 5, [1.0, 1.1, 0.9, 1.0, 1.05] * 4, "slower"),
        ([1.0, 1.4, 0.7, 1.1] * 5, [1.05, 1.3, 0.8, 1.0] * 5, ""),
        ([1.0], [1.0], ""),
    ],
)
def test_a_change_is_called_one_only_beyond_the_spread(old, new, verdict):
    found = change(old, new)
    assert found.low <= found.ratio <= found.high
    assert found.verdict == verdict
    assert found.text().startswith(f"{(found.ratio - 1) * 100:+.1f} % (")


def test_a_profile_against_an_earlier_one(net, tmp_path, capsys):
    old = profile(capsys, net)
    for line in old["lines"]:
        line["times"] = [seconds * 1000 for seconds in line["times"]]
    old |= {"version": "0.0.1", "busy": None}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    new = profile(capsys, net, "--against", str(path))
    assert [each["layer"] for each in new["changes"]] == ["a whole step", *(line["layer"] for line in new["lines"])]
    layers = new["changes"][1:]
    assert all(each["ratio"] < 0.1 for each in layers)
    assert {each["verdict"] for each in layers} == ({None} if new["busy"] else {"faster"})
    assert main(["profile", net, *QUICK, "--against", str(path)]) == 0
    out = capsys.readouterr().out
    assert "0.0.1 then, 0.1.0 now" in out
    assert "95 % certain" in out


@pytest.mark.parametrize(
    ("edit", "code", "message"),
    [
        (lambda old: old | {"batch_size": 3}, 2, "has batch size 3, this measurement 2"),
        (lambda old: old | {"mode": "infer"}, 2, "has mode infer, this measurement train"),
        (lambda old: {"lines": []}, 1, "is not an output of cnn profile --json"),
        (lambda old: old | {"step_times": []}, 1, "has no times of the single runs"),
        (lambda old: old | {"step_times": ["x"]}, 1, "has no times of the single runs"),
    ],
)
def test_what_cannot_be_compared_is_refused(edit, code, message, net, tmp_path, capsys):
    old = {"model": "tiny", "batch_size": 2, "mode": "train", "precision": "float32", "lines": [], "step_times": [1.0]}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(edit(old)))
    assert main(["profile", net, *QUICK, "--against", str(path)]) == code
    assert message in capsys.readouterr().err


def test_an_earlier_profile_that_is_no_json_is_refused(net, tmp_path, capsys):
    path = tmp_path / "old.json"
    path.write_text("{")
    assert main(["profile", net, *QUICK, "--against", str(path)]) == 1
    assert "cannot be read as JSON" in capsys.readouterr().err


@pytest.mark.parametrize("training", [True, False])
def test_the_layers_of_a_traced_lenet_step_add_up_to_it(backend, training):
    trace = trace_step(architecture("lenet"), backend, 64, training=training)
    step = trace.step.end - trace.step.begin
    assert trace.seconds(LAYERS) == pytest.approx(step, rel=0.05)
    assert trace.seconds(PHASES) == pytest.approx(step, rel=0.05)
    layers = [each for each in trace.slices if each.track == LAYERS]
    directions = {each.known.get("direction") for each in layers} - {None, ""}
    assert directions == ({"forward", "backward"} if training else {"forward"})
    kernels = [each for each in trace.slices if each.track == KERNELS]
    assert len(kernels) > 5
    # On one clock: each kernel lies within the step, and nearly all within a layer.
    assert all(trace.step.begin <= each.begin <= each.end <= trace.step.end for each in kernels)
    inside = [any(one.begin <= each.begin and each.end <= one.end for one in layers) for each in kernels]
    assert sum(inside) >= 0.9 * len(inside)


def test_a_trace_is_what_perfetto_reads(net, tmp_path, capsys):
    path, drawing = tmp_path / "trace.json", tmp_path / "roof.svg"
    assert main(["profile", net, *QUICK, "--trace", str(path), "--roofline", str(drawing)]) == 0
    assert "traced into" in capsys.readouterr().out
    found = json.loads(path.read_text())
    slices = [event for event in found["traceEvents"] if event["ph"] == "X"]
    names = {event["tid"]: event["args"]["name"] for event in found["traceEvents"] if event["name"] == "thread_name"}
    assert names[LAYERS] == "layers"
    assert {event["tid"] for event in slices} <= set(names)
    assert min(event["ts"] for event in slices) == 0
    assert {"step", "conv1 forward", "linear1 backward", "update"} <= {event["name"] for event in slices}
    assert any(event["tid"] >= THREADS for event in slices) or "not shown" in found["otherData"]["threads_are"]
    assert found["otherData"]["model"] == "tiny"
    root = ElementTree.fromstring(drawing.read_text())
    assert root.attrib["role"] == "img"
    assert "GFLOP/s" in "".join(root.itertext())


def test_counters_count_or_say_why_not():
    missing = {}
    try:
        with Counters({"clock": (Event(SOFTWARE, 1),)}) as counters:
            before = counters.read()["clock"]
            sum(range(200_000))
            assert counters.read()["clock"] > before >= 0
    except CountersUnavailable as error:
        missing = error.missing
    assert all(name == "clock" and reason for name, reason in missing.items())
    with pytest.raises(CountersUnavailable) as caught:
        Counters({"nothing": (Event(99, 99),)})
    assert set(caught.value.missing) == {"nothing"}


class Steps:
    """Stands for counters that count 7 at each reading."""

    def __init__(self):
        self.count = 0

    def read(self):
        self.count += 7
        return {"cycles": float(self.count)}


def test_counts_are_those_of_each_layer(net):
    found = layer_counts(architecture(net), create("numpy"), 2, Steps(), repeats=2, training=True)
    assert set(found) == {
        (layer, direction) for layer in ("conv1", "flatten1", "linear1") for direction in ("forward", "backward")
    }
    assert all(counts == {"cycles": 7} for counts in found.values())


class ThreeWatts(Meter):
    """Measures three watts."""

    kind = "measured"
    source = "a test"

    def stop(self, images, seconds):
        return Energy(3 * seconds, self.kind, self.source)


def test_joules_by_layer_are_modelled_or_measured_and_say_which(net, monkeypatch, tmp_path):
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path))
    described, backend = architecture(net), create("numpy")
    seconds = {(line.layer, line.direction): line.seconds for line in profile_step(described, backend, 2, repeats=1)}
    given = (described, backend, 2, 1, seconds)
    modelled = layer_energy(*given, training=True, watts=50)
    assert modelled.kind == "modelled"
    assert modelled.joules == {place: pytest.approx(50 * each) for place, each in seconds.items()}
    nothing = layer_energy(*given, training=True)
    assert (nothing.kind, nothing.joules) == ("unavailable", {})
    assert "no calibration with watts" in nothing.source
    monkeypatch.setattr(by_layer, "open_meter", lambda parts: ThreeWatts())
    monkeypatch.setattr(by_layer, "STRETCH", 0.01)
    measured = layer_energy(*given, training=False, measure=True)
    assert measured.kind == "measured"
    assert set(measured.joules) == {(layer, "forward") for layer in ("conv1", "flatten1", "linear1")}
    assert 0 < measured.joules["conv1", "forward"] < 1


def test_the_counters_are_printed_by_layer_where_there_are_any(net, monkeypatch, capsys):
    class Counting(Steps):
        def __init__(self):
            super().__init__()
            self.missing = {"flops": "a test has none"}

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr("cnn.commands.profile.Counters", Counting)
    assert main(["profile", net, *QUICK]) == 0
    out = capsys.readouterr().out
    assert "counted by the processor in one step" in out
    assert "flops: unavailable, because a test has none" in out
