"""Starts a worker process, exchanges messages with it, and reports how it ended if it no longer answers."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from cnn.errors import CnnError
from cnn.system.affinity import inherited
from cnn.system.machine import system_text
from cnn.system.signals import stop_requested
from cnn.terminal.printing import tell
from cnn.worker import child
from cnn.worker.arena import Arena

PATIENCE = 120.0
"""Seconds without any processor time after which a worker that has not answered counts as stuck."""

GRACE = 2.0
"""Seconds that a worker has to end by itself once its channel is closed."""


class WorkerDied(CnnError):
    """A worker ended, closed its channel or got stuck; the message says how and what it printed last."""


@dataclass(frozen=True)
class Program:
    """What a worker loads: libraries in order (the last one multiplies), and the names of its functions.

    `environment` is the worker's whole environment. `memory_policy` is a mode of set_mempolicy(2) and a mask of nodes.
    """

    libraries: list[str]
    set_threads: str
    product: str = "cblas_{}gemm"
    environment: dict[str, str] = field(default_factory=dict)
    memory_policy: tuple[int, int] | None = None


class Worker:
    """One process that runs `cnn.worker.child`. Every method raises WorkerDied. Not for two threads at once."""

    def __init__(self, program: Program, arena: Arena) -> None:
        """Starts it and waits until it has loaded its libraries."""
        settings = asdict(program) | {"bytes": arena.bytes}
        settings.pop("environment")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output = os.memfd_create("cnn-output")
        descriptors = theirs.fileno(), arena.descriptor
        # -I and -S: without the user's settings and installed packages, which it does not need.
        command = [sys.executable, "-I", "-S", child.__file__, *map(str, descriptors), json.dumps(settings)]
        try:
            with theirs, inherited():
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    pass_fds=descriptors,
                    env=program.environment,
                )
        except OSError as error:
            self._channel.close()
            os.close(self._output)
            raise WorkerDied(f"No worker process can be started from {sys.executable} ({error}).") from error
        self.pid = self._process.pid
        self._told = False
        self._end = weakref.finalize(self, _end, self._process, self._channel, self._output)
        self._answer()

    def multiply(self, *record: Any) -> tuple[float, str]:
        """One product, in the form of `child.PRODUCT`: the seconds it took and what the library printed."""
        answer = self._ask(child.PRODUCT.pack(*record))
        (seconds,) = child.SECONDS.unpack_from(answer)
        return seconds, answer[child.SECONDS.size :].decode(errors="replace")

    def call(self, name: str, *arguments: int | float | str) -> list[Any]:
        """The result of the library's function, then what it wrote to each argument of `child.POINTERS`.

        Raises AttributeError if the library has no such function.
        """
        answer = json.loads(self._ask(json.dumps([name, *arguments]).encode()))
        if "error" in answer:
            raise AttributeError(answer["error"])
        return [answer["result"], *answer["written"]]

    def mapped(self) -> list[str]:
        """The files that the worker has mapped into its memory."""
        lines = system_text(Path(f"/proc/{self.pid}/maps")).splitlines()
        return sorted({line.split(maxsplit=5)[5] for line in lines if "/" in line})

    def _ask(self, message: bytes) -> bytes:
        try:
            self._channel.send(message)
        except OSError:
            raise self._died() from None
        return self._answer()

    def _answer(self) -> bytes:
        """Waits for the next answer for as long as the worker keeps computing."""
        ready = select.poll()
        ready.register(self._channel, select.POLLIN)
        since, used = monotonic(), -1
        try:
            while not ready.poll(1000):
                if _stopped(self.pid):
                    self._wake()
                now = _processor_time(self.pid)
                if now != used:
                    since, used = monotonic(), now
                elif monotonic() - since > PATIENCE:
                    self._process.kill()
                    raise self._died(f"was stuck for {PATIENCE:g} seconds and was ended")
            try:
                answer = self._channel.recv(child.LARGEST)
            except OSError:
                answer = b""
            if not answer:
                raise self._died()
            return answer
        except BaseException:
            # A late answer must never be taken for the answer to the next message.
            self._end()
            raise

    def _wake(self) -> None:
        """Says that the worker is stopped; if this process is to end, lets it finish the product, to end in order."""
        if stop_requested():
            os.kill(self.pid, signal.SIGCONT)
        elif not self._told:
            self._told = True
            tell(f"cnn: the worker process {self.pid} is stopped; `kill -CONT {self.pid}` lets it go on.")

    def _died(self, how: str | None = None) -> WorkerDied:
        """The error that says how the worker ended; kills the worker if it has not ended."""
        try:
            status = self._process.wait(GRACE)
            ended = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with exit status {status}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            ended = "closed its connection and was ended"
        lines = os.pread(self._output, child.LARGEST, 0).decode(errors="replace").strip().splitlines()
        said = f"; its last output: {' / '.join(lines[-3:])}" if lines else "; it printed nothing"
        return WorkerDied(f"The worker process {self.pid} {how or ended}{said}.")


def _end(process: subprocess.Popen[bytes], channel: socket.socket, output: int) -> None:
    channel.close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    os.close(output)


def _processor_time(pid: int) -> int:
    """Clock ticks that all threads of a process have run; for a process stopped by the user, a value that increases."""
    fields = _status(pid)
    if not fields or fields[0] in "Tt":
        return int(monotonic())
    return int(fields[11]) + int(fields[12])


def _stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal."""
    return _status(pid)[:1] == ["T"]


def _status(pid: int) -> list[str]:
    """What the system says about a process, from its state on; nothing if it has ended."""
    return system_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _signal_name(number: int) -> str:
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"
