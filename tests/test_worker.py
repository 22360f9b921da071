"""Products in a worker process are correct whatever happens to the process, or give an error."""

import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.fresh_python import printed
from helpers.openblas_worker import OpenblasWorker, arena_of, close, gone, square, while_it_multiplies, worker_of

from cnn.errors import BackendUnavailable, ShapeError
from cnn.layers import Conv2D, Flatten, Linear
from cnn.model.sequential import Sequential
from cnn.system.signals import stop_on_signals
from cnn.system.threads import limit_threads
from cnn.testing import check_backend, check_gradients
from cnn.worker import process
from cnn.worker.arena import Arena
from cnn.worker.process import WorkerDied

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers need Linux")

LARGE = 3000
"""Rows of a product that takes a good part of a second."""


@pytest.fixture(scope="module")
def backend():
    return OpenblasWorker()


class TestNumbers:
    def test_keeps_the_contract(self, backend):
        assert max(check_backend(backend).worst.values()) <= 1

    def test_gradients_of_a_layer(self, backend):
        check_gradients(Conv2D(3, 3, activation="tanh"), (6, 5, 2), backend=backend)

    @pytest.mark.parametrize("accumulate", [False, True])
    def test_arrays_that_lie_elsewhere_are_copied_there_and_back(self, backend, accumulate):
        a, b, out = (np.random.default_rng(0).standard_normal((9, 9)).astype(np.float32) for _ in range(3))
        right = a @ b + (out if accumulate else 0)
        wide = np.full((9, 12), np.nan, np.float32)
        wide[:, :9] = out
        backend.gemm(a, b, out=wide[:, :9], accumulate=accumulate)
        assert close(wide[:, :9], right)
        assert np.isnan(wide[:, 9:]).all()

    def test_the_arrays_of_a_network_are_shared(self, backend):
        layers = [Conv2D(4, 3, activation="relu"), Flatten(), Linear(10)]
        model = Sequential(layers, (8, 8, 1), backend=backend)
        model.train_step(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64))
        arrays = [*model.arrays().values(), *(each.gradient for each in model.parameters)]
        arrays += [array for slots in model.network._slots.values() for array in slots.memory._buffers.arrays()]
        assert len(arrays) > 8
        assert all(arena_of(backend).holds(x) for x in arrays)

    def test_no_terms_give_zero(self, backend):
        out = backend.asarray(np.full((2, 3), np.nan, np.float32))
        backend.gemm(backend.empty((2, 0)), backend.empty((0, 3)), out=out)
        np.testing.assert_array_equal(out, 0)

    def test_other_types_are_refused(self, backend):
        x = backend.zeros((2, 2), np.float16)
        with pytest.raises(ShapeError, match="multiplies float32 and float64, not float16"):
            backend.gemm(x, x, out=backend.zeros((2, 2), np.float16))

    def test_threads_follow_the_limit(self, backend):
        x, out = backend.zeros((4, 4)), backend.zeros((4, 4))
        for count in (1, 2):
            with limit_threads(count):
                backend.gemm(x, x, out=out)
            # Numba cannot give more than the process may use.
            assert worker_of(backend).call("scipy_openblas_get_num_threads") == [min(count, os.cpu_count())]

    def test_nothing_but_the_standard_library_and_the_blas_is_in_the_worker(self, backend):
        names = [Path(path).name for path in worker_of(backend).mapped()]
        assert Path(backend.libraries[0]).name in names
        assert not [name for name in names if "numpy" in name or "multiarray" in name or "mkl" in name]


class TestDeath:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGFPE])
    def test_killed_in_a_product_it_is_started_again(self, backend, number, capfd):
        a, b, out, right, _ = square(backend, LARGE)
        before = worker_of(backend).pid
        thread = while_it_multiplies(backend, lambda worker: (time.sleep(0.05), os.kill(worker.pid, number)))
        backend.gemm(a, b, out=out)
        thread.join()
        assert close(out, right)
        assert worker_of(backend).pid != before
        ended = f"The worker process {before} was ended by signal {number.name}; it printed nothing."
        assert f"{ended} The product is repeated" in capfd.readouterr().err

    def test_stopped_it_is_named_and_goes_on_when_this_process_is_to_end(self, backend, capfd):
        reasons = []

        class Run:
            def request_stop(self, reason):
                reasons.append(reason)

        def end(worker):
            told = time.monotonic() + 20
            while not worker._told and time.monotonic() < told:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)

        a, b, out, right, _ = square(backend, 64)
        worker_of(backend)._told = False  # another test may have stopped it before
        thread = while_it_multiplies(backend, end)
        os.kill(worker_of(backend).pid, signal.SIGSTOP)
        with stop_on_signals(Run()):
            backend.gemm(a, b, out=out)
            thread.join()
        assert close(out, right)
        assert reasons == ["SIGTERM"]
        assert capfd.readouterr().err.startswith(f"cnn: the worker process {worker_of(backend).pid} is stopped; `kill")

    def test_what_it_added_before_its_death_is_not_added_twice(self, backend):
        a, b, out, right, start = square(backend, 64)

        def spoil(worker):
            os.kill(worker.pid, signal.SIGKILL)
            out[...] += 1000

        thread = while_it_multiplies(backend, spoil)
        os.kill(worker_of(backend).pid, signal.SIGSTOP)
        backend.gemm(a, b, out=out, accumulate=True)
        thread.join()
        assert close(out, right + start)

    def test_killed_between_products(self, backend):
        a, b, out, right, _ = square(backend, 64)
        os.kill(worker_of(backend).pid, signal.SIGKILL)
        backend.gemm(a, b, out=out)
        assert close(out, right)

    def test_killed_again_is_an_error_with_its_cause_and_no_end_of_the_backend(self, monkeypatch):
        backend = OpenblasWorker()
        a, b, out, right, _ = square(backend, 64)
        with monkeypatch.context() as patch:
            patch.setattr(OpenblasWorker, "ready", lambda self, worker: os.kill(worker.pid, signal.SIGKILL))
            os.kill(worker_of(backend).pid, signal.SIGKILL)
            with pytest.raises(WorkerDied, match=r"worker process \d+ was ended by signal SIGKILL; it printed nothing"):
                backend.gemm(a, b, out=out)
        backend.gemm(a, b, out=out)
        assert close(out, right)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (("_exit", 3), "ended with exit status 3; it printed nothing"),
            (("abort",), "was ended by signal SIGABRT"),
            (("shutdown", "its socket", 2), "ended with exit status [01]"),
        ],
    )
    def test_every_end_has_its_words(self, call, message):
        worker = worker_of(OpenblasWorker())
        with pytest.raises(WorkerDied, match=message):
            worker.call(*(descriptor_of_channel(worker.pid) if each == "its socket" else each for each in call))

    def test_its_last_words_are_told(self):
        worker = worker_of(OpenblasWorker())
        worker.call("perror", "char*")
        with pytest.raises(WorkerDied, match=r"ended with exit status 4; its last output: [A-Z]"):
            worker.call("_exit", 4)

    def test_one_that_keeps_still_is_ended(self, monkeypatch):
        monkeypatch.setattr(process, "PATIENCE", 1.5)
        worker = worker_of(OpenblasWorker())
        started = time.monotonic()
        with pytest.raises(WorkerDied, match=r"was stuck for 1.5 seconds and was ended"):
            worker.call("sleep", 1000)
        assert 1.5 < time.monotonic() - started < 10
        assert gone(worker.pid)

    def test_one_that_is_stopped_by_the_user_is_waited_for(self, backend, monkeypatch):
        monkeypatch.setattr(process, "PATIENCE", 0.5)
        a, b, out, right, _ = square(backend, 64)
        pid = worker_of(backend).pid
        os.kill(pid, signal.SIGSTOP)
        thread = while_it_multiplies(backend, lambda worker: (time.sleep(3), os.kill(pid, signal.SIGCONT)))
        backend.gemm(a, b, out=out)
        thread.join()
        assert close(out, right)
        assert worker_of(backend).pid == pid

    def test_an_interrupted_product_s_answer_is_never_taken_for_the_next_one_s(self, backend):
        def interrupt(number, frame):
            raise KeyboardInterrupt

        a, b, out, right, _ = square(backend, LARGE)
        small = square(backend, 32)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            thread = while_it_multiplies(backend, lambda worker: os.kill(os.getpid(), signal.SIGALRM))
            with pytest.raises(KeyboardInterrupt):
                backend.gemm(a, b, out=out)
        finally:
            signal.signal(signal.SIGALRM, before)
        thread.join()
        backend.gemm(small[0], small[1], out=small[2])
        assert close(small[2], small[3])
        backend.gemm(a, b, out=out)
        assert close(out, right)


class TestStart:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"libraries": ("/nowhere/libblas.so",)},
                "exit status 1; its last output: /nowhere/libblas.so: cannot open",
            ),
            ({"symbol": "no_{}gemm"}, "its last output: .*undefined symbol: no_sgemm"),
        ],
    )
    def test_library_that_does_not_fit(self, monkeypatch, change, message):
        for name, value in change.items():
            monkeypatch.setattr(OpenblasWorker, name, value)
        with pytest.raises(BackendUnavailable, match=rf"'openblas-worker' cannot start: .*{message}"):
            OpenblasWorker()

    def test_no_such_interpreter(self, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(BackendUnavailable, match="/nowhere/python"):
            OpenblasWorker()

    def test_no_room_for_addresses(self):
        code = """
            import resource
            from helpers.openblas_worker import OpenblasWorker
            from cnn.errors import BackendUnavailable
            resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
            try:
                OpenblasWorker()
            except BackendUnavailable as error:
                print(error)
        """
        assert "gets no memory to share with its worker process" in printed(code, Path(__file__).parent)

    def test_forked_process_is_refused(self):
        code = """
            import os, warnings
            warnings.simplefilter("ignore")
            from helpers.openblas_worker import OpenblasWorker
            backend = OpenblasWorker()
            x = backend.zeros((2, 2))
            if os.fork() == 0:
                try:
                    backend.gemm(x, x, out=backend.zeros((2, 2)))
                except Exception as error:
                    print(error, flush=True)
                os._exit(0)
            os.wait()
        """
        assert "was forked with its process" in printed(code, Path(__file__).parent)


class TestEndOfTheParent:
    CODE = """
        import signal
        # A shell has the programs that it runs in the background ignore it, and all that they start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from helpers.openblas_worker import OpenblasWorker, square, worker_of
        backend = OpenblasWorker()
        a, b, out, *_ = square(backend, 2000)
        print(worker_of(backend).pid, flush=True)
        while True:
            backend.gemm(a, b, out=out)
    """

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    def test_the_worker_ends_too_in_the_middle_of_a_product(self, number):
        folder = str(Path(__file__).parent)
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.CODE)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": folder},
        ) as parent:
            pid = int(parent.stdout.readline())
            time.sleep(0.2)
            parent.send_signal(number)
            try:
                parent.wait(20)
            finally:
                parent.kill()
            assert gone(pid)

    def test_a_worker_that_nobody_asks_ends_with_its_backend(self):
        backend = OpenblasWorker()
        pid = worker_of(backend).pid
        del backend
        gc.collect()
        assert gone(pid)


class TestArena:
    def test_memory_is_given_back_and_taken_again(self):
        arena = Arena()
        first = arena.empty((1000, 1000), np.float32)
        first.fill(1)
        place, view = arena.offset(first), first[10:20, 3]
        del first
        held = pages(arena)
        assert held >= 4_000_000
        assert arena.empty((1000, 1000), np.float32)[0, 0] == 0
        assert view.sum() == 10
        del view
        assert pages(arena) < held
        again = arena.empty((2000,), np.float64)
        assert arena.offset(again) == place
        assert not again.any()

    def test_stretches_given_back_are_joined(self):
        arena = Arena()
        arrays = [arena.empty((1 << 20,), np.uint8) for _ in range(4)]
        place = arena.offset(arrays[0])
        for k in (1, 3, 0, 2):
            arrays[k] = None
        whole = arena.empty((4 << 20,), np.uint8)
        assert arena.offset(whole) == place
        del whole
        # With the memory behind them, too.
        assert arena.offset(arena.empty((16 << 20,), np.uint8)) == place

    def test_arrays_do_not_overlap_and_are_aligned(self):
        arena, rng = Arena(), np.random.default_rng(0)
        arrays = {}
        for k in range(300):
            if arrays and rng.random() < 0.4:
                del arrays[list(arrays)[rng.integers(len(arrays))]]
            arrays[k] = arena.empty((int(rng.integers(0, 9000)),), np.float32)
            arrays[k].fill(k)
            assert arrays[k].ctypes.data % 64 == 0
        for k, array in arrays.items():
            assert (array == k).all()

    def test_more_than_the_machine_has_is_a_memory_error(self):
        with pytest.raises(MemoryError, match="bytes do not fit"):
            Arena().empty((1 << 50,), np.uint8)

    def test_pages_are_reserved_before_they_are_written(self, monkeypatch):
        arena = Arena()
        first = arena.empty((1000, 1000), np.float32)
        assert pages(arena) >= first.nbytes
        place = arena.offset(first)
        del first

        def full(descriptor, start, size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(MemoryError, match=r"refuses 4,001,792 bytes of shared memory \(No space left"):
            arena.empty((1000, 1000), np.float32)
        monkeypatch.undo()
        assert arena.offset(arena.empty((1000, 1000), np.float32)) == place

    def test_empty_and_scalar_shapes(self):
        arena = Arena()
        assert arena.empty((0, 5), np.float32).shape == (0, 5)
        assert arena.empty((), np.float64).shape == ()


def pages(arena):
    """Bytes of memory behind the arena."""
    return os.fstat(arena.descriptor).st_blocks * 512


def descriptor_of_channel(pid):
    """The number of the worker's socket."""
    folder = Path(f"/proc/{pid}/fd")
    return next(int(link.name) for link in folder.iterdir() if os.readlink(link).startswith("socket:"))
