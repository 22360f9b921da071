"""`cnn tune`: on a backend whose speed follows from its options, and once on each real one."""

import json
import signal
import tomllib
from functools import wraps
from typing import Annotated, Any, ClassVar, Literal

import pytest
from helpers.ready_backends import ready

from cnn import plugins
from cnn.backend import Library
from cnn.cli import main
from cnn.errors import BackendUnavailable
from cnn.instruments import Instruments
from cnn.measure import tuning
from cnn.system.threads import budget

Numpy: Any = plugins.load(plugins.BACKENDS, "numpy")


class Paced(Numpy):
    """A backend whose options determine the time of each product, on its own clock."""

    name: ClassVar[str] = "paced"
    now: ClassVar[float] = 0.0

    def __init__(
        self,
        *,
        mode: Annotated[Literal["slow", "fast", "absent"], "how to go about it"] = "slow",
        shares: Annotated[tuple[float, ...] | None, "a share for each core"] = None,
        secret: Annotated[int, "not to be tried"] = 0,
    ) -> None:
        if mode == "absent":
            raise BackendUnavailable("there is no such mode here")
        self.library = Library("paced", "1", remark="by no real clock")
        self.cost = (0.02 if mode == "fast" else 0.03) * (1.0 if shares is None else 0.9 + abs(shares[0] - 0.5))

    @property
    def instruments(self):
        return PacedInstruments(self)

    def gemm(self, a, b, **settings):
        Paced.now += self.cost
        super().gemm(a, b, **settings)


class PacedInstruments(Instruments):
    """With candidates, of which one cannot run."""

    def option_candidates(self):
        return {"mode": ["slow", "fast", "absent"], "shares": [None, (0.25,), (0.5,), (1.0,)]}


@pytest.fixture
def paced(register_backend, monkeypatch):
    """The backend `paced`, registered beside the others, with its clock as the tuner's."""
    register_backend(Paced)
    monkeypatch.setattr("cnn.system.timing.perf_counter", lambda: Paced.now)


@pytest.fixture
def tune(net, tmp_path):
    """Runs the command on the tiny network; returns its exit code and the table that it wrote, if any."""
    out = tmp_path / "tuned.toml"

    def run(*words):
        code = main(["tune", net, "--threads", "1", "--rounds", "6", "--out", str(out), *words])
        return code, tomllib.loads(out.read_text()) if out.exists() else None

    run.out = out
    return run


def test_it_finds_writes_and_says_what_is_fastest(paced, net, tune, capsys):
    code, table = tune("--backend", "paced")
    assert code == 0
    assert table == {
        "backend": "paced",
        "threads": 1,
        "model": net,
        "backend_options": {"mode": "fast", "shares": [0.5]},
    }
    assert all("by no real clock" in text for text in (tune.out.read_text(), capsys.readouterr().out))


def test_it_prints_what_was_tried_and_what_it_bought(paced, tune, capsys):
    tune("--backend", "paced")
    printed = capsys.readouterr().out
    # A training step of the network has 5 products: 64 images in 0.15, 0.1, and 0.09 s.
    for words in (
        "start    threads 1, batch_size 64, mode slow, shares default",
        "the batch size stays the recipe's; --batch-sizes tries others, which change training itself",
        "mode slow -> fast: 427 -> 640 images/s, 1.50 times as fast (1.50 to 1.50)",
        "shares default -> 0.5: 640 -> 711 images/s, 1.11 times as fast (1.11 to 1.11)",
        "mode stays fast: with slow 711 -> 474 images/s, 0.67 times as fast (0.67 to 0.67)",
        "in all: 427 -> 711 images/s, 1.67 times as fast (1.67 to 1.67)",
        f"cnn train --config {tune.out}",
    ):
        assert words in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["mode", "slow", "427", "1.00", "in", "force"] in rows
    assert ["fast", "640", "1.50", "chosen"] in rows
    assert "absent         -      -  there is no such mode here" in printed


def test_training_takes_what_it_wrote(paced, tune, tmp_path, capsys):
    _, table = tune("--backend", "paced")
    run = tmp_path / "run"
    assert main(["train", "--model", "mlp", "--epochs", "1", "--config", str(tune.out), "--out", str(run)]) == 0
    settings = json.loads((run / "settings.json").read_text())["options"]
    assert settings["backend_options"] == table["backend_options"]
    assert (settings["backend"], settings.get("batch_size"), settings["model"]) == ("paced", None, "mlp")


def test_options_given_are_left_alone(paced, tune):
    _, table = tune("--backend", "paced", "--backend-option", "mode=slow", "--backend-option", "secret=3")
    assert table["backend_options"] == {"shares": [0.5], "secret": 3}


def test_the_batch_size_of_training_only_where_asked(paced, tune, capsys):
    _, table = tune("--backend", "paced", "--batch-sizes", "8,128")
    # The products of this backend take no longer for more images.
    assert table["batch_size"] == 128
    assert "another batch size changes training itself; compare the accuracy" in capsys.readouterr().out


def test_the_batch_size_of_inference_is_for_eval_only(paced, tune, capsys):
    _, table = tune("--backend", "paced", "--mode", "infer")
    assert table["eval"] == {"batch_size": 512}
    assert "batch_size" not in table
    assert "model" not in table
    assert f"cnn eval --config {tune.out}" in capsys.readouterr().out


def test_threads_that_are_fastest(paced, tune, monkeypatch):
    tried = sorted({1, budget().count})

    def gemm(self, a, b, **settings):
        Paced.now += 0.1 if running[-1] == tried[-1] else 0.01
        Numpy.gemm(self, a, b, **settings)

    running, limit_threads = [], tuning.limit_threads

    def noted(threads):
        running.append(threads)
        return limit_threads(threads)

    monkeypatch.setattr(Paced, "gemm", gemm)
    monkeypatch.setattr(tuning, "limit_threads", noted)
    _, table = tune("--backend", "paced", "--threads", ",".join(map(str, tried)))
    assert table["threads"] == 1
    assert set(running) == set(tried)


def test_json(paced, tune, capsys):
    assert tune("--backend", "paced", "--json")[0] == 0
    result = json.loads(capsys.readouterr().out)
    assert result["start"] == {"threads": 1, "batch_size": 64, "options": {"mode": "slow", "shares": None}}
    assert result["setting"]["options"] == {"mode": "fast", "shares": [0.5]}
    assert result["gain"]["ratio"] == pytest.approx(5 / 3)
    first = result["findings"][0]
    assert (first["name"], first["before"], first["value"]) == ("mode", "slow", "fast")
    assert [trial["value"] for trial in first["trials"]] == ["fast", "absent"]
    assert result["file"] == str(tune.out)


def test_a_file_that_is_there_is_kept_and_nothing_measured(paced, tune, capsys):
    tune.out.write_text("threads = 3\n")
    before = Paced.now
    assert tune("--backend", "paced") == (2, {"threads": 3})
    assert "exists already; remove it, or choose another --out" in capsys.readouterr().err
    assert Paced.now == before


def test_each_run_without_out_writes_a_file_of_its_own(paced, net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["tune", net, "--backend", "paced", "--threads", "1", "--rounds", "6"]
    assert [main([*words, "--backend-option", f"mode={mode}"]) for mode in ("fast", "slow")] == [0, 0]
    files = [tmp_path / name for name in ("tuned-tiny-paced-train.toml", "tuned-tiny-paced-train-2.toml")]
    found = [tomllib.loads(file.read_text())["backend_options"].get("mode", "slow") for file in files]
    assert found == ["fast", "slow"]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_stopped_it_writes_what_it_found(paced, tune, monkeypatch, capsys, number, name):
    made = Paced.__init__

    @wraps(made)
    def stop_at_shares(self, *, shares=None, **options):
        if shares is not None:
            signal.raise_signal(number)
        made(self, shares=shares, **options)

    monkeypatch.setattr(Paced, "__init__", stop_at_shares)
    code, table = tune("--backend", "paced")
    assert code == 130
    assert table["backend_options"] == {"mode": "fast"}
    error = capsys.readouterr().err
    assert error == f"cnn: Stopped by {name}; what was found so far is in {tune.out}.\n"


def test_stopped_at_once_it_writes_nothing(paced, tune, monkeypatch, capsys):
    turn = tuning.Contender.turn

    def stop(self):
        signal.raise_signal(signal.SIGINT)
        return turn(self)

    monkeypatch.setattr(tuning.Contender, "turn", stop)
    assert tune("--backend", "paced") == (130, None)
    assert capsys.readouterr().err == "cnn: Stopped by Ctrl-C; nothing was written.\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "5"], "5 rounds cannot tell a gain from noise"),
        (["--threads", "100000"], "cannot be measured here"),
        (["--batch-sizes", "8,none"], "'none' is not a whole number"),
        (["--mode", "sleep"], "invalid choice: 'sleep'"),
        (["--backend-option", "speed=1"], "Backend 'paced' has no setting 'speed'"),
    ],
)
def test_mistakes(paced, tune, capsys, words, message):
    assert tune("--backend", "paced", *words) == (2, None)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("name", ["mkl", "openblas", "numpy"])
def test_real_backends(tune, monkeypatch, capsys, name, mode):
    ready(name)
    monkeypatch.setattr(tuning, "TURN", 0.002)
    code, table = tune("--backend", name, "--mode", mode)
    assert code == 0
    assert (table["backend"], table["threads"]) == (name, 1)
    printed = capsys.readouterr().out
    assert printed.count("131072") >= (name != "numpy")
    assert ("tile_bytes" in printed) == (name != "numpy")
    assert main(["profile", "mlp", "--repeats", "1", "--config", str(tune.out)]) == 0
