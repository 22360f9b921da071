"""Downloads against a local server with faults: each is one clear error and leaves nothing under the final name."""

import contextlib
import errno
import hashlib
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import cnn.system.fetch as fetch_module
from cnn.errors import DataError, UsageError
from cnn.system.fetch import RemoteFile, fetch

BODY = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(BODY).hexdigest()


def dripped(handler: BaseHTTPRequestHandler, endless: bytes, pause: float) -> None:
    """Sends the bytes again and again, until the other side has gone."""
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(endless)
            handler.wfile.flush()
            time.sleep(pause)


def slow_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    handler.wfile.write(BODY[:1000])
    dripped(handler, b"ab", 0.02)


def slow_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;")
    dripped(handler, b"x", 0.02)


SLOW: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "headers": lambda handler: dripped(handler, b"H", 0.02),
    "continue": lambda handler: dripped(handler, b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "body": slow_body,
    "chunks": slow_chunks,
}


class Server:
    """Serves BODY under several paths, one fault each, and remembers the path, range and body size of each request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None, int]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
                fault = self.path.strip("/")
                body, promised = BODY[begin:], None
                if fault in SLOW:
                    SLOW[fault](self)
                    return
                if fault.startswith("to:"):
                    self.send_response(302)
                    self.send_header("Location", urllib.parse.unquote(fault.removeprefix("to:")))
                    self.end_headers()
                    return
                if fault == "missing":
                    self.send_error(404)
                    return
                if fault == "norange":
                    begin, body = 0, BODY
                if fault == "wrong":
                    body = bytes(len(body))
                if fault == "truncated":
                    body, promised = body[: len(body) // 2], len(body)
                if fault == "long":
                    body += b"more"
                if fault == "endless":
                    body += bytes(1 << 20)
                server.seen.append((fault, asked, len(body)))
                self.send_response(206 if begin else 200)
                if begin:
                    first = 0 if fault == "otherrange" else begin
                    self.send_header("Content-Range", f"bytes {first}-{len(BODY) - 1}/{len(BODY)}")
                if fault != "endless":
                    self.send_header("Content-Length", str(promised or len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._httpd.server_address[1]}"

    def close(self) -> None:
        self._httpd.shutdown()
        self._thread.join()
        self._httpd.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def remote(server: Server) -> Callable[..., RemoteFile]:
    return lambda *faults: RemoteFile("set/file.bin", len(BODY), SHA256, tuple(f"{server.url}/{f}" for f in faults))


def nothing_final(folder: Path) -> bool:
    return not (folder / "set/file.bin").exists()


def test_fetch_writes_the_file_and_does_not_fetch_it_again(tmp_path, server, remote, capsys):
    path = fetch(remote("good"), tmp_path)
    assert path == tmp_path / "set/file.bin"
    assert path.read_bytes() == BODY
    assert fetch(remote("good"), tmp_path) == path
    assert server.seen == [("good", None, len(BODY))]
    assert not path.with_name("file.bin.part").exists()
    # Not a terminal: plain lines, no carriage returns.
    assert capsys.readouterr().err == f"downloading set/file.bin ({len(BODY):,} bytes)\n"


def test_of_several_downloads_at_once_one_takes_place(tmp_path, server, remote):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(remote("good"), tmp_path), range(4)))
    assert set(paths) == {tmp_path / "set/file.bin"}
    assert paths[0].read_bytes() == BODY
    assert server.seen == [("good", None, len(BODY))]


def test_resume_asks_for_the_rest_and_only_the_rest_is_sent(tmp_path, server, remote, capsys):
    part = tmp_path / "set/file.bin.part"
    part.parent.mkdir()
    part.write_bytes(BODY[:100_000])
    assert fetch(remote("good"), tmp_path).read_bytes() == BODY
    assert server.seen == [("good", "bytes=100000-", len(BODY) - 100_000)]
    assert "resumed at 100,000" in capsys.readouterr().err


def test_truncated_transfer_is_completed_by_the_next_mirror(tmp_path, server, remote):
    assert fetch(remote("truncated", "good"), tmp_path).read_bytes() == BODY
    half = len(BODY) // 2
    assert server.seen == [("truncated", None, half), ("good", f"bytes={half}-", half)]


def test_truncated_everywhere_keeps_the_part_for_a_later_resume(tmp_path, server, remote):
    with pytest.raises(DataError, match=f"ended after {len(BODY) // 2} of {len(BODY)} bytes.*check the network"):
        fetch(remote("truncated"), tmp_path)
    assert nothing_final(tmp_path)
    assert (tmp_path / "set/file.bin.part").read_bytes() == BODY[: len(BODY) // 2]


def test_server_that_ignores_range_starts_over(tmp_path, server, remote):
    part = tmp_path / "set/file.bin.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    assert fetch(remote("norange"), tmp_path).read_bytes() == BODY
    assert server.seen == [("norange", "bytes=1000-", len(BODY))]


def test_wrong_content_is_deleted_and_the_next_mirror_tried(tmp_path, server, remote):
    assert fetch(remote("wrong", "good"), tmp_path).read_bytes() == BODY
    assert [(fault, asked) for fault, asked, _ in server.seen] == [("wrong", None), ("good", None)]


def test_wrong_content_everywhere_leaves_nothing(tmp_path, server, remote):
    with pytest.raises(DataError, match="wrong SHA-256"):
        fetch(remote("wrong"), tmp_path)
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize("size", [1000, len(BODY), len(BODY) + 1])
def test_part_with_wrong_bytes_is_fetched_afresh_from_the_same_mirror(tmp_path, server, remote, size):
    part = tmp_path / "set/file.bin.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * size)
    assert fetch(remote("good"), tmp_path).read_bytes() == BODY
    assert server.seen[-1] == ("good", None, len(BODY))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "HTTP 404"),
        ("long", f"offers {len(BODY) + 4} bytes where {len(BODY)} are expected"),
        ("endless", f"more than the expected {len(BODY)} bytes"),
    ],
)
def test_faults_are_named_and_leave_nothing(tmp_path, server, remote, fault, message):
    with pytest.raises(DataError, match=message):
        fetch(remote(fault), tmp_path)
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize("fault", SLOW)
def test_a_mirror_that_sends_next_to_nothing_is_given_up(tmp_path, server, remote, fault):
    file = remote(fault, "good")
    assert fetch(file, tmp_path, timeout=0.3).read_bytes() == BODY
    with pytest.raises(DataError, match=rf"/{fault}: it sent less than 4,000 bytes per second"):
        fetch(remote(fault), tmp_path / "other", timeout=0.3)


@pytest.mark.parametrize(
    "place", ["http://[::1", f"http://{'x' * 70}.example.org/", "ftp://example.org/a", "http://a b/"]
)
def test_a_redirection_to_nowhere_leads_to_the_next_mirror(tmp_path, server, remote, place):
    fault = "to:" + urllib.parse.quote(place, safe="")
    with pytest.raises(DataError, match=r"no answer|no connection|HTTP 302"):
        fetch(remote(fault), tmp_path)
    assert fetch(remote(fault, "good"), tmp_path).read_bytes() == BODY
    assert fetch(remote("to:" + urllib.parse.quote(f"{server.url}/good", safe="")), tmp_path / "b").read_bytes() == BODY


def test_another_range_than_asked_for_is_refused(tmp_path, server, remote):
    part = tmp_path / "set/file.bin.part"
    part.parent.mkdir()
    part.write_bytes(BODY[:1000])
    with pytest.raises(DataError, match="another range than the one from byte 1000"):
        fetch(remote("otherrange"), tmp_path)
    assert part.read_bytes() == BODY[:1000]


def test_no_network_names_every_mirror(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    file = RemoteFile("file.bin", len(BODY), SHA256, (f"{url}/a", f"{url}/b"))
    with pytest.raises(DataError, match=r"/a: no connection.*/b: no connection.*check the network"):
        fetch(file, tmp_path, timeout=2)


def test_a_file_of_the_users_own_is_not_overwritten(tmp_path, server, remote):
    path = tmp_path / "set/file.bin"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match="exists but is not the file"):
        fetch(remote("good"), tmp_path)
    assert path.read_bytes() == b"mine"
    assert server.seen == []


def test_too_little_space_is_said_before_anything_is_sent(tmp_path, server, remote, monkeypatch):
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"is full \(262,144 bytes are needed and 10 are free\); free 262,144 bytes"):
        fetch(remote("good"), tmp_path)
    assert server.seen == []


def test_disk_that_fills_up_while_writing(tmp_path, server, remote, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch_module, "_copy", full)
    with pytest.raises(DataError, match="is full"):
        fetch(remote("good"), tmp_path)
    assert nothing_final(tmp_path)


def test_folder_that_cannot_be_made(tmp_path, remote):
    (tmp_path / "set").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written.*--data-dir"):
        fetch(remote("good"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "../up"}, "without '..'"),
        ({"path": "/etc/passwd"}, "relative"),
        ({"path": ""}, "relative"),
        ({"size": 0}, "0 bytes"),
        ({"sha256": "abc"}, "64"),
        ({"urls": ()}, "at least one"),
        ({"urls": ("file:///etc/passwd",)}, "http"),
    ],
)
def test_remote_file_validates(change, message):
    good = {"path": "a/b", "size": 1, "sha256": SHA256, "urls": ("https://example.org/b",)}
    RemoteFile(**good)
    with pytest.raises(UsageError, match=re.escape(message)):
        RemoteFile(**{**good, **change})
