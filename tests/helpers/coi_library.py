"""The stand-in card's COI functions for Python: their types, and a card's process with one pipeline."""

from ctypes import CDLL, Structure, byref, c_char_p, c_int8, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from helpers.stand_in_card import StandIn


class Result(IntEnum):
    """COIRESULT."""

    SUCCESS = 0
    DOES_NOT_EXIST = 5
    INVALID_POINTER = 6
    OUT_OF_RANGE = 7
    NOT_SUPPORTED = 8
    TIME_OUT = 9
    MEMORY_OVERLAP = 10
    ARGUMENT_MISMATCH = 11
    SIZE_MISMATCH = 12
    INVALID_HANDLE = 14
    PROCESS_DIED = 23
    CANCELED = 25


KNC, KNL, NORMAL, READ_WRITE, SINK_MEMORY = 4, 5, 1, 2, 0x100
ASYNC, SYNC = c_void_p(1), c_void_p(2)
FOREVER = -1


class Event(Structure):
    """COIEVENT."""

    _fields_ = (("opaque", c_uint64 * 2),)


def load(stand_in: StandIn) -> CDLL:
    """The host's library, in this process."""
    library = CDLL(str(stand_in.host / "libcoi_host.so.0"))
    library.COIResultGetName.restype = c_char_p
    library.COIEventUnregisterUserEvent.argtypes = [Event]
    transfer = [c_void_p, c_uint64, c_void_p, c_uint64, c_uint32, c_uint32, c_void_p, c_void_p]
    library.COIBufferWrite.argtypes = library.COIBufferRead.argtypes = transfer
    library.COIBufferCopy.argtypes = [c_void_p, c_void_p, *[c_uint64] * 3, c_uint32, c_uint32, c_void_p, c_void_p]
    for name in ("COIBufferDestroy", "COIPipelineDestroy"):
        getattr(library, name).argtypes = [c_void_p]
    return library


class Process:
    """A card's process with one pipeline."""

    def __init__(self, coi: CDLL, program: Path, arguments: list[bytes], inherit: int, additional: list[bytes]) -> None:
        self.coi, self.handle, self.pipeline, engine = coi, c_void_p(), c_void_p(), c_void_p()
        assert coi.COIEngineGetHandle(KNL, 0, byref(engine)) == Result.SUCCESS
        argv = (c_char_p * len(arguments))(*arguments) if arguments else None
        more = (c_char_p * (len(additional) + 1))(*additional, None)
        created = coi.COIProcessCreateFromFile(
            *(engine, bytes(program), len(arguments), argv, inherit, more, 0, None, c_uint64(0), None),
            byref(self.handle),
        )
        if created != Result.SUCCESS:
            raise ProcessLookupError(coi.COIResultGetName(created).decode())
        assert coi.COIPipelineCreate(self.handle, None, 0, byref(self.pipeline)) == Result.SUCCESS

    def function(self, name: str) -> c_void_p:
        handle = c_void_p()
        assert self.coi.COIProcessGetFunctionHandles(self.handle, 1, byref(c_char_p(name.encode())), byref(handle)) == 0
        return handle

    def buffer(self, size: int, data: np.ndarray | None = None, flags: int = 0) -> c_void_p:
        handle = c_void_p()
        source = None if data is None else data.ctypes.data_as(c_void_p)
        result = self.coi.COIBufferCreate(c_uint64(size), NORMAL, flags, source, 1, byref(self.handle), byref(handle))
        if result != Result.SUCCESS:
            raise BufferError(self.coi.COIResultGetName(result).decode())
        return handle

    def run(
        self,
        function: str | c_void_p,
        misc: Any = None,
        buffers: tuple[c_void_p, ...] = (),
        after: tuple[Event, ...] = (),
        returned: Any = None,
        returned_length: int = 0,
    ) -> Event:
        """Queues a function and returns its event."""
        done, count = Event(), len(buffers)
        handle = self.function(function) if isinstance(function, str) else function
        queued = self.coi.COIPipelineRunFunction(
            *(self.pipeline, handle, count, (c_void_p * count)(*buffers) if count else None),
            (c_uint32 * count)(*[READ_WRITE] * count) if count else None,
            *(len(after), (Event * len(after))(*after) if after else None),
            *(byref(misc) if misc is not None else None, len(bytes(misc)) if misc is not None else 0),
            *(returned, returned_length, byref(done)),
        )
        assert queued == Result.SUCCESS
        return done

    def wait(self, *events: Event, milliseconds: int = FOREVER, every: bool = True) -> tuple[int, list[int]]:
        """The result and which events have ended."""
        ended, which = c_uint32(), (c_uint32 * len(events))()
        array = (Event * len(events))(*events)
        result = self.coi.COIEventWait(len(events), array, milliseconds, every, byref(ended), which)
        return result, list(which[: ended.value])

    def destroy(self, milliseconds: int = FOREVER, force: int = 0) -> tuple[int, int, int]:
        """The result, what main returned, and the signal that killed it."""
        returned, signal = c_int8(), c_uint32()
        result = self.coi.COIProcessDestroy(self.handle, milliseconds, force, byref(returned), byref(signal))
        return result, returned.value, signal.value

    def end(self) -> None:
        self.destroy(0, 1)
        self.coi.COIPipelineDestroy(self.pipeline)
