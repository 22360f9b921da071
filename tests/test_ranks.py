"""`cnn bench --ranks`: the launched command, its table, and the model's predictions from planted times."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.readmes import documented

import cnn.commands._ranks as ranks
from cnn.cli import main
from cnn.cost import gradient_bytes
from cnn.distributed.steps import Timed, TimedSteps
from cnn.energy.scaling import BUCKET_BYTES, RESULT_BYTES
from cnn.model.zoo import architecture
from cnn.training.gradients import BUCKET

ROOT = Path(__file__).parent.parent


def test_two_ranks_are_launched_and_timed_beside_one(capsys):
    asked = ["--ranks", "1,2", "mlp", "--batch-size", "6", "--rounds", "2", "--threads", "1"]
    assert main(["bench", *asked, "--backend", "numpy", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    rows = table["results"]
    keys = [("weak", 1, 6), ("weak", 2, 12), ("strong", 1, 6), ("strong", 2, 6)]
    assert [(row["scaling"], row["ranks"], row["batch_size"]) for row in rows] == keys
    for row in rows:
        assert (row["model"], row["threads"]) == ("mlp", 1)
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])
        assert row["compute"] + row["exposed"] == pytest.approx(row["seconds"])
        assert row["hidden"] + row["exposed"] == pytest.approx(row["communication"])
        if row["ranks"] == 1:
            assert (row["communication"], row["predicted"], row["efficiency"]) == (0, None, 1)
        else:
            assert row["communication"] > 0
            assert row["error"] == pytest.approx(row["predicted"]["value"] / row["seconds"] - 1)
    # On one host the cores copy.
    assert table["link"]["overlap"]["value"] == 0
    assert table["link"]["gbs"]["confidence"] == "measured"
    assert "2 ranks on 1 host" in table["launches"]["2"]["world"]
    assert set(table) == documented()["cnn bench --ranks"]


# The launch and the table's numbers are planted below the command, because real launches have other times.
SIZES = gradient_bytes(architecture("mlp"))


def planted(count, net="mlp"):
    """A launch whose layers took 1, 2 and 4 ms in the order of the backward pass, and the update 8."""
    layers = dict(zip(reversed(SIZES), (1e-3, 2e-3, 4e-3), strict=True))
    steps = TimedSteps(net, 8 * count, layers, 8e-3, 20e-3, 3e-3, 1e-3, [20e-3])
    return Timed(count, 1, 1, "a library", {}, 1e-15, 10e-6, 1e-9, [steps])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_model_of_planted_times_by_hand(count):
    """Copies by the cores hide behind nothing: the sums are added to 15 ms."""
    timed = planted(count)
    row = ranks._row("mlp", SIZES, timed, 8 * count, ranks._link(timed))
    assert (row["compute"], row["hidden"]) == pytest.approx((19e-3, 2e-3))
    if count == 1:
        assert row["predicted"] is None
        return
    packed, rest = [], 0
    for size in reversed(SIZES.values()):
        rest += size
        if rest >= BUCKET_BYTES:
            packed, rest = [*packed, rest], 0
    sums = [size for size in (*packed, rest) if size]
    assert sum(sums) == sum(SIZES.values())
    # alphas and betas of the best: doubling for the short one, for long ones halving or, of 3, the ring.
    short = {2: (1, 1), 3: (3, 3), 4: (2, 2)}[count]
    long = {2: (2, 1), 3: (4, 4 / 3), 4: (4, 3 / 2)}[count]
    wanted = 15e-3 + short[0] * 10e-6 + short[1] * RESULT_BYTES * 1e-9
    wanted += sum(min(a * 10e-6 + b * size * 1e-9 for a, b in (short, long)) for size in sums)
    assert row["predicted"]["value"] == pytest.approx(wanted)
    assert row["error"] == pytest.approx(wanted / 20e-3 - 1)


def test_the_model_cuts_gradients_as_training_does():
    assert BUCKET_BYTES == BUCKET


def test_efficiency_is_by_thread(monkeypatch, capsys):
    """One rank of 2 threads and two of 1 that are equally fast have the same result."""
    launches = iter([planted(1), planted(2)])
    found = {}

    def launch(words, request):
        timed = next(launches)
        found[timed.ranks] = words, request
        steps = [
            TimedSteps("mlp", batch, timed.steps[0].layers, 0, batch * 1e-3, 0, 0, [batch * 1e-3])
            for batch in request.batches
        ]
        return Timed(**(vars(timed) | {"threads": 2 // timed.ranks, "steps": steps, "add": 1e-10}))

    monkeypatch.setattr(ranks, "_launch", launch)
    assert main(["bench", "mlp", "--ranks", "1,2", "--batch-size", "8", "--mpiexec", "env A=1", "--json"]) == 0
    assert [row["efficiency"] for row in json.loads(capsys.readouterr().out)["results"]] == [1, 1, 1, 1]
    assert found[2][0][1:] == ["A=1", "-n", "2"]
    assert found[2][1].batches == [16, 8]
    assert found[1][1].batches == [8]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--mpiexec", "no-such-launcher"], 1, "--ranks starts no-such-launcher, which was not found"),
        (["--mpiexec", "false"], 1, "failed with exit code 1: it printed nothing"),
        (["--batch-size", "1"], 2, "A batch of 1 image is too small for 2 ranks"),
        (["--threads", "1,2"], 2, "--ranks takes one number for --threads"),
        (["--ranks", "0"], 2, "not a whole number of at least 1"),
        (["no-such-net"], 2, "There is no architecture"),
    ],
)
def test_what_cannot_be_launched_is_refused_in_one_sentence(arguments, code, message, capsys):
    assert main(["bench", "--ranks", "2", "--backend", "numpy", "--rounds", "1", *arguments]) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_without_mpi4py_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(ranks, "find_spec", lambda name: None)
    assert main(["bench", "--ranks", "1,2"]) == 1
    assert "--ranks needs mpi4py, which is missing: pip install 'cnn-blas[mpi]'" in capsys.readouterr().err


def test_the_script_of_the_slow_link_says_what_it_needs(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "bench/slow_link.py"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    # With an empty PATH root lacks ip; other users are not root.
    assert re.fullmatch(r"slow_link.py needs (root|ip), .*\n", done.stderr)
