"""The compiled operations: thread counts, thresholds, arrays they leave to NumPy, extremes, and batches from pixels."""

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest

import cnn.compiled  # noqa: F401 - chooses the threading layer
from cnn import plugins
from cnn.arrays import Buffers
from cnn.backend import Backend
from cnn.compiled import ops, parts
from cnn.compiled.input import Constants, batch_into
from cnn.compiled.kernels import KERNELS
from cnn.compiled.preparing import prepare
from cnn.convolution import Window
from cnn.data.augmentation import Augmentation
from cnn.data.preprocessing import Preprocessing
from cnn.errors import ShapeError, UsageError
from cnn.ops.elementwise import ACTIVATIONS, FUSED
from cnn.ops.input import Changes
from cnn.registry import create
from cnn.testing import CASES, Case, check_case

Numpy: Any = plugins.load(plugins.BACKENDS, "numpy")
OPERATIONS = [name for name in vars(ops.CompiledOps) if not name.startswith("_")]


class Compiled(ops.CompiledOps, Numpy):  # type: ignore[misc]
    """The compiled operations on NumPy's products."""


@pytest.fixture(scope="module")
def compiled() -> Backend:
    prepare()
    return Compiled()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Every array is divided into that many parts, however small."""
    monkeypatch.setattr(parts, "SERIAL", 0)
    if request.param > numba.config.NUMBA_NUM_THREADS:
        monkeypatch.setattr(ops, "parts_for", lambda elements: request.param)  # parts beyond the threads wait in line
        yield request.param
        return
    with parts.limited(request.param):
        yield request.param


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.operation in OPERATIONS], ids=lambda case: f"{case.operation} {case.name}"
)
def test_contract_in_parts(compiled: Backend, case: Case, threads: int) -> None:
    check_case(compiled, case, np.float32)


@pytest.mark.parametrize("size", [parts.SERIAL - 1, parts.SERIAL, 3 * parts.SERIAL + 7])
@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_activations_on_both_sides_of_the_threshold(compiled: Backend, name: str, size: int) -> None:
    x = (4 * np.random.default_rng(0).standard_normal(size)).astype(np.float32)
    out, again = np.full_like(x, np.nan), x.copy()
    compiled.activation(name, x, out)
    compiled.activation(name, again, again)
    expected = {
        "relu": np.maximum(x, 0),
        "tanh": np.tanh(x.astype(float)),
        "sigmoid": 1 / (1 + np.exp(-x.astype(float))),
    }
    np.testing.assert_allclose(out, expected[name], rtol=8 * np.finfo(np.float32).eps)
    assert out.tobytes() == again.tobytes()


def test_thread_counts_agree(compiled: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Selected or separately computed elements have the same bits; sums over rows are within the bound of a sum."""
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 5, 16, 16, 21)).astype(np.float32)
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(ops, "parts_for", lambda elements, count=count: count)
        y, dx, bias = x.copy(), np.empty_like(x), np.empty(21, np.float32)
        compiled.bias_activation(y, dy[0, 0, 0], "tanh")
        compiled.activation_gradient("tanh", y, dy, dx)
        compiled.bias_gradient(dx, bias)
        results.append((y, dx, bias))
    for y, dx, bias in results[1:]:
        assert y.tobytes() == results[0][0].tobytes()
        assert dx.tobytes() == results[0][1].tobytes()
        bound = (dx[..., 0].size + 2) * np.finfo(np.float32).eps * np.abs(dx).sum(axis=(0, 1, 2))
        assert (np.abs(bias - results[0][2]) <= bound).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_the_extremes(compiled: Backend, name: str) -> None:
    x = np.array([-1e30, -104, -88, -1e-20, -0.0, 0, 1e-20, 0.6249, 0.6251, 88, 104, 1e30, np.nan])
    if name in FUSED:
        x = np.append(x, [-np.inf, np.inf])
    x = np.tile(x, 3).astype(np.float32)
    out, wide = np.empty_like(x), np.empty(x.shape)
    compiled.activation(name, x, out)
    create("numpy").activation(name, x.astype(float), wide)
    # A subnormal exp is taken as 0, and silu multiplies it by x.
    np.testing.assert_allclose(out, wide, rtol=1e-6, atol=200 * np.finfo(np.float32).tiny)


def test_softmax_of_infinite_and_nan_scores_is_numpys(compiled: Backend) -> None:
    scores = np.array([[1, np.nan, 2], [np.inf, 1, 2], [-np.inf, 0, 0], [200, -200, 0]], np.float32)
    labels = np.array([1, 0, 1, 0])
    results = []
    with np.errstate(invalid="ignore"):
        for backend in (compiled, create("numpy")):
            out = np.empty_like(scores)
            loss, correct = backend.softmax_cross_entropy(scores, labels, out)
            results.append((out, loss, correct))
    for ours, numpys in zip(*results, strict=True):
        np.testing.assert_allclose(ours, numpys, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_a_label_beyond_the_scores_is_an_error(compiled: Backend, loss: str) -> None:
    scores, out = np.zeros((2, 2, 3), np.float32)
    targets = {"low": 0.0, "high": 1.0} if loss == "squared_error" else {}
    with pytest.raises(IndexError, match="outside the 3 classes"):
        getattr(compiled, loss)(scores, np.array([0, 3]), out, **targets)


def test_nan_wins_a_window_and_padding_never_does(compiled: Backend) -> None:
    for window in (Window((4, 4), (3, 3), (2, 2), (1, 1, 1, 1)), Window((4, 4), (2, 2), (2, 2))):
        x = np.full((1, 4, 4, 20), -5, np.float32)
        x[0, 0, 1, ::3], x[0, 3, 3, ::2], x[0, 2, 2] = np.nan, -np.inf, -np.inf
        results = []
        for backend in (compiled, create("numpy")):
            out, winners = np.empty((1, 2, 2, 20), np.float32), np.empty((1, 2, 2, 20), np.uint8)
            backend.max_pool2d(x, window, out, winners, Buffers(backend))
            results.append((out, winners))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        np.testing.assert_array_equal(results[0][1], results[1][1])
        assert np.isnan(results[0][0][0, 0, 0, ::3]).all()


def test_other_arrays_are_left_to_numpy(compiled: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """float64, strided, read-only and unfitting arrays reach no kernel."""

    def forbidden(*arguments: Any) -> None:
        raise AssertionError("a kernel was called")

    for module, kernel in ((ops.elementwise, "forward"), (ops.elementwise, "backward"), (ops.pooling, "pool")):
        monkeypatch.setattr(module, kernel, forbidden)
    monkeypatch.setattr(ops.losses, "softmax", forbidden)
    monkeypatch.setattr(ops.updates, "update", forbidden)
    rng = np.random.default_rng(2)
    fixed = rng.standard_normal((2, 4, 4, 6)).astype(np.float32)
    fixed.flags.writeable = False
    for x in (rng.standard_normal((2, 4, 4, 3)), rng.standard_normal((2, 4, 4, 6)).astype(np.float32)[..., ::2], fixed):
        out = np.empty_like(x)
        compiled.activation("relu", x, out)
        np.testing.assert_array_equal(out, np.maximum(x, 0))
        compiled.activation_gradient("relu", x, x, out)
        np.testing.assert_array_equal(out, np.maximum(x, 0))
        pooled = np.empty((2, 2, 2, x.shape[3]), x.dtype)
        compiled.avg_pool2d(x, Window((4, 4), (2, 2), (2, 2)), pooled)
        np.testing.assert_allclose(pooled, x.reshape(2, 2, 2, 2, 2, -1).mean(axis=(2, 4)), rtol=1e-5, atol=1e-6)
        rows, probabilities = x.reshape(2, -1), np.empty((2, x[0].size), x.dtype)
        rows.flags.writeable = x.flags.writeable
        compiled.softmax(rows if not x.flags.carray else x.reshape(2, -1), probabilities)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    w, g, v = np.ones((3, 4, 6))[..., ::2]
    compiled.sgd_update(w, g, v, Buffers(compiled, np.float64), lr=0.5, momentum=0.0, decay=0.0, nesterov=False)
    np.testing.assert_array_equal(w, np.full((4, 3), 0.5))


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("shape", [(1, 1), (700, 10), (9, 7, 5, 33), (3, 5000)])
def test_activation_and_bias_gradient_in_one_pass(compiled: Any, name: str, shape: tuple[int, ...]) -> None:
    y, dy = np.random.default_rng(3).random((2, *shape), np.float32)
    out, bias = np.empty_like(y), np.empty(shape[-1:], np.float32)
    compiled.activation_bias_gradient(name, y, dy, out, bias)
    alone = np.empty_like(y)
    compiled.activation_gradient(name, y, dy, alone)
    assert out.tobytes() == alone.tobytes()
    np.testing.assert_allclose(bias, alone.reshape(-1, shape[-1]).sum(axis=0, dtype=float), rtol=1e-5, atol=1e-5)


MEAN_IMAGE = np.random.default_rng(5).random((9, 8, 3), np.float32)
PREPROCESSINGS = {
    "scale": Preprocessing(1 / 256),
    "channel means": Preprocessing(1 / 255, np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.7])),
    "mean image": Preprocessing(1.0, MEAN_IMAGE),
    "mean image and std": Preprocessing(0.01, MEAN_IMAGE, np.array([0.2, 0.3, 0.7])),
}


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(True),
        Augmentation(pad_crop=3),
        Augmentation(True, 7),
        Augmentation(pad_crop=2, border="reflect"),
        Augmentation(True, 7, border="reflect", cutout=4),
        Augmentation(cutout=30),
    ],
)
@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("count", [0, 1, 300])
def test_batches_have_the_bits_of_the_steps_one_by_one(name: str, augmentation: Augmentation, count: int) -> None:
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (50, 9, 8, 3), np.uint8)
    images.flags.writeable = False
    order = rng.integers(0, 50, count)
    steps = PREPROCESSINGS[name]
    expected = steps.apply(augmentation.apply(images[order], np.random.default_rng(6)))
    drawn = np.random.default_rng(6)
    mirrored = drawn.random((count, 1, 1, 1)).reshape(-1) < 0.5 if augmentation.flip else None
    pad = augmentation.pad_crop
    corners = drawn.integers(0, 2 * pad + 1, size=(count, 2)) if pad else None
    out = np.full(expected.shape, np.nan, np.float32)
    constants = Constants.of((9, 8, 3), scale=steps.scale, mean=steps.mean, std=steps.std)
    hole = augmentation.cutout
    holes = drawn.integers(0, (9, 8), size=(count, 2)) if hole else None
    Changes(holes=holes, hole=hole).cut(expected)
    settings = {"pad": pad, "reflect": augmentation.border == "reflect", "holes": holes, "hole": hole}
    batch_into(out, images, order, constants, mirrored=mirrored, corners=corners, **settings)
    assert out.tobytes() == expected.tobytes()


def test_batches_refuse_what_does_not_fit() -> None:
    images, order, out = np.zeros((4, 2, 3, 1), np.uint8), np.array([0, 3]), np.empty((2, 2, 3, 1), np.float32)
    constants = Constants.of((2, 3, 1), scale=1.0, mean=None, std=None)
    with pytest.raises(UsageError, match="0 to 4; give 0 to 3"):
        batch_into(out, images, np.array([0, 4]), constants)
    with pytest.raises(UsageError, match="0 to 3; give 0 to 2"):
        batch_into(out, images, order, constants, corners=np.array([[0, 0], [3, 0]]), pad=1)
    with pytest.raises(ShapeError, match="cannot be reflected 2 pixels deep"):
        batch_into(out, images, order, constants, corners=np.array([[0, 0], [3, 0]]), pad=2, reflect=True)
    with pytest.raises(ShapeError, match="mirrorings"):
        batch_into(out, images, order, constants, mirrored=np.array([True]))
    with pytest.raises(ShapeError, match="batch"):
        batch_into(out.astype(float), images, order, constants)
    with pytest.raises(ShapeError, match="Images"):
        batch_into(out, images[:, :, :2], order, constants)
    with pytest.raises(ShapeError, match="mean"):
        Constants.of((2, 3, 1), scale=1.0, mean=np.zeros(2, np.float32), std=None)


def test_start_up_compiles_all_that_is_called(compiled: Backend) -> None:
    """Each kernel has only the listed types: a call with others would compile in the middle of a run."""
    assert KERNELS
    for kernel in KERNELS:
        kernel.compile()
        assert kernel.compiled.signatures == [kernel.kinds]
