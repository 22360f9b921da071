"""Direct convolution: the microkernel in every size, and the contract with it instead of im2col."""

import numpy as np
import pytest
from helpers.fresh_python import printed
from numba import njit

from cnn import registry
from cnn.arrays import Buffers
from cnn.compiled.microkernel import ROWS, VECTORS, address, tile
from cnn.compiled.vectors import WIDTH
from cnn.convolution import Convolution, Window
from cnn.testing import check_backend


@njit
def run_tile(microkernel, rows, vectors, tail, a, a_strides, counts, b, start, floor, out):
    tile(
        microkernel,
        *(rows, vectors, tail, a.ctypes.data, a_strides[0], a_strides[1], a_strides[2], counts[0], counts[1]),
        *(b.ctypes.data, b.strides[0], start.ctypes.data, 0, np.float32(floor), out.ctypes.data, out.strides[0]),
    )


@pytest.mark.parametrize("vectors", range(1, VECTORS + 1))
@pytest.mark.parametrize("rows", range(1, ROWS + 1))
@pytest.mark.parametrize("tail", [1, WIDTH // 2 + 1, WIDTH])
def test_microkernel(rows, vectors, tail):
    """Rows 5 elements apart, 3 times 4 numbers along each; memory after the last element of out must not change."""
    rng = np.random.default_rng(rows)
    columns = (vectors - 1) * WIDTH + tail
    a = rng.standard_normal(200).astype(np.float32)
    b, start = rng.standard_normal((12, columns), np.float32), rng.standard_normal(columns, np.float32)
    out = np.full((rows, VECTORS * WIDTH + 1), 7, np.float32)
    run_tile(address(), rows, vectors, tail, a, np.array([20, 92, 8]), np.array([3, 4]), b, start, -0.5, out)
    left = np.array([[a[5 * m + 23 * i + 2 * j] for i in range(3) for j in range(4)] for m in range(rows)])
    expected = np.maximum(left.astype(np.float64) @ b + start, -0.5)
    np.testing.assert_allclose(out[:, :columns], expected, rtol=1e-5, atol=1e-5)
    assert (out[:, columns:] == 7).all()


@pytest.fixture
def direct(monkeypatch):
    """A separate backend, because a backend remembers which algorithm it chose."""
    monkeypatch.setenv("CNN_ALGORITHM", "direct")
    return type(registry.create("openblas"))()


def test_contract(direct):
    report = check_backend(direct)
    assert report.runs > 100


WINDOWS = [
    Window((5, 5), (5, 5)),
    Window((1, 1), (3, 3), padding=(1, 1, 1, 1)),
    Window((9, 40), (3, 2), padding=(2, 0, 1, 0)),
    Window((8, 7), (3, 5), padding=(0, 2, 4, 3)),
    Window((9, 30), (3, 4), stride=(2, 3), padding=(1, 1, 2, 0)),
    Window((6, 6), (2, 2), stride=(3, 3)),
    Window((4, 4), (3, 3), padding=(5, 4, 3, 6)),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (3, WIDTH), (2, 3 * WIDTH + 2), (WIDTH + 1, 5)])
def test_all_directions(direct, window, channels, filters):
    rng, reference = np.random.default_rng(0), registry.create("reference")
    convolution = Convolution(window, channels, filters)
    x = rng.standard_normal((3, *window.size, channels), np.float32)
    w = rng.standard_normal((*window.kernel, channels, filters), np.float32)
    bias, dy = rng.standard_normal(filters, np.float32), rng.standard_normal((3, *window.out, filters), np.float32)
    results = []
    for backend in (direct, reference):
        scratch = Buffers(backend)
        y, dw, dx = np.empty_like(dy), np.empty_like(w), np.empty_like(x)
        backend.conv2d(x, w, bias, convolution, "relu", y, scratch)
        backend.conv2d_weight_gradient(x, dy, convolution, dw, scratch)
        backend.conv2d_data_gradient(dy, w, convolution, dx, scratch)
        results.append((y, dw, dx))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * window.taps * max(channels, filters))


def test_the_gradient_of_x_is_a_convolution_only_with_stride_one_and_little_padding():
    padded = Window((9, 8), (5, 3), padding=(2, 2, 1, 1))
    assert Convolution(padded, 2, 3).turned == Convolution(padded, 3, 2)
    turned = Window((5, 6), (5, 3), padding=(4, 4, 2, 2))
    assert Convolution(Window((9, 8), (5, 3)), 2, 3).turned == Convolution(turned, 3, 2)
    assert Convolution(Window((9, 8), (5, 3), stride=(1, 2)), 2, 3).turned is None
    assert Convolution(Window((9, 8), (3, 3), padding=(0, 3, 0, 0)), 2, 3).turned is None


def test_nothing_is_read_behind_an_array():
    """Every array ends just before a page that must not be accessed."""
    code = """
import ctypes, mmap, os
os.environ["CNN_ALGORITHM"] = "direct"
import numpy as np
import cnn
from cnn.arrays import Buffers
from cnn.convolution import Convolution, Window

libc = ctypes.CDLL(None, use_errno=True)
kept = []

def guarded(*shape):
    size = 4 * int(np.prod(shape))
    whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, whole + mmap.PAGESIZE)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + whole), mmap.PAGESIZE, 0) == 0
    return np.frombuffer(memory, np.float32, size // 4, whole - size).reshape(shape)

backend = cnn.use_backend("openblas")
padded = Window((7, 9), (3, 3), padding=(1, 1, 1, 1))
for window, channels, filters, groups in [
    (Window((6, 6), (3, 3)), 1, 5, 1), (padded, 3, 20, 1), (padded, 19, 19, 19), (padded, 9, 18, 9), (padded, 6, 9, 3)
]:
    convolution = Convolution(window, channels, filters, groups)
    x, w, bias = guarded(2, *window.size, channels), guarded(*convolution.weights_shape), guarded(filters)
    y, dw, dx = guarded(2, *window.out, filters), guarded(*w.shape), guarded(*x.shape)
    for threads in (1, 2):
        with cnn.limit_threads(threads):
            backend.conv2d(x, w, bias, convolution, None, y, Buffers(backend))
            backend.conv2d_weight_gradient(x, y, convolution, dw, Buffers(backend))
            backend.conv2d_data_gradient(y, w, convolution, dx, Buffers(backend))
print("untouched")
"""
    assert printed(code).strip() == "untouched"
