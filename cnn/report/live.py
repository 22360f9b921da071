"""The page of a run while it is trained: a server on this machine's loopback address, with pause and stop."""

import json
import secrets
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Self

import cnn
from cnn.errors import CnnError, Interrupted
from cnn.report.html import render
from cnn.report.run import Run
from cnn.report.run_charts import run_charts, step_chart
from cnn.report.run_report import describe_run
from cnn.system.timing import now
from cnn.training.results import EpochResult
from cnn.training.trainer import Callback, Trainer

LOOPBACK = "127.0.0.1"
PERIOD = 0.5
"""Seconds between two updates of a page, at least."""
POINTS = 400
"""Most points of the curve of the steps; with more, each two become one."""
ALIVE = 10.0
"""Seconds without news after which a line is sent that keeps a connection open."""
LAST_WORDS = 2.0
"""Seconds for pages to be told that the run has ended."""
CONTROLS = ("pause", "continue", "stop")


class LiveView(Callback):
    """Serves the page as a listener of the run; use it as a context manager, around the run.

    A run of several processes cannot be paused: the others would wait in a sum.
    """

    def __init__(
        self, trainer: Trainer, folder: Path, settings: Mapping[str, Any], epochs: float, port: int = 0
    ) -> None:
        """Listens on `port`, or with 0 on any that is free. Raises CnnError if it cannot be had."""
        self._trainer, self._folder, self._settings, self._epochs = trainer, folder, dict(settings), epochs
        self._changed = Condition()
        self._version, self._readers = 0, 0
        self._state, self._ended = "getting ready", False
        self._results: list[EpochResult] = list(trainer.results)
        self._steps: list[tuple[float, float]] = []
        self._stride, self._last = 1, 0.0
        self._pending: list[tuple[float, float, int]] = []
        self._before = (0, 0.0, 0)
        self._progress: dict[str, Any] = {}
        self.key = secrets.token_urlsafe(12)
        view = self

        class Handler(_Handler):
            live = view

        try:
            self._server = _Server((LOOPBACK, port), Handler)
        except OSError as error:
            raise CnnError(
                f"Port {port} cannot be opened ({error.strerror or error}); choose another one, or give --serve alone."
            ) from error
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), name="live view", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The address of the page; whoever knows it can stop the run."""
        return f"http://{LOOPBACK}:{self.port}/{self.key}/"

    @property
    def can_pause(self) -> bool:
        """Whether the run can be paused."""
        return self._trainer.world.size == 1

    def on_batch(self, trainer: Trainer) -> None:
        position = trainer.position
        epoch, loss, seen = self._before
        if position.epoch != epoch or position.seen < seen:
            loss, seen = 0.0, 0
        moment = now()
        if moment - self._last < PERIOD and position.batch < trainer.steps_per_epoch:
            return
        self._last = moment
        with self._changed:
            if position.seen > seen:
                at = position.epoch + position.seen / len(trainer.train)
                self._add(at, (position.loss - loss) / (position.seen - seen))
            self._before = (position.epoch, position.loss, position.seen)
            self._progress = {
                "epoch": position.epoch + 1,
                "epochs": self._epochs,
                "images": position.epoch * len(trainer.train) + position.seen,
                "all_images": self._epochs * len(trainer.train),
                "loss": position.loss / position.seen,
                "accuracy": position.correct / position.seen,
                "images_per_second": position.seen / position.seconds,
            }
            self._state = "paused" if trainer.paused else "training"
            self._news()

    def on_epoch(self, trainer: Trainer, result: EpochResult) -> None:
        with self._changed:
            self._results = list(trainer.results)
            self._news()

    def on_end(self) -> None:
        self._say("measuring the test images")

    def control(self, action: str) -> None:
        """Does one of CONTROLS."""
        if action == "stop":
            self._trainer.request_stop("its live page")
            self._say("stopping after this step")
        elif action == "pause" and self.can_pause:
            self._trainer.pause()
            self._say("paused")
        elif action == "continue":
            self._trainer.go_on()
            self._say("training")

    def describe(self) -> dict[str, Any]:
        """Every number of the page, as JSON values."""
        with self._changed:
            results, steps = tuple(self._results), list(self._steps)
            state, ended, progress = self._state, self._ended, dict(self._progress)
        found = None
        if results:
            run = Run(self._folder, self._folder.name, results, self._settings, {}, {})
            found = describe_run(run)
        return {"state": state, "ended": ended, "progress": progress, "steps": steps, "run": found}

    def fragment(self) -> str:
        """What moves on the page."""
        found = self.describe()
        run = found["run"]
        return render(
            "moving",
            **found,
            charts=[step_chart(found["steps"]), *(run_charts(run["epochs"], run["best_epoch"]) if run else [])],
        )

    def page(self, nonce: str) -> str:
        """The whole page; its script runs with this nonce."""
        title = f"{self._trainer.model.name} on {self._settings.get('dataset', 'data')}"
        return render(
            "live",
            title=title,
            fragment=self.fragment(),
            can_pause=self.can_pause,
            nonce=nonce,
            settings=self._settings,
            folder=str(self._folder),
            version=cnn.__version__,
        )

    def wait(self, seen: int) -> int:
        """Returns the number of the last change when it is above `seen`, or after some seconds; -1 for the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > seen or self._ended, ALIVE)
            return -1 if self._ended and self._version == seen else self._version

    def close(self, last_words: str = "the run has ended") -> None:
        """Tells the pages, and stops listening."""
        with self._changed:
            self._ended = True
            self._state = last_words
            self._news()
            self._changed.wait_for(lambda: not self._readers, LAST_WORDS)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Interrupted):
            self.close(str(error))
        else:
            self.close(f"the run has failed: {error}")

    def _say(self, state: str) -> None:
        with self._changed:
            self._state = state
            self._news()

    def _news(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def reading(self, change: int) -> None:
        """Counts the pages that are open: 1 more, or with -1 one fewer."""
        with self._changed:
            self._readers += change
            self._changed.notify_all()

    def _add(self, at: float, loss: float) -> None:
        """Adds a point to the curve of the steps; means of several where there would be too many."""
        self._pending.append((at, loss, 1))
        if len(self._pending) < self._stride:
            return
        self._steps.append((self._pending[-1][0], sum(each[1] for each in self._pending) / len(self._pending)))
        self._pending.clear()
        if len(self._steps) > POINTS:
            pairs = zip(self._steps[::2], self._steps[1::2], strict=False)
            self._steps = [(second[0], (first[1] + second[1]) / 2) for first, second in pairs]
            self._stride *= 2


class _Server(ThreadingHTTPServer):
    """A thread for each connection; one that breaks off is nothing that the terminal of the run should show."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for the page that come from this machine's own pages; all others are refused."""

    live: LiveView
    timeout = 30
    server_version = "cnn"
    sys_version = ""

    def do_GET(self) -> None:
        path = self._allowed()
        if path == "":
            nonce = secrets.token_urlsafe(12)
            self._send(self.live.page(nonce).encode(), "text/html; charset=utf-8", nonce)
        elif path == "run.json":
            self._send(json.dumps(self.live.describe(), indent=2).encode(), "application/json")
        elif path == "events":
            self._events()
        elif path is not None:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    def do_POST(self) -> None:
        path = self._allowed()
        if path is None:
            return
        if self.headers.get("Origin") is None:
            self._refuse(HTTPStatus.FORBIDDEN, "Only the page itself may ask this.")
        elif path in CONTROLS:
            self.live.control(path)
            self._send(b"", "text/plain", status=HTTPStatus.NO_CONTENT)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such control.")

    def _allowed(self) -> str | None:
        """The path below the key, or None after an answer that refuses: a foreign host or origin, or a wrong key.

        A page elsewhere can make a browser ask this server, by a name that it has let point here; but it cannot choose
        the headers Host and Origin that the browser sends.
        """
        own = {f"{name}:{self.live.port}" for name in (LOOPBACK, "localhost")}
        origin, pages = self.headers.get("Origin"), {f"http://{name}" for name in own}
        if self.headers.get("Host") not in own or (origin is not None and origin not in pages):
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for this machine only.")
            return None
        first, _, rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not secrets.compare_digest(first.encode(), self.live.key.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page; open the address that cnn train printed.")
            return None
        return rest

    def _events(self) -> None:
        """Server-sent events (HTML Standard, section 9.2): what moves, at each change, until the run ends."""
        self._head("text/event-stream", None, HTTPStatus.OK, None)
        self.live.reading(1)
        seen = -1
        try:
            while True:
                version = self.live.wait(seen)
                if version == -1:
                    return
                if version == seen:
                    self.wfile.write(b": alive\n\n")
                else:
                    found = self.live.describe()
                    told = {"state": found["state"], "ended": found["ended"], "html": self.live.fragment()}
                    self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())
                self.wfile.flush()
                seen = version
        except OSError:
            pass  # the page was closed
        finally:
            self.live.reading(-1)

    def _send(self, content: bytes, kind: str, nonce: str | None = None, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._head(kind, len(content), status, nonce)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._send(f"{reason}\n".encode(), "text/plain; charset=utf-8", status=status)

    def _head(self, kind: str, size: int | None, status: HTTPStatus, nonce: str | None) -> None:
        script = f"'nonce-{nonce}'" if nonce else "'none'"
        policy = (
            f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {script}; connect-src 'self'"
        )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.send_header("Cache-Control", "no-store")
        self.send_header(
            "Content-Security-Policy", f"{policy}; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
        )
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: the terminal belongs to the run."""
