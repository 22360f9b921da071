"""What surrounds a program does not change its results: forks, threads, NumPy's errors, how images lie in memory."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.fresh_python import printed
from helpers.ready_backends import ready

from cnn import plugins, registry
from cnn.compiled import preparing
from cnn.data.dataset import Split
from cnn.data.preprocessing import Preprocessing
from cnn.errors import ShapeError, UsageError
from cnn.layers import BatchNorm, Conv2D, Flatten, Linear, MaxPool2D
from cnn.model.sequential import Sequential
from cnn.ops.input import Changes
from cnn.optimizers import SGD, Adam
from cnn.system.cache import cache_folder

NUMPY = plugins.load(plugins.BACKENDS, "numpy")
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (8, 6, 7, 2), np.uint8), np.arange(8) % 3


def small(backend, **settings):
    layers = [Conv2D(3, 3, activation="tanh"), BatchNorm(), MaxPool2D(2), Flatten(), Linear(3)]
    return Sequential(layers, (6, 7, 2), backend=backend, **settings)


FORKED = """
import multiprocessing, warnings
import numpy as np
from cnn.layers import *
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of every fork beside threads
images, labels = np.random.default_rng(0).integers(0, 256, (32, 28, 28, 3), np.uint8), np.arange(32) % 10
models = []
for name in NAMES:
    layers = [Conv2D(20, 5, padding=2), BatchNorm(), MaxPool2D(2), LocalResponseNorm(), Conv2D(20, 3), Flatten()]
    models.append(Sequential([*layers, Linear(200, activation="relu"), Linear(10)], (28, 28, 3), backend=name))

def run(number):
    model = models[number]
    optimizer = SGD()
    optimizer.attach(model.backend, model.groups)
    for _ in range(4):
        model.train_step(images, labels)
        optimizer.step(0.01)
    return model.predict(images).tobytes()

for model in models:
    for _ in range(4):  # the last from a recording
        model.predict(images)
models[0]._lock.acquire()  # as if another thread were in the middle of a call
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(run, range(len(models))).get(60)
models[0]._lock.release()
print(found == [run(number) for number in range(len(models))])
"""


def test_a_forked_process_computes_the_same_bytes():
    names = [ready(name).name for name in ("mkl", "openblas")]
    code = FORKED.replace("NAMES", repr(names))
    # Two threads, so that kernels divide their work also on one processor.
    options = {"CNN_ALGORITHM": "im2col", "CNN_CACHE_DIR": str(cache_folder()), "NUMBA_NUM_THREADS": "2"}
    assert printed(code, **options) == "True\n"


def test_without_a_compiler_backends_say_so():
    code = """
    from cnn.errors import BackendUnavailable
    from cnn.registry import choose, create
    try:
        create("openblas")
    except BackendUnavailable as error:
        print(choose()[0].name, error)
    """
    assert printed(code, NUMBA_DISABLE_JIT="1").startswith("numpy NUMBA_DISABLE_JIT is set")


class Slow(NUMPY):
    """A backend that is not ready at once."""

    name = "slow"

    def __init__(self):
        time.sleep(0.05)
        super().__init__()


def test_threads_that_make_the_same_backend_get_the_same(register_backend):
    register_backend(Slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: registry.create("slow"), range(4)))
    assert found == [found[0]] * 4


def test_kernels_are_made_ready_by_one_thread(monkeypatch):
    calls = []

    class Fake:
        class compiled:  # noqa: N801 - an attribute of kernels
            class stats:  # noqa: N801
                cache_misses = 0

        def compile(self):
            calls.append("begin")
            time.sleep(0.02)
            calls.append("end")

    monkeypatch.setattr(preparing, "KERNELS", [Fake()])
    preparing._prepare.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: preparing.prepare(), range(4)))
    assert calls == ["begin", "end"]


@pytest.mark.parametrize("optimizer", [SGD(), Adam()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("name", ["numpy", "mkl", "openblas", "reference"])
def test_what_numpy_does_about_underflow_does_not_matter(name, optimizer):
    def run(errors):
        net = small(ready(name))
        net.layers[-1].w.value[:] *= np.array([1e3, -1e3, 1e-30], np.float32)
        optimizer.attach(net.backend, net.groups)
        with np.errstate(all=errors):
            found = [net.predict(IMAGES).tobytes(), net.evaluate(Split(IMAGES, LABELS))]
            for _ in range(4):
                found.append(net.train_step(IMAGES, LABELS))
                optimizer.step(1e-30)
            net.forward(net.load_images(IMAGES), training=True)
            net.backward(np.full((8, 3), 1e-38, np.float32))
        return found

    assert run("raise") == run("ignore")


WAYS = {
    "transposed": lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    "Fortran": np.asfortranarray,
    "turned": lambda images: np.ascontiguousarray(images[::-1, :, ::-1])[::-1, :, ::-1],
    "every second": lambda images: images.repeat(2, axis=0)[::2],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["numpy", "mkl", "openblas", "reference"])
def test_images_may_lie_in_memory_in_any_way(name, way):
    net, images = small(ready(name)), WAYS[way](IMAGES)
    assert np.array_equal(images, IMAGES)
    changes = Changes(np.arange(3) % 2 == 0, np.array([[0, 2], [1, 1], [2, 0]]), 1)
    expected = net.load_images(IMAGES, [5, 0, 5], changes).copy()
    assert net.load_images(images, [5, 0, 5], changes).tobytes() == expected.tobytes()
    assert net.predict(images).tobytes() == net.predict(IMAGES).tobytes()
    split = Split(images, LABELS)
    assert split.images.flags.c_contiguous
    assert np.array_equal(split.images, IMAGES)


@pytest.mark.parametrize("name", ["numpy", "mkl", "openblas", "reference"])
def test_only_the_batch_is_gathered(name):
    # A copy of all of these images would need more memory than there is.
    many = np.broadcast_to(IMAGES[:1], (1 << 40, 6, 7, 2))
    net = small(ready(name), preprocessing=Preprocessing(1.0))
    assert np.array_equal(net.load_images(many, [1 << 39, 3])[1], IMAGES[0])
    with pytest.raises(UsageError, match="runs from -1 to 3; give 0 to"):
        net.load_images(many, [3, -1])
    out = np.empty((1, 6, 7, 2), np.float32)
    if name in ("mkl", "openblas"):
        with pytest.raises(UsageError, match="Indices run from -1 to -1"):
            net.backend.load_batch(many, np.array([-1]), Changes(), out, scale=1.0, mean=None, std=None)
    with pytest.raises(ShapeError, match=r"built for images of \(6, 7, 2\)"):
        net.load_images(many[:, 1:], [0])
