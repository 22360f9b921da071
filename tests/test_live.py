"""The live page of a run: what it shows, what it lets a page ask, and who is refused."""

import json
import re
import socket
import struct
from contextlib import closing, contextmanager
from copy import deepcopy
from http.client import HTTPConnection
from threading import Thread
from time import sleep

import numpy as np
import pytest
from helpers.chromium import Chromium, find_chromium

import cnn
from cnn.cli import main
from cnn.errors import CnnError, Interrupted
from cnn.meter import Energy
from cnn.report.live import POINTS, LiveView
from cnn.training.trainer import Callback

SETTINGS = {"dataset": "<data> & more", "batch_size": 10, "backend": "numpy"}


def trainer(tmp_path, images=60):
    """A run of small steps."""
    rng = np.random.default_rng(0)
    split = cnn.Split(rng.integers(0, 256, (images, 6, 6, 1), np.uint8), rng.integers(0, 3, images))
    layers = [cnn.Flatten(), cnn.Linear(3)]
    model = cnn.Sequential(layers, (6, 6, 1), backend="numpy", classes=["a", "b", "c"])
    path = tmp_path / "checkpoint.safetensors"
    return cnn.Trainer(model, split, validation=split, batch_size=10, checkpoint=path)


@contextmanager
def live(run, tmp_path, monkeypatch, epochs=2):
    """The view of a run, updated at every step."""
    monkeypatch.setattr("cnn.report.live.PERIOD", 0.0)
    with LiveView(run, tmp_path, SETTINGS, epochs) as view:
        yield view


def ask(view, path="", method="GET", **headers):
    """(status, text) of the answer to a request below the view's key, as its own page sends it, with these headers."""
    own = {"Host": f"127.0.0.1:{view.port}"} | (
        {"Origin": view.url[: view.url.index("/", 8)]} if method == "POST" else {}
    )
    with closing(HTTPConnection("127.0.0.1", view.port, timeout=10)) as connection:
        connection.request(method, path if path.startswith("/") else f"/{view.key}/{path}", headers=own | headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


class AtStep(Callback):
    """Does something after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_batch(self, trainer):
        if trainer.position.step == self.step:
            self.act()


def test_the_page_shows_the_run_and_a_reload_keeps_its_history(tmp_path, monkeypatch):
    run, seen = trainer(tmp_path), []
    with live(run, tmp_path, monkeypatch) as view:
        listeners = [view, AtStep(8, lambda: seen.extend((ask(view), ask(view, "run.json"), ask(view))))]
        run.run(2, listeners)
        ended = json.loads(ask(view, "run.json")[1])
    (status, page), (_, numbers), (_, again) = seen
    found = json.loads(numbers)
    assert status == 200
    assert found["state"] == "training"
    assert len(found["steps"]) == 8
    assert [row["epoch"] for row in found["run"]["epochs"]] == [1]
    assert found["progress"]["images"] == 80
    assert "&lt;data&gt; &amp; more" in page
    assert "<data>" not in page
    assert "Epoch 2 of 2" in page
    without_nonces = [re.sub(r'nonce="[^"]*"', "", text) for text in (page, again)]
    assert without_nonces[0] == without_nonces[1]
    assert page != again
    assert [len(ended["steps"]), len(ended["run"]["epochs"])] == [12, 2]
    assert ended["progress"]["loss"] == pytest.approx(run.results[-1].train_loss)


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("", "GET", {}, 200),
        ("", "GET", {"Host": "localhost:{port}"}, 200),
        ("", "GET", {"Host": "evil.example:{port}"}, 403),
        ("", "GET", {"Host": "127.0.0.1"}, 403),
        ("run.json", "GET", {"Origin": "http://evil.example"}, 403),
        ("run.json", "GET", {"Origin": "null"}, 403),
        ("pause", "POST", {"Origin": "https://127.0.0.1:{port}"}, 403),
        ("pause", "POST", {"Origin": "http://evil.example"}, 403),
        ("pause", "POST", {"Origin": "127.0.0.1:{port}"}, 403),
        ("stop", "POST", {"Host": "evil.example:{port}"}, 403),
        ("pause", "GET", {}, 404),
        ("delete", "POST", {}, 404),
        ("/", "GET", {}, 404),
        ("/wrong-key/", "GET", {}, 404),
        ("/wrong-key/stop", "POST", {}, 404),
        ("continue", "POST", {}, 204),
    ],
)
def test_only_its_own_page_is_answered(path, method, headers, status, tmp_path, monkeypatch):
    run = trainer(tmp_path)
    with live(run, tmp_path, monkeypatch) as view:
        given = {name: value.replace("{port}", str(view.port)) for name, value in headers.items()}
        assert ask(view, path, method, **given)[0] == status
        assert (run.paused, run._stop_reason) == (False, None)


def test_a_request_without_origin_controls_nothing(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    with live(run, tmp_path, monkeypatch) as view, closing(HTTPConnection("127.0.0.1", view.port)) as connection:
        connection.request("POST", f"/{view.key}/stop")
        assert connection.getresponse().status == 403
    assert run._stop_reason is None


def test_it_listens_on_the_loopback_address_alone(tmp_path, monkeypatch):
    with live(trainer(tmp_path), tmp_path, monkeypatch) as view:
        assert view._server.socket.getsockname() == ("127.0.0.1", view.port)
        assert view.url == f"http://127.0.0.1:{view.port}/{view.key}/"
        port = view.port
        with pytest.raises(CnnError, match=f"Port {port} cannot be opened"):
            LiveView(trainer(tmp_path), tmp_path, SETTINGS, 1, port)
    with pytest.raises(ConnectionRefusedError):
        HTTPConnection("127.0.0.1", port).connect()


def test_events_tell_each_change_and_the_end(tmp_path, monkeypatch):
    run, told = trainer(tmp_path), []
    with live(run, tmp_path, monkeypatch) as view:

        def listen():
            told.extend(
                json.loads(line[6:]) for line in ask(view, "events")[1].splitlines() if line.startswith("data:")
            )

        reader = Thread(target=listen)
        reader.start()
        run.run(2, [view, AtStep(6, lambda: sleep(0.2))])
    reader.join(10)
    assert not reader.is_alive()
    assert told[-1]["ended"]
    assert told[-1]["state"] == "the run has ended"
    assert {"training", "measuring the test images"} & {each["state"] for each in told}
    assert "<svg" in told[-1]["html"]


def test_a_paused_run_waits_and_counts_neither_time_nor_energy(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    run.meter = meter = Stretches()
    with live(run, tmp_path, monkeypatch) as view:

        def go_on():
            while json.loads(ask(view, "run.json")[1])["state"] != "paused" or len(meter.images) < 1:
                sleep(0.01)
            seen.append(run.position.step)
            sleep(0.3)
            seen.append(run.position.step)
            ask(view, "continue", "POST")

        seen, helper = [], Thread(target=go_on)

        def pause():
            ask(view, "pause", "POST")
            helper.start()

        (result,) = run.run(1, [AtStep(2, pause), view])
    helper.join(10)
    assert seen == [2, 2]
    assert meter.images == [20, 40]
    assert result.seconds < 0.3
    assert result.joules == 60


class Stretches(cnn.Meter):
    """A joule for each image; remembers the stretches."""

    kind = "measured"
    source = "a test"

    def __init__(self):
        self.images = []

    def stop(self, images, seconds):
        self.images.append(images)
        return Energy(float(images), self.kind, self.source)


@pytest.mark.parametrize("paused", [False, True])
def test_stop_saves_and_ends_the_run_also_in_a_pause(paused, tmp_path, monkeypatch):
    run = trainer(tmp_path)

    def stop():
        if paused:
            ask(view, "pause", "POST")
        Thread(target=ask, args=(view, "stop", "POST")).start()
        sleep(0.2)

    with (
        pytest.raises(Interrupted, match="Stopped by its live page at step 3"),
        live(run, tmp_path, monkeypatch) as view,
    ):
        run.run(2, [view, AtStep(3, stop)])
    assert view.describe()["state"].startswith("Stopped by its live page")
    assert run.checkpoint.exists()
    other = trainer(tmp_path)
    other.resume()
    assert other.position.step == 3


def test_a_copy_of_a_paused_run_is_not_paused(tmp_path):
    run = trainer(tmp_path)
    run.pause()
    assert (run.paused, deepcopy(run).paused) == (True, False)


def test_a_failure_is_told(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError), live(trainer(tmp_path), tmp_path, monkeypatch) as view:
        _ = 1 / 0
    assert view.describe()["state"] == "the run has failed: division by zero"


def test_the_curve_of_a_long_run_stays_short(tmp_path, monkeypatch):
    with live(trainer(tmp_path), tmp_path, monkeypatch) as view:
        for k in range(5000):
            view._add(k / 100, 1.0)
        steps = view.describe()["steps"]
    assert POINTS / 2 <= len(steps) <= POINTS + 1
    assert [x for x, _ in steps] == sorted(x for x, _ in steps)
    assert {y for _, y in steps} == {1.0}


def test_the_command_prints_the_address(net, tmp_path, capsys):
    words = ["train", "mnist-5k", "--model", net, "--epochs", "1", "--backend", "numpy", "--out", str(tmp_path / "run")]
    assert main([*words, "--serve"]) == 0
    assert re.search(r"^live +http://127\.0\.0\.1:\d+/[\w-]+/ \(on this machine only\)$", capsys.readouterr().out, re.M)
    assert main([*words, "--serve", "mnist"]) == 2
    assert "'mnist' is not a port from 0 to 65535" in capsys.readouterr().err


def test_the_page_in_a_browser(tmp_path, monkeypatch):
    if find_chromium() is None:
        pytest.skip("Chromium is not installed")
    run = trainer(tmp_path, images=6000)
    monkeypatch.setattr("cnn.report.live.PERIOD", 0.02)

    class Slowly(Callback):
        def on_batch(self, trainer):
            sleep(0.005)

    def train():
        with pytest.raises(Interrupted):
            run.run(50, [view, Slowly()])

    state = "document.getElementById('state').textContent"
    line = "document.querySelector('path.line')?.getAttribute('d')"
    with LiveView(run, tmp_path, SETTINGS, 50) as view, Chromium(tmp_path / "profile") as page:
        thread = Thread(target=train)
        thread.start()
        page.open(view.url)
        page.wait(f"{state} == 'training'")
        before = page.wait(line)
        page.wait(f"{line} != '{before}'")
        page.evaluate("document.getElementById('pause').click()")
        page.wait(f"{state} == 'paused'")
        history = len(view.describe()["steps"])
        page.reload()
        page.wait(f"{state} == 'paused'")
        assert page.evaluate(line).count("L") >= history - 2 > 0
        page.evaluate("document.getElementById('pause').click()")
        page.wait(f"{state} == 'training'")
        page.evaluate("window.confirm = () => true; document.getElementById('stop').click()")
        thread.join(20)
        assert not thread.is_alive()
        view.close("the run has ended")
        page.wait("document.getElementById('stop').disabled")
        assert page.evaluate(state) == "the run has ended"
        assert page.errors == []
        view.close = lambda last_words="": None


def test_a_connection_that_breaks_off_says_nothing_in_the_terminal(tmp_path, monkeypatch, capfd):
    run = trainer(tmp_path)
    with live(run, tmp_path, monkeypatch) as view:
        for start in ("", f"GET /{view.key}/ HTTP/1.1\r\nHost: 127.0.0.1:{view.port}\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", view.port)) as connection:
                connection.sendall(start.encode())
                # Closing without waiting for what is still to be sent resets the connection.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ask(view)[0] == 200
        sleep(0.05)
    assert capfd.readouterr().err == ""
