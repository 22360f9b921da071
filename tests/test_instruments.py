"""Instruments work on private copies: other users of the same backend are neither affected nor counted."""

import os
import signal
import threading

import numpy as np
import pytest
from helpers.openblas_worker import OpenblasWorker, close, square

from cnn import plugins, registry
from cnn.arrays import Buffers
from cnn.convolution import Convolution, Window
from cnn.instruments import private
from cnn.measure.profiler import LOWERING, profile_step, reported_products, whole_step
from cnn.model.zoo import architecture
from cnn.registry import create, statuses
from cnn.system.threads import limit_threads
from cnn.system.timing import Stopwatch
from cnn.testing import Recorder

READY = [each.name for each in statuses() if each.name in ("mkl", "openblas", "numpy") and not each.reason]


def images(model, count=8):
    return np.random.default_rng(0).integers(0, 256, (count, *model.input_shape), np.uint8)


@pytest.mark.parametrize("name", READY)
def test_a_model_predicts_the_same_while_another_one_is_profiled(name):
    backend, net = create(name), architecture("lenet5")
    before, stop, found = vars(backend).copy(), threading.Event(), []

    def predict():
        with limit_threads(1):
            model = net.build(backend=backend)
            pixels = images(model)
            while not stop.is_set():
                found.append(model.predict(pixels).tobytes())

    with limit_threads(1):
        model = net.build(backend=backend)
        expected = model.predict(images(model)).tobytes()
        thread = threading.Thread(target=predict)
        thread.start()
        try:
            lines = profile_step(net, backend, 4, repeats=10)
            whole_step(net, backend, 4, repeats=10)
            reported_products(net, backend, 4)
        finally:
            stop.set()
            thread.join()
    assert len(found) > 10
    assert set(found) == {expected}
    assert {line.layer for line in lines} > {"conv1", "conv2", "linear1", "update"}
    assert vars(backend).keys() == before.keys()
    assert all(vars(backend)[key] is value for key, value in before.items())


def test_only_the_work_of_the_private_copy_is_timed_and_recorded():
    backend, stopwatch = create("numpy"), Stopwatch()
    recorder = Recorder(backend.instruments.timed(LOWERING, stopwatch))
    others, observed = (architecture("lenet").build(backend=each) for each in (backend, recorder.backend))
    others.predict(images(others))
    assert stopwatch.seconds == 0
    assert recorder.products == []
    assert observed.predict(images(others)).tobytes() == others.predict(images(others)).tobytes()
    assert stopwatch.seconds > 0
    assert len(recorder.products) == 4


@pytest.mark.parametrize("name", READY)
def test_without_products_the_rest_of_the_work_is_done(name):
    backend, convolution = create(name), Convolution(Window((9, 9), (3, 3)), 16, 16)
    x, w = (np.ones(shape, np.float32) for shape in ((2, 9, 9, 16), (3, 3, 16, 16)))
    bias, out = np.full(16, 2, np.float32), np.zeros((2, 7, 7, 16), np.float32)
    bare = backend.instruments.without_products()
    bare.conv2d(x, w, bias, convolution, None, out, Buffers(bare))
    np.testing.assert_array_equal(out, 2)
    matrix = np.full((3, 3), 5, np.float32)
    bare.gemm(matrix, matrix, out=matrix)
    np.testing.assert_array_equal(matrix, 5)
    backend.conv2d(x, w, bias, convolution, None, out, Buffers(backend))
    np.testing.assert_array_equal(out, 9 * 16 + 2)


def test_no_algorithm_is_chosen_by_its_time_without_products(monkeypatch):
    monkeypatch.setenv("CNN_ALGORITHM", "auto")
    backend = registry.construct("openblas")
    bare = backend.instruments.without_products()
    convolution = Convolution(Window((11, 13), (3, 3)), 19, 23)
    x, w, out = (np.ones(shape, np.float32) for shape in ((1, 11, 13, 19), (3, 3, 19, 23), (1, 9, 11, 23)))
    bare.conv2d(x, w, None, convolution, None, out, Buffers(bare))
    assert backend.instruments.algorithms() == {}
    backend.conv2d(x, w, None, convolution, None, out, Buffers(backend))
    [(shape, choice)] = backend.instruments.algorithms().items()
    assert choice.source == shape
    assert choice.seconds.keys() > {"im2col", "direct"}
    assert choice.name == min(choice.seconds, key=choice.seconds.__getitem__)
    assert bare.instruments.algorithms() == backend.instruments.algorithms()


class Closing(plugins.load(plugins.BACKENDS, "numpy")):
    """A third-party backend that has no support for copies and frees its resources when it ends."""

    def __init__(self):
        super().__init__()
        self.handle = ["open"]

    def __del__(self):
        self.handle[0] = "closed"


def test_what_a_backend_holds_is_held_as_long_as_a_copy_and_not_closed_by_one():
    backend = Closing()
    handle, copied = backend.handle, private(private(backend))
    assert copied.handle is handle
    del copied
    assert handle == ["open"]
    copied = backend.instruments.without_products()
    del backend
    assert handle == ["open"]
    del copied
    assert handle == ["closed"]


def test_a_private_copy_has_the_worker_and_the_memory_of_its_backend():
    backend = OpenblasWorker()
    recorder = Recorder(backend)
    a, b, out, right, _ = square(recorder.backend, 64)
    pid = backend._worker.pid
    recorder.backend.gemm(a, b, out=out)
    assert close(out, right)
    assert recorder.backend._worker.pid == backend._worker.pid == pid
    assert all(backend._arena.holds(x) for x in (a, b, out))
    # Whichever of the two restarts it, it is there for both.
    os.kill(pid, signal.SIGKILL)
    recorder.backend.gemm(a, b, out=out)
    assert recorder.backend._worker is backend._worker
    assert backend._worker.pid != pid
    backend.gemm(a, b, out=out)
    assert len(recorder.products) == 2
    assert close(out, right)
