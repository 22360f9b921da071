"""The model of training on many nodes against sums done by hand, and the curves of `cnn compare --nodes`."""

import csv
import io
import json
import re

import numpy as np
import pytest

from cnn.cli import main
from cnn.cost import count, gradient_bytes
from cnn.energy.devices import Quantity, catalogue
from cnn.energy.links import Link, links
from cnn.energy.model import predict
from cnn.energy.prediction import DRAWS
from cnn.energy.scaling import (
    BUCKET_BYTES,
    RESULT_BYTES,
    Fabric,
    StepTime,
    buckets,
    curve,
    exposed_seconds,
    scaled,
    share,
    step_of,
)
from cnn.errors import FileFormatError, UsageError
from cnn.model.zoo import SMALL, architecture

NODE = catalogue()["2x-e5-2620v3"]


def exactly(value):
    return Quantity(value, value, value, "read", "by hand")


def a_link(latency_us=10.0, gbs=1.0, overlap=1.0):
    return Link("hand", "By hand", exactly(latency_us), exactly(gbs), exactly(overlap))


def draws(value):
    return np.full(1 + DRAWS, float(value))


def a_step(forward=1.0, backward=((BUCKET_BYTES, 1.0),), update=0.5, **watts):
    # Infinitely fast memory leaves only latency and bandwidth.
    layers = tuple((size, draws(seconds)) for size, seconds in backward)
    known = {name: draws(value) for name, value in watts.items()}
    return StepTime(draws(forward), layers, draws(update), draws(np.inf), **known)


@pytest.mark.parametrize(
    ("nodes", "alphas", "betas", "gammas"),
    [
        # Long messages: halving and doubling on powers of two, the ring where others would have to fold.
        (2, 2, 1, 1 / 2),
        (4, 4, 3 / 2, 3 / 4),
        (1024, 20, 2 * 1023 / 1024, 1023 / 1024),
        (3, 4, 4 / 3, 2 / 3),
    ],
)
def test_an_allreduce_of_a_long_message_by_hand(nodes, alphas, betas, gammas):
    size, gamma = 1 << 30, 1e-10
    seconds = Fabric(a_link()).allreduce(size, nodes, gamma)[0]
    assert seconds == pytest.approx(alphas * 10e-6 + betas * size * 1e-9 + gammas * size * gamma)


@pytest.mark.parametrize(("nodes", "alphas", "betas"), [(2, 1, 1), (8, 3, 3), (1024, 10, 10), (5, 2 + 2, 2 + 2)])
def test_a_short_one_is_doubled_up_with_the_least_latency(nodes, alphas, betas):
    assert Fabric(a_link()).allreduce(4, nodes, 0.0)[0] == pytest.approx(alphas * 10e-6 + betas * 4e-9)


def test_an_allreduce_takes_longer_the_more_nodes_bytes_and_latency_there_are():
    powers = [2**k for k in range(11)]
    for size in (4, 1 << 12, 1 << 24):
        seconds = [Fabric(a_link()).allreduce(size, nodes, 1e-10)[0] for nodes in powers]
        assert seconds[0] == 0
        assert seconds == sorted(set(seconds))
    for nodes in range(2, 70):
        times = [Fabric(a_link()).allreduce(size, nodes, 1e-10)[0] for size in (0, 1, 100, 10**4, 10**6, 10**9)]
        assert times == sorted(set(times))
        assert times[3] < Fabric(a_link(latency_us=11)).allreduce(10**4, nodes, 1e-10)[0]
        assert times[3] < Fabric(a_link(gbs=0.9)).allreduce(10**4, nodes, 1e-10)[0]


def test_transfers_wait_for_their_gradients_and_for_one_another():
    # Ready at 1 and 2, of 3 and 1 s: they run from 1 to 4 and 4 to 5; what was computed at 4.5 waits for 0.5.
    late = [(draws(1), draws(3)), (draws(2), draws(1))]
    assert exposed_seconds(late, draws(4.5))[0] == pytest.approx(0.5)
    assert exposed_seconds(late, draws(6))[0] == 0
    # With a gap between: 1 to 1.5, then 2 to 3.
    assert exposed_seconds([(draws(1), draws(0.5)), (draws(2), draws(1))], draws(2))[0] == pytest.approx(1)
    assert exposed_seconds([], draws(2))[0] == 0


def test_buckets_fill_up_in_the_order_of_the_backward_pass():
    step = a_step(1.0, ((60, 1.0), (0, 2.0), (50, 4.0), (200, 8.0), (30, 16.0)))
    assert [(size, ready[0]) for size, ready in buckets(step, 100)] == [(110, 8), (200, 16), (30, 32)]
    assert [(size, ready[0]) for size, ready in buckets(step, 1000)] == [(340, 32)]
    assert buckets(a_step(backward=((0, 1.0),)), 100) == []


def test_one_node_does_not_communicate():
    found = scaled(a_step(joules=100.0, idle=10.0), a_link(overlap=0.0), 1, 64)
    assert (found.communication.value, found.exposed.value, found.efficiency.value) == (0, 0, 1)
    assert found.seconds.value == 2.5
    assert found.images_per_joule.value == pytest.approx(64 / 100)


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_a_step_and_its_energy_by_hand(nodes):
    """A gradient that is ready at the end, and one that is hidden behind 5 s of computing."""
    size = 1 << 30
    step = a_step(1.0, ((size, 1.0), (size, 5.0)), 0.5, joules=100.0, idle=10.0)
    transfer, result = (Fabric(a_link()).allreduce(each, nodes, 0.0)[0] for each in (size, RESULT_BYTES))
    assert transfer < 5
    found = scaled(step, a_link(), nodes, 64 * nodes, draws(64 / 7.5))
    exposed = transfer + result
    assert found.communication.value == pytest.approx(2 * transfer + result)
    assert found.exposed.value == pytest.approx(exposed)
    assert found.seconds.value == pytest.approx(7.5 + exposed)
    assert found.efficiency.value == pytest.approx(7.5 / (7.5 + exposed))
    assert found.images_per_joule.value == pytest.approx(64 / (100 + 10 * exposed))


def test_what_of_a_transfer_is_the_cores_own_work_hides_behind_nothing():
    size = 1 << 30
    step = a_step(1.0, ((size, 1.0), (0, 50.0)))
    transfer, result = (Fabric(a_link()).allreduce(each, 2, 0.0)[0] for each in (size, RESULT_BYTES))
    exposed = [scaled(step, a_link(overlap=each), 2, 128).exposed.value for each in (1.0, 0.75, 0.0)]
    assert exposed == pytest.approx([result, transfer / 4 + result, transfer + result])


def test_an_unknown_overlap_is_anything_and_widens_the_interval():
    link = Link("hand", "By hand", exactly(10.0), exactly(1.0))
    found = scaled(a_step(1.0, ((1 << 30, 1.0), (0, 50.0))), link, 2, 128)
    assert found.exposed.value == pytest.approx(Fabric(link).allreduce(RESULT_BYTES, 2, 0.0)[0])
    assert found.exposed.high > 0.9 * found.communication.value
    assert found.seconds.low < found.seconds.high


@pytest.mark.parametrize("name", SMALL)
def test_a_predicted_step_is_taken_apart_without_loss(name):
    net = architecture(name)
    gradients = gradient_bytes(net)
    assert sum(gradients.values()) == 4 * net.build(backend="numpy").parameter_count()
    prediction = predict(count(net, 16, training=True), NODE)
    step = step_of(prediction, gradients, NODE.stream_gbs)
    assert step.seconds[0] == pytest.approx(prediction.seconds.value)
    assert step.joules[0] == pytest.approx(prediction.joules.value)
    assert sum(size for size, _ in buckets(step)) == sum(gradients.values())
    assert buckets(step)[-1][1][0] <= step.gradients[0] * (1 + 1e-12)
    # The last layer's gradients come first.
    assert [size for size, _ in step.backward if size] == list(reversed(gradients.values()))


def test_shares_of_a_batch():
    assert [share(64, nodes) for nodes in (1, 3, 64)] == [64, 22, 1]
    with pytest.raises(UsageError, match="64 images is too small for 65 nodes"):
        share(64, 65)


def step_at(batch):
    return step_of(predict(count(architecture("vgg6"), batch, training=True), NODE), {}, NODE.stream_gbs)


def test_without_gradients_weak_scaling_is_perfect_and_strong_loses_to_small_products_only():
    weak = curve(step_at, a_link(), (1, 7, 1024), 64, weak=True)
    # Except for the loss, which is summed over all.
    results = [Fabric(a_link()).allreduce(RESULT_BYTES, nodes, 0.0)[0] for nodes in (1, 7, 1024)]
    assert [point.exposed.value for point in weak] == pytest.approx(results, rel=1e-3)
    assert [point.batch for point in weak] == [64, 448, 65536]
    strong = curve(step_at, a_link(), (1, 4, 64), 64, weak=False)
    assert [point.batch for point in strong] == [64, 64, 64]
    efficiency = [point.efficiency.value for point in strong]
    assert efficiency == sorted(efficiency, reverse=True)
    assert strong[-1].compute.value == pytest.approx(step_at(1).seconds[0])
    with pytest.raises(UsageError, match="is too small"):
        curve(step_at, a_link(), (128,), 64, weak=False)


def test_every_link_has_a_source_and_costs_something():
    known = links()
    assert known.keys() >= {"ethernet-1g", "ethernet-10g", "infiniband-fdr", "pcie"}
    for link in known.values():
        for quantity in link.quantities().values():
            assert quantity.low <= quantity.value <= quantity.high
            assert quantity.source
    order = [known[key].gbs.value for key in ("ethernet-1g", "ethernet-10g", "infiniband-fdr")]
    assert order == sorted(order)


READ = "confidence = 'read', source = 'x'"
FIGURES = f"latency_us = {{value = 1, {READ}}}\ngbs = {{value = 2, {READ}}}"


def test_a_file_of_ones_own_adds_links(tmp_path, capsys):
    own = tmp_path / "own.toml"
    own.write_text(f"[mine]\nname = 'Mine'\n{FIGURES}\noverlap = {{low = 0.5, high = 1, {READ}}}\n")
    asked = ["--links", str(own), "--link", "mine,ethernet-1g", "--nodes", "1,2", "--json"]
    assert main(["compare", "mlp", "--no-measure", *asked]) == 0
    rows = json.loads(capsys.readouterr().out)["scaling"]
    assert [(row["link"], row["nodes"]) for row in rows] == [
        ("mine", 1), ("mine", 2), ("ethernet-1g", 1), ("ethernet-1g", 2),
    ]  # fmt: skip
    assert "ethernet-1g.overlap" in rows[-1]["unverified"]
    assert "overlap" not in rows[0]["unverified"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[a]\nname = 'A'\n", UsageError, "needs a name, latency_us and gbs"),
        (f"[a]\n{FIGURES}\n", UsageError, "needs a name"),
        (f"[a]\nname = 'A'\ncolour = 1\n{FIGURES}\n", UsageError, "not \\['colour'\\]"),
        (f"[a]\nname = 3\n{FIGURES}\n", UsageError, "takes name"),
        (f"[a]\nname = 'A'\n{FIGURES.replace('value = 2', 'value = 0')}\n", UsageError, "gbs must be above 0"),
        (
            f"[a]\nname = 'A'\n{FIGURES}\noverlap = {{value = 2, {READ}}}",
            UsageError,
            "share",
        ),
        ("a = 1\n", UsageError, "must be a table"),
        ("[a\n", FileFormatError, "TOML"),
    ],
)
def test_a_file_that_holds_no_link_is_refused(text, error, message, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(error, match=message):
        links(own)


def test_the_command_writes_the_same_curves_everywhere(tmp_path, capsys):
    files = [tmp_path / name for name in ("a.csv", "a.html", "a.png")]
    options = [text for file in files for text in (f"--{file.suffix[1:]}", str(file))]
    asked = ["--no-measure", "--device", "2x-e5-2620v3,xeon-phi-5110p@2x-e5-2620v3", "--nodes", "1,2,4,...,1024"]
    assert main(["compare", "lenet", "--json", *asked, *options]) == 0
    rows = json.loads(capsys.readouterr().out)["scaling"]
    assert len(rows) == 2 * 3 * 11
    assert [row["nodes"] for row in rows[:11]] == [2**k for k in range(11)]
    assert {row["scaling"] for row in rows} == {"weak"}
    for row in rows:
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert row["seconds"] == pytest.approx(row["compute"] + row["exposed"])
        assert row["images_per_joule_low"] <= row["images_per_joule"] <= row["images_per_joule_high"]
        assert row["indicative"]
    lines = [line for line in csv.DictReader(io.StringIO(files[0].read_text())) if line["table"] == "scaling"]
    assert [(line["link"], int(line["nodes"]), float(line["seconds"])) for line in lines] == [
        (row["link"], row["nodes"], row["seconds"]) for row in rows
    ]
    page = files[1].read_text()
    assert "offloaded to by" in page
    assert page.count("weak scaling, 64 images per node, predicted") == 2
    charts = re.findall(r'<svg class="chart"[^>]*aria-label="([^;"]*);[^"]*weak scaling', page)
    assert charts == ["images/s", "efficiency", "images/J"] * 2
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_strong_scaling_leaves_out_more_nodes_than_images(capsys):
    asked = ["--no-measure", "--link", "infiniband-fdr", "--scaling", "strong", "--batch-size", "4"]
    assert main(["compare", "mlp", *asked, "--nodes", "1,3,4,8,16"]) == 0
    out = capsys.readouterr().out
    assert "strong scaling, 4 images in all, predicted" in out
    assert "no row for 8, 16 nodes: a batch of 4 images is too small for them" in out
    assert "the energy of NICs and switches is unknown" in out
    assert main(["compare", "mlp", *asked, "--nodes", "8"]) == 2
    assert "is too small for 8 nodes" in capsys.readouterr().err


def test_without_nodes_nothing_is_said_of_them(tmp_path, capsys):
    file = tmp_path / "a.csv"
    assert main(["compare", "mlp", "--no-measure", "--json", "--csv", str(file)]) == 0
    assert "scaling" not in json.loads(capsys.readouterr().out)
    assert "nodes" not in file.read_text().partition("\n")[0]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("3", [3]), ("1,2,4,...,16", [1, 2, 4, 8, 16]), ("1,3,...,10", [1, 3, 9, 10]), ("2,3,...,6", [2, 3, 4, 5, 6])],
)
def test_three_dots_go_on_as_it_began(text, counts, capsys):
    assert main(["compare", "mlp", "--no-measure", "--link", "ethernet-1g", "--nodes", text, "--json"]) == 0
    assert [row["nodes"] for row in json.loads(capsys.readouterr().out)["scaling"]] == counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "1,0"], "not a whole number of at least 1"),
        (["--nodes", "2,1"], "must increase"),
        (["--nodes", "1,...,8"], "after at least two"),
        (["--nodes", "1,2,..."], "after at least two"),
        (["--nodes", "1,2", "--link", "string"], "There is no link 'string'; known are: ethernet-1g"),
        (["--nodes", "1,2", "--mode", "infer"], "--nodes predicts only training"),
        (["--nodes", "1,2", "--device", "e5-2650v2"], "stream_gbs unknown"),
        (["--nodes", "1,2", "--links", "/no/such.toml"], "There is no TOML file"),
        (["--link", "pcie"], "--link and --links need --nodes"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, capsys):
    assert main(["compare", "mlp", "--no-measure", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
