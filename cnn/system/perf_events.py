"""Counters of the processor for this process, through perf_event_open(2): cycles, instructions, FLOP, cache misses."""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from cnn.system.machine import this_machine

SYSCALL = {"x86_64": 298, "aarch64": 241}
CLOSE_ON_EXEC = 8
HARDWARE, SOFTWARE, RAW = 0, 1, 4
# perf_event_attr.flags: neither the kernel's nor the hypervisor's work counts.
USER_ONLY = 1 << 5 | 1 << 6
TIMES = 1 | 2
"""perf_event_attr.read_format: with a count come the times that it was wanted and that it ran."""


class CountersUnavailable(Exception):
    """There are no counters; `missing` says why, by name."""

    def __init__(self, missing: dict[str, str]) -> None:
        super().__init__("; ".join(dict.fromkeys(missing.values())))
        self.missing = missing


class Event(NamedTuple):
    """A counter: its type and configuration, and by how much each count is multiplied."""

    kind: int
    config: int
    factor: int = 1


EVENTS: dict[str, tuple[Event, ...]] = {
    "cycles": (Event(HARDWARE, 0),),
    "instructions": (Event(HARDWARE, 1),),
    "cache_misses": (Event(HARDWARE, 3),),
}
"""perf_event.h, enum perf_hw_id."""
INTEL_FLOPS = tuple(Event(RAW, 0xC7 | umask << 8, factor) for umask, factor in ((2, 1), (8, 4), (32, 8), (128, 16)))
"""FP_ARITH_INST_RETIRED, single precision: scalar and vectors of 128, 256 and 512 bits; a multiply-add counts twice."""


class Counters:
    """Counts of all threads that this process has when it is opened, from then on; use it as a context manager.

    Raises CountersUnavailable, with the reason, where the kernel lets none be read.
    """

    def __init__(self, events: dict[str, tuple[Event, ...]] | None = None, root: Path = Path("/")) -> None:
        wanted = dict(EVENTS) if events is None else events
        self.missing: dict[str, str] = {}
        """Why a counter is not there, by its name."""
        if events is None:
            if this_machine().vendor == "GenuineIntel":
                wanted["flops"] = INTEL_FLOPS
            else:
                self.missing["flops"] = "only the events of Intel's processors are known here"
        self._open: dict[str, list[tuple[int, int]]] = {}
        threads = [int(each.name) for each in (root / "proc/self/task").glob("[0-9]*")]
        for name, parts in wanted.items() if threads else ():
            opened = list[tuple[int, int]]()
            try:
                for event in parts:
                    opened += [(_open(event, thread), event.factor) for thread in threads]
                self._open[name] = opened
            except OSError as error:
                _close(opened)
                self.missing[name] = _reason(error, root)
        if not self._open:
            raise CountersUnavailable(self.missing or dict.fromkeys(wanted, "the system shows no threads"))

    def read(self) -> dict[str, float]:
        """The counts since the beginning by name; where counters took turns, scaled to the whole time."""
        return {name: sum(factor * _count(number) for number, factor in parts) for name, parts in self._open.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._open:
            _close(self._open.popitem()[1])


def _close(opened: list[tuple[int, int]]) -> None:
    for number, _ in opened:
        os.close(number)


def _open(event: Event, thread: int) -> int:
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"not known for {platform.machine()}")
    try:
        library = ctypes.CDLL(None, use_errno=True)
        call: Callable[..., int] = library.syscall
    except (AttributeError, OSError, TypeError) as error:
        raise OSError(errno.ENOSYS, "this system has no such call") from error
    library.syscall.restype = ctypes.c_long
    # struct perf_event_attr, first version: type, size, config, period, sample type, read format, flags, the rest.
    attributes = struct.pack("=IIQQQQQ16x", event.kind, 64, event.config, 0, 0, TIMES, USER_ONLY)
    opened = call(
        ctypes.c_long(number),
        attributes,
        ctypes.c_int(thread),
        ctypes.c_int(-1),
        ctypes.c_int(-1),
        ctypes.c_ulong(CLOSE_ON_EXEC),
    )
    if opened < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(opened)


def _count(number: int) -> float:
    value, wanted, ran = struct.unpack("=QQQ", os.read(number, 24))
    return value * wanted / ran if ran else 0.0


def _reason(error: OSError, root: Path) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
        return "the processor's counters are not there, as in most virtual machines"
    if error.errno in (errno.EACCES, errno.EPERM):
        try:
            level = (root / "proc/sys/kernel/perf_event_paranoid").read_text().strip()
        except OSError:
            level = "unknown"
        return (
            f"the kernel does not let this user count (perf_event_paranoid is {level}); "
            "`sudo sysctl kernel.perf_event_paranoid=2` or less allows it, in a container CAP_PERFMON"
        )
    return f"perf_event_open failed: {error.strerror}"
