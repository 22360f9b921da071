"""The stand-in card's COI functions one by one, with a test program on the card."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import CDLL, byref, c_char_p, c_float, c_uint32, c_uint64, c_void_p
from ctypes import create_string_buffer as text_buffer
from pathlib import Path

import numpy as np
import pytest
from helpers.coi_library import (
    ASYNC,
    FOREVER,
    KNC,
    KNL,
    NORMAL,
    READ_WRITE,
    SINK_MEMORY,
    SYNC,
    Event,
    Process,
    Result,
    load,
)
from helpers.stand_in_card import StandIn, compile_c

pytestmark = pytest.mark.phi


@pytest.fixture(scope="module")
def program(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """coi/program.c, without the right to be executed."""
    path = tmp_path_factory.mktemp("program") / "program"
    compile_c(path, ["program.c"], "-rdynamic", str(stand_in.card / "libcoi_device.so.0"))
    path.chmod(0o644)
    return path


@pytest.fixture
def coi(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> CDLL:
    """The host's library, in this process, with one card of type KNL."""
    monkeypatch.setenv("STANDIN_CARD_LIBRARIES", str(stand_in.card))
    return load(stand_in)


Start = Callable[..., Process]


@pytest.fixture
def start(coi: CDLL, program: Path) -> Iterator[Start]:
    """Starts processes, which end with the test."""
    started = []

    def begin(path: Path = program, arguments: tuple[bytes, ...] = (), inherit: int = 0, more: tuple[bytes, ...] = ()):
        started.append(Process(coi, path, list(arguments), inherit, list(more)))
        return started[-1]

    yield begin
    for process in started:
        process.end()


class TestEngines:
    @pytest.mark.parametrize(("kind", "number", "other"), [("KNL", KNL, KNC), ("KNC", KNC, KNL)])
    def test_of_one_type(self, kind: str, number: int, other: int, coi: CDLL, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("STANDIN_TYPE", kind)
        monkeypatch.setenv("STANDIN_CARDS", "2")
        count, engine = c_uint32(), c_void_p()
        assert (coi.COIEngineGetCount(number, byref(count)), count.value) == (Result.SUCCESS, 2)
        assert (coi.COIEngineGetCount(other, byref(count)), count.value) == (Result.SUCCESS, 0)
        assert coi.COIEngineGetHandle(number, 1, byref(engine)) == Result.SUCCESS
        assert coi.COIEngineGetHandle(number, 2, byref(engine)) == Result.OUT_OF_RANGE
        assert coi.COIEngineGetHandle(other, 0, byref(engine)) == Result.OUT_OF_RANGE

    def test_information_of_both_versions(self, coi: CDLL):
        engine = c_void_p()
        coi.COIEngineGetHandle(KNL, 0, byref(engine))
        info = text_buffer(5200)
        assert coi.COIEngineGetInfo(engine, 5184, info) == Result.SUCCESS
        assert coi.COIEngineGetInfo(engine, 5200, info) == Result.SUCCESS
        assert coi.COIEngineGetInfo(engine, 5201, info) == Result.SIZE_MISMATCH
        assert coi.COIEngineGetInfo(engine, 100, info) == Result.SIZE_MISMATCH
        assert info[:32].decode("utf-32-le") == "stand-in"


class TestProcesses:
    def test_program_that_is_missing_or_never_starts(self, start: Start, tmp_path: Path):
        with pytest.raises(ProcessLookupError, match="COI_DOES_NOT_EXIST"):
            start(tmp_path / "missing")
        with pytest.raises(ProcessLookupError, match="COI_PROCESS_DIED"):
            start(Path("/bin/true"))
        (tmp_path / "text").write_text("no program")
        with pytest.raises(ProcessLookupError, match="COI_PROCESS_DIED"):
            start(tmp_path / "text")

    def test_arguments_and_end(self, start: Start):
        process = start(arguments=(b"one", b"two"))
        assert process.destroy(0) == (Result.TIME_OUT, 0, 0)
        assert process.destroy(FOREVER, 1)[0] == Result.ARGUMENT_MISMATCH
        assert process.destroy(-2)[0] == Result.OUT_OF_RANGE
        assert process.destroy() == (Result.SUCCESS, 3, 0)
        assert process.destroy()[0] == Result.INVALID_HANDLE

    def test_environment(self, start: Start, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("OF_THE_HOST", "seen")
        for inherit, expected in ((0, b"unset"), (1, b"seen")):
            process, value = start(inherit=inherit, more=(b"MORE=given",)), text_buffer(32)
            for name, result in ((b"OF_THE_HOST", expected), (b"MORE", b"given")):
                done = process.run("variable", text_buffer(name), returned=value, returned_length=32)
                assert (process.wait(done)[0], value.value) == (Result.SUCCESS, result)

    def test_unknown_function(self, start: Start):
        process, handles = start(), (c_void_p * 2)()
        names = (c_char_p * 2)(b"absent", b"scale")
        assert process.coi.COIProcessGetFunctionHandles(process.handle, 2, names, handles) == Result.DOES_NOT_EXIST
        assert handles[0] is None
        assert handles[1] is not None

    def test_forced_end_of_a_busy_one(self, start: Start):
        process = start()
        done = process.run("wait_long", c_uint32(60_000))
        time.sleep(0.2)  # what the card has not begun yet is not run
        begin = time.monotonic()
        assert process.destroy(100)[0] == Result.TIME_OUT
        assert process.destroy(100, 1) == (Result.SUCCESS, -1, 9)
        assert process.wait(done)[0] == Result.PROCESS_DIED
        assert time.monotonic() - begin < 30

    def test_nothing_is_left(self, start: Start):
        def kept() -> tuple[int, int, int]:
            maps = Path("/proc/self/maps").read_text()
            return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), maps.count("stand-in card")

        before, total = kept(), c_float()
        for _ in range(5):
            process = start()
            buffer = process.buffer(1 << 20)
            done = process.run("scale", c_float(1), (buffer,), returned=byref(total), returned_length=4)
            assert process.wait(done)[0] == Result.SUCCESS
            assert process.coi.COIBufferDestroy(buffer) == Result.SUCCESS
            process.end()
            process.pipeline = c_void_p()
        assert kept() == before


class TestRunFunctions:
    def test_in_order_with_data_and_result(self, start: Start):
        process, sums = start(), [c_float() for _ in range(3)]
        values = np.arange(1000, dtype=np.float32)
        buffer, out = process.buffer(values.nbytes, values), np.empty_like(values)
        scale = process.function("scale")
        events = [
            process.run(scale, c_float(factor), (buffer,), returned=byref(total), returned_length=4)
            for factor, total in zip((2, 3, 5), sums, strict=True)
        ]
        assert process.wait(*events) == (Result.SUCCESS, [0, 1, 2])
        assert process.coi.COIBufferRead(buffer, 0, out.ctypes.data, out.nbytes, 0, 0, None, None) == Result.SUCCESS
        np.testing.assert_array_equal(out, 30 * values)
        assert [total.value for total in sums] == pytest.approx([factor * 499500 for factor in (2, 6, 30)], rel=1e-5)
        process.coi.COIBufferDestroy(buffer)

    def test_buffer_of_the_host_or_of_another_card(self, start: Start):
        process, memory, handle = start(), np.zeros(4, np.float32), c_void_p()
        for flags, result in ((0, Result.SUCCESS), (SINK_MEMORY, Result.NOT_SUPPORTED)):
            assert result == process.coi.COIBufferCreateFromMemory(
                *(c_uint64(16), NORMAL, flags, memory.ctypes.data_as(c_void_p), 1, byref(process.handle)),
                byref(handle),
            )
        arguments = (process.pipeline, process.function("scale"), 1, byref(handle), byref(c_uint32(READ_WRITE)))
        assert process.coi.COIPipelineRunFunction(*arguments, 0, None, None, 0, None, 0, None) == Result.NOT_SUPPORTED

    def test_destruction_of_a_buffer_waits_for_its_use(self, start: Start):
        process = start()
        buffer = process.buffer(64)
        process.run("wait_long", c_uint32(300), (buffer,))
        begin = time.monotonic()
        assert process.coi.COIBufferDestroy(buffer) == Result.SUCCESS
        assert time.monotonic() - begin > 0.2


class TestTransfers:
    def test_of_parts(self, start: Start):
        process, values = start(), np.arange(256, dtype=np.uint8)
        one, two = process.buffer(256), process.buffer(256)
        coi, out = process.coi, np.zeros(256, np.uint8)
        assert coi.COIBufferWrite(one, 16, values.ctypes.data, 240, 0, 0, None, ASYNC) == Result.SUCCESS
        assert coi.COIBufferCopy(two, one, 0, 16, 100, 0, 0, None, SYNC) == Result.SUCCESS
        assert coi.COIBufferRead(two, 50, out.ctypes.data, 50, 0, 0, None, None) == Result.SUCCESS
        np.testing.assert_array_equal(out[:50], values[50:100])
        assert coi.COIBufferCopy(two, one, 0, 0, 0, 0, 0, None, None) == Result.SUCCESS
        assert coi.COIBufferRead(two, 0, out.ctypes.data, 256, 0, 0, None, None) == Result.SUCCESS
        np.testing.assert_array_equal(out, np.concatenate([np.zeros(16), values[:240]]))
        for buffer in (one, two):
            coi.COIBufferDestroy(buffer)

    @pytest.mark.parametrize(("offset", "size"), [(0, 257), (256, 1), (257, 0), (1, 2**64 - 1), (2**64 - 1, 2)])
    def test_outside_of_a_buffer(self, offset: int, size: int, start: Start):
        process, memory = start(), text_buffer(512)
        buffer = process.buffer(256)
        for transfer in (process.coi.COIBufferWrite, process.coi.COIBufferRead):
            assert transfer(buffer, offset, memory, size, 0, 0, None, None) == Result.OUT_OF_RANGE
        process.coi.COIBufferDestroy(buffer)

    def test_of_nothing_from_nowhere_onto_itself(self, start: Start):
        process, memory = start(), text_buffer(256)
        coi, buffer = process.coi, process.buffer(256)
        assert coi.COIBufferWrite(buffer, 0, memory, 0, 0, 0, None, None) == Result.OUT_OF_RANGE
        assert coi.COIBufferWrite(buffer, 0, None, 1, 0, 0, None, None) == Result.INVALID_POINTER
        assert coi.COIBufferWrite(buffer, 0, memory, 1, 0, 1, None, None) == Result.ARGUMENT_MISMATCH
        assert coi.COIBufferCopy(buffer, buffer, 0, 99, 100, 0, 0, None, None) == Result.MEMORY_OVERLAP
        assert coi.COIBufferCopy(buffer, buffer, 0, 100, 100, 0, 0, None, None) == Result.SUCCESS
        with pytest.raises(BufferError, match="COI_OUT_OF_RANGE"):
            process.buffer(0)
        coi.COIBufferDestroy(buffer)


class TestEvents:
    def test_waiting_ends_in_time(self, start: Start):
        process, never = start(), Event()
        assert process.coi.COIEventRegisterUserEvent(byref(never)) == Result.SUCCESS
        assert process.wait(never, milliseconds=0) == (Result.TIME_OUT, [])
        begin = time.monotonic()
        assert process.wait(never, milliseconds=100) == (Result.TIME_OUT, [])
        assert 0.1 <= time.monotonic() - begin < 5
        done = process.run("wait_long", c_uint32(1))
        assert process.wait(never, done, every=False) == (Result.SUCCESS, [1])
        assert process.wait(never, done, milliseconds=50) == (Result.TIME_OUT, [1])
        assert process.coi.COIEventUnregisterUserEvent(never) == Result.SUCCESS
        assert process.wait(never, done) == (Result.CANCELED, [0, 1])

    def test_wrong_arguments(self, start: Start):
        process, nothing = start(), Event()
        wait = process.coi.COIEventWait
        assert wait(0, byref(nothing), 0, 1, None, None) == Result.OUT_OF_RANGE
        assert wait(1, byref(nothing), -2, 1, None, None) == Result.OUT_OF_RANGE
        assert wait(1, None, 0, 1, None, None) == Result.INVALID_POINTER
        assert wait(2, byref(nothing), 0, 0, None, None) == Result.ARGUMENT_MISMATCH
        assert process.wait(nothing)[0] == Result.INVALID_HANDLE
        assert process.coi.COIEventUnregisterUserEvent(nothing) == Result.INVALID_HANDLE
        assert process.coi.COIResultGetName(Result.PROCESS_DIED) == b"COI_PROCESS_DIED"
        assert process.coi.COIResultGetName(-5) == b"COI_ERROR"

    def test_operation_after_a_cancelled_one_does_not_run(self, start: Start):
        process, event, total = start(), Event(), c_float(7)
        buffer = process.buffer(4, np.ones(1, np.float32))
        process.coi.COIEventRegisterUserEvent(byref(event))
        done = process.run("scale", c_float(2), (buffer,), (event,), byref(total), 4)
        assert process.wait(done, milliseconds=100)[0] == Result.TIME_OUT
        process.coi.COIEventUnregisterUserEvent(event)
        assert process.wait(done)[0] == Result.CANCELED
        assert total.value == 7


class TestDeath:
    def test_every_wait_ends(self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        log = tmp_path / "log"
        monkeypatch.setenv("STANDIN_LOG", str(log))
        process, never, memory = start(), Event(), text_buffer(64)
        coi, buffer = process.coi, process.buffer(64)
        coi.COIEventRegisterUserEvent(byref(never))
        scale, copied = process.function("scale"), Event()
        events = [process.run("crash")]
        events += [process.run(scale, c_float(1), (buffer,), returned=memory, returned_length=4) for _ in range(3)]
        after = (Event * 1)(events[0])
        assert coi.COIBufferRead(buffer, 0, memory, 64, 0, 1, after, byref(copied)) == Result.SUCCESS
        seen: list[int] = []
        # On threads of their own: a wait without end must fail the test and not stop it.
        waits = [threading.Thread(target=lambda e=e: seen.append(process.wait(e)[0])) for e in (*events, copied, never)]
        for thread in waits:
            thread.daemon = True
            thread.start()
        for thread in waits:
            thread.join(20)
        assert seen == [Result.PROCESS_DIED] * 6
        assert log.read_text().count("died after") == 1

        assert coi.COIBufferRead(buffer, 0, memory, 64, 0, 0, None, None) == Result.PROCESS_DIED
        assert coi.COIBufferWrite(buffer, 0, memory, 64, 0, 0, None, None) == Result.PROCESS_DIED
        assert coi.COIPipelineCreate(process.handle, None, 0, byref(c_void_p())) == Result.PROCESS_DIED
        name = byref(c_char_p(b"scale"))
        assert coi.COIProcessGetFunctionHandles(process.handle, 1, name, byref(c_void_p())) == Result.PROCESS_DIED
        with pytest.raises(BufferError, match="COI_PROCESS_DIED"):
            process.buffer(64)
        assert coi.COIBufferDestroy(buffer) == Result.SUCCESS
        assert process.destroy() == (Result.SUCCESS, -1, 9)

    def test_while_nothing_happens(self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        log = tmp_path / "log"
        monkeypatch.setenv("STANDIN_LOG", str(log))
        process, memory = start(), text_buffer(64)
        buffer = process.buffer(64)
        os.kill(int(log.read_text().split("process ")[1].split()[0]), 9)
        time.sleep(0.5)
        assert process.coi.COIBufferRead(buffer, 0, memory, 64, 0, 0, None, None) == Result.PROCESS_DIED
        assert process.coi.COIBufferDestroy(buffer) == Result.SUCCESS

    def test_of_one_card_leaves_the_other(self, start: Start):
        one, two = start(), start()
        assert one.wait(one.run("crash"))[0] == Result.PROCESS_DIED
        total, buffer = c_float(), two.buffer(4, np.ones(1, np.float32))
        done = two.run("scale", c_float(2), (buffer,), returned=byref(total), returned_length=4)
        assert (two.wait(done)[0], total.value) == (Result.SUCCESS, 2)
        assert two.coi.COIBufferDestroy(buffer) == Result.SUCCESS
        assert two.destroy()[:2] == (Result.SUCCESS, 1)
