"""Requests over HTTP that end when the other side sends next to nothing, whatever it sends."""

import contextlib
import http.client
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SLOWEST = 4000
"""Bytes per second that are worth waiting for; a modem of 1998 had more."""


class StallGuard:
    """Cuts the connections of one download, as soon as less than SLOWEST comes in over `seconds`.

    A limit for each read is not enough: an answer of one byte a second, or of endless headers, never reaches it. Nor
    does a limit for all: a large file may take hours.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stalled = False
        self._came = 0
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()

    def came(self, count: int) -> None:
        """Tells that `count` bytes of the file have come in."""
        self._came += count

    def open(self, request: urllib.request.Request) -> Any:
        """The response, as from `urlopen`, over HTTP and HTTPS only; redirections are followed."""
        director = urllib.request.OpenerDirector()
        guard = self

        class Http(urllib.request.HTTPHandler):
            def http_open(self, asked: Any) -> Any:
                return self.do_open(guard._connection(http.client.HTTPConnection), asked)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, asked: Any) -> Any:
                return self.do_open(guard._connection(http.client.HTTPSConnection), asked)

        for handler in (
            *(urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), Http(), Https()),
            *(urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPRedirectHandler()),
            urllib.request.HTTPErrorProcessor(),
        ):
            director.add_handler(handler)
        return director.open(request, timeout=self.seconds)

    def _connection(self, kind: type[http.client.HTTPConnection]) -> Any:
        sockets = self._sockets

        class Connection(kind):  # type: ignore[misc,valid-type]
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return Connection

    def _watch(self) -> None:
        before = 0
        while not self._over.wait(self.seconds):
            came = self._came
            self.stalled = self.stalled or came - before < SLOWEST * self.seconds
            before = came
            # Again after each interval: a connection may be opened after the others were cut.
            for each in tuple(self._sockets) if self.stalled else ():
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


@contextmanager
def stall_guard(seconds: float) -> Iterator[StallGuard]:
    """A guard that watches until the end of the block."""
    guard = StallGuard(seconds)
    watcher = threading.Thread(target=guard._watch, daemon=True)
    watcher.start()
    try:
        yield guard
    finally:
        guard._over.set()
        watcher.join()
