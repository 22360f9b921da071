"""Operations on arrays that are bfloat16 in memory: computed in float32, rounded once, and never as integers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnn import registry
from cnn.arrays import Array, Buffers
from cnn.backend import Backend
from cnn.compiled import elementwise, normalization, ops, pooling
from cnn.compiled.kernels import KERNELS, RARE
from cnn.compiled.recording import KernelRecording
from cnn.compiled.rounding import SHORTS
from cnn.convolution import Window
from cnn.ops.elementwise import ACTIVATIONS, FUSED
from cnn.precision import SHORT, shortened, widened
from cnn.testing import check_case
from cnn.testing.case import Case
from cnn.testing.comparison import ContractViolation
from cnn.testing.stored import stored_cases

Openblas: Any = type(registry.create("openblas"))
CASES = [case for case in stored_cases() if case.operation in vars(ops.CompiledOps)]
RNG = np.random.default_rng


class Storing(Openblas):  # type: ignore[misc]
    """It stores bfloat16 on every processor."""

    stores_bfloat16 = True


@pytest.fixture(scope="module")
def backend() -> Backend:
    made: Backend = Storing()
    return made


@pytest.fixture(params=[1, 2, 5])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every array is divided into that many parts, however small; those beyond the threads wait in line."""
    monkeypatch.setattr(ops, "parts_for", lambda elements: request.param)
    return int(request.param)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation} {case.name}")
def test_the_contract_holds_in_parts(backend: Backend, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 2):
        monkeypatch.setattr(ops, "parts_for", lambda elements, count=count: count)
        check_case(backend, case, np.float32)


def test_the_contract_names_all_operations() -> None:
    assert {case.operation for case in CASES} == {
        *("max_pool2d", "max_pool2d_gradient", "avg_pool2d", "avg_pool2d_gradient", "activation"),
        *("activation_gradient", "activation_bias_gradient", "bias_gradient", "add", "copy_channels"),
        *("batch_statistics", "batch_norm", "batch_norm_sums", "batch_norm_gradient"),
    }


Call = Callable[[Backend, dict[str, Array], Buffers], None]
SHAPE, CHANNELS = (7, 13, 15, 37), 37
WINDOWS = {
    "2/2": Window((13, 15), (2, 2), (2, 2)),
    "2/2 ceil": Window((13, 15), (2, 2), (2, 2), ceil=True),
    "2/1 padded": Window((13, 15), (2, 2), (1, 1), (1, 0, 1, 1)),
    "3/2 padded, ceil": Window((13, 15), (3, 3), (2, 2), (1, 1, 1, 1), ceil=True),
    "3x2/1x2": Window((13, 15), (3, 2), (1, 2)),
    "whole image": Window((13, 15), (13, 15)),
    "dilated": Window((13, 15), (3, 2), (1, 1), dilation=(2, 3)),
}
"""The last one is left to NumPy."""


def calls() -> dict[str, tuple[Call, tuple[int, ...] | None]]:
    """Every operation by name, with the shape of `small` if it has pooled images."""
    found = dict[str, tuple[Call, tuple[int, ...] | None]]()

    def put(name: str, call: Call, small: tuple[int, ...] | None = None) -> None:
        found[name] = call, small

    for name in ACTIVATIONS:
        put(name, lambda b, a, s, name=name: b.activation(name, a["x"], a["out"]))
        put(f"{name} in place", lambda b, a, s, name=name: b.activation(name, a["out"], a["out"]))
        put(f"{name} gradient", lambda b, a, s, name=name: b.activation_gradient(name, a["x"], a["y"], a["out"]))
    for name in FUSED:
        put(
            f"{name} and bias gradient",
            lambda b, a, s, name=name: b.activation_bias_gradient(name, a["x"], a["y"], a["out"], a["one"]),
        )
        put(f"bias and {name}", lambda b, a, s, name=name: b.bias_activation(a["out"], a["gamma"], name))
    for activation in (None, *FUSED):
        for out in ("out", "x", "y"):
            put(f"add {activation} {out}", lambda b, a, s, act=activation, out=out: b.add(a["x"], a["y"], act, a[out]))
    put("bias gradient", lambda b, a, s: b.bias_gradient(a["x"], a["one"]))
    put("scale", lambda b, a, s: b.scale(a["x"], -0.3, a["out"]))
    put("scale in place", lambda b, a, s: b.scale(a["out"], 3.7, a["out"]))
    put("scale by factors", lambda b, a, s: b.scale(a["x"], a["factors"], a["out"]))
    put("scale by channels", lambda b, a, s: b.scale(a["x"], a["gamma"], a["out"]))
    put("copy channels", lambda b, a, s: b.copy_channels(a["x"], a["out"], channels=11, source=3, target=20))
    put("statistics", lambda b, a, s: b.batch_statistics(a["x"], a["one"], a["two"]))
    numbers = ("mean", "variance", "gamma", "beta")
    for relu in (False, True):

        def given(a: dict[str, Array], *names: str) -> tuple[Array, ...]:
            return tuple(a[name] for name in names)

        put(
            f"batch norm {relu}",
            lambda b, a, s, r=relu: b.batch_norm(a["x"], *given(a, *numbers), a["out"], epsilon=1e-3, relu=r),
        )
        put(
            f"batch norm sums {relu}",
            lambda b, a, s, r=relu: b.batch_norm_sums(
                *given(a, "x", "y", *numbers, "one", "two"), s, epsilon=1e-3, relu=r
            ),
        )
        put(
            f"batch norm gradient {relu}",
            lambda b, a, s, r=relu: b.batch_norm_gradient(
                *given(a, "x", "y", *numbers, "gamma", "beta", "out"), epsilon=1e-3, rows=a["x"].size // 37, relu=r
            ),
        )
    for name, window in WINDOWS.items():
        small = (SHAPE[0], *window.out, CHANNELS)
        put(
            f"max pool {name}",
            lambda b, a, s, w=window: b.max_pool2d(a["x"], w, a["small"], a["winners"], s),
            small,
        )
        put(f"max pool {name} alone", lambda b, a, s, w=window: b.max_pool2d(a["x"], w, a["small"], None, s), small)
        put(
            f"max pool gradient {name}",
            lambda b, a, s, w=window: b.max_pool2d_gradient(a["small"], a["winners"], w, a["out"], s),
            small,
        )
        put(f"avg pool {name}", lambda b, a, s, w=window: b.avg_pool2d(a["x"], w, a["small"]), small)
        put(
            f"avg pool gradient {name}",
            lambda b, a, s, w=window: b.avg_pool2d_gradient(a["small"], w, a["out"], s),
            small,
        )
    return found


CALLS = calls()


def arrays(small: tuple[int, ...] | None) -> dict[str, Array]:
    """Float32 images whose numbers are bfloat16, some of them NaN, infinite or tied, and numbers of channels."""
    rng = RNG(0)
    images = {"x": SHAPE, "y": SHAPE, "out": SHAPE} | ({"small": small} if small else {})
    found: dict[str, Array] = {}
    for name, shape in images.items():
        x = np.round(8 * rng.standard_normal(shape)).astype(np.float32) / 4
        x[rng.random(shape) < 0.5] *= np.float32(1.0078125)
        x[(0,) * (len(shape) - 1)] = rng.choice(
            np.array([np.nan, np.inf, -np.inf, 0, -0.0, 3e38], np.float32), CHANNELS
        )
        found[name] = widened(shortened(x))
    for name in ("mean", "variance", "gamma", "beta", "one", "two"):
        found[name] = rng.random(CHANNELS, np.float32) + np.float32(0.5)
    if small:
        found["winners"] = rng.integers(0, 6, small, np.uint8)
    return found | {"factors": rng.random(SHAPE, np.float32)}


def short(given: dict[str, Array]) -> dict[str, Array]:
    return {name: shortened(x) if name in ("x", "y", "out", "small") else x.copy() for name, x in given.items()}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_float32_rounded_once(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, and sums over the rows are not rounded at all."""
    call, small = CALLS[name]
    for count in (1, 3):
        monkeypatch.setattr(ops, "parts_for", lambda elements, count=count: count)
        wide = arrays(small)
        narrow = short(wide)
        before = short(wide)
        for given in (wide, narrow):
            call(backend, given, Buffers(backend))
        for each, x in narrow.items():
            expected = shortened(wide[each]) if x.dtype == SHORT else wide[each]
            np.testing.assert_array_equal(plain(x), plain(expected), strict=True)
        assert any(x.tobytes() != before[each].tobytes() for each, x in narrow.items()), "nothing was computed"


def plain(x: Array) -> Array:
    """The bits of x, with one pattern for all that is NaN."""
    if x.dtype == np.uint8:
        return x
    wide = widened(x) if x.dtype == SHORT else x
    return np.where(np.isnan(wide), np.uint32(0x7FC00000), wide.view(np.uint32))


ALL = np.arange(1 << 16, dtype=SHORT)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_bfloat16_is_rounded_to_nearest_even(backend: Backend, parts: int) -> None:
    """Among them are subnormal numbers, ties, sums that overflow, infinities and every NaN."""
    for y in (np.roll(ALL, 128), np.roll(ALL, 1 << 10) ^ 1, RNG(1).permutation(ALL)):
        out = np.zeros_like(ALL)
        backend.add(ALL, y, None, out)
        np.testing.assert_array_equal(plain(out), plain(shortened(widened(ALL) + widened(y))))
    backend.scale(ALL, 1.00390625, out)  # 1 + 2**-8: many ties
    np.testing.assert_array_equal(plain(out), plain(shortened(widened(ALL) * np.float32(1.00390625))))
    backend.scale(ALL, float("nan"), out)
    assert np.isnan(widened(out)).all()
    backend.activation("relu", ALL, out)
    np.testing.assert_array_equal(plain(out), plain(shortened(np.where(widened(ALL) <= 0, 0, widened(ALL)))))


def test_all_finite_knows_every_bfloat16(backend: Backend) -> None:
    finite = np.isfinite(widened(ALL))
    assert backend.all_finite(ALL[finite])
    assert not any(backend.all_finite(np.append(ALL[:5], ALL[k : k + 1])) for k in np.flatnonzero(~finite))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_no_kernel_takes_is_computed_in_float32(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strided and read-only arrays, windows of more than 256 taps, and arrays of two types."""

    def guarded(kernel: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            assert not any(isinstance(x, np.ndarray) and x.dtype == SHORT for x in arguments), "a kernel was called"
            return kernel(*arguments)

        return run

    for module, names in (
        (elementwise, ("forward", "add", "backward")),
        (pooling, ("pool",)),
        (normalization, ("moments", "normalise")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, guarded(getattr(module, name)))
    numpy, rng = registry.create("numpy"), RNG(2)
    whole = shortened(rng.standard_normal((2, 17, 17, 6)).astype(np.float32))
    fixed = whole.copy()
    fixed.flags.writeable = False
    large = Window((17, 17), (17, 17))
    for x in (whole[..., ::2], fixed):
        wide = widened(x)
        out, expected = np.zeros(x.shape, SHORT), np.zeros(x.shape, np.float32)
        for run in (
            lambda b, x, out: b.activation("tanh", x, out),
            lambda b, x, out: b.activation_gradient("gelu", x, x, out),
            lambda b, x, out: b.add(x, x, "relu", out),
            lambda b, x, out: b.batch_norm(x, *np.ones((4, x.shape[-1]), np.float32), out, epsilon=1e-3),
        ):
            run(backend, x, out)
            run(numpy, wide, expected)
            np.testing.assert_array_equal(out, shortened(expected))
        pooled, means = np.zeros((2, 1, 1, x.shape[-1]), SHORT), np.zeros((2, 1, 1, x.shape[-1]), np.float32)
        backend.max_pool2d(x, large, pooled, None, Buffers(backend))
        np.testing.assert_array_equal(widened(pooled), wide.max(axis=(1, 2), keepdims=True))
        backend.batch_norm(x, *np.ones((4, x.shape[-1]), np.float32), expected, epsilon=0.0)  # out is float32
        np.testing.assert_allclose(expected, wide, rtol=1e-5, atol=1e-5)
        backend.bias_gradient(x.copy()[..., ::-1], means[0, 0, 0])
        np.testing.assert_allclose(means[0, 0, 0], wide[..., ::-1].sum(axis=(0, 1, 2)), rtol=1e-4, atol=1e-4)
    view = whole[..., ::2]
    expected = shortened(np.maximum(widened(view) + widened(view), 0))
    rest = whole[..., 1::2].copy()
    backend.add(view, view, "relu", view)
    np.testing.assert_array_equal(view, expected)
    np.testing.assert_array_equal(whole[..., 1::2], rest)


def test_softmax_and_local_responses_are_computed_in_float32(backend: Backend) -> None:
    x = shortened(RNG(3).standard_normal((4, 9)).astype(np.float32))
    out, wide = np.empty_like(x), np.empty(x.shape, np.float32)
    scratch = Buffers(backend)
    for run in (
        lambda x, out: backend.softmax(x, out),
        lambda x, out: backend.lrn_scale(x, out, scratch, size=3, window=None, alpha=0.1, k=1.0),
        lambda x, out: backend.lrn(x, shortened(np.ones(x.shape, np.float32)), out, beta=0.75),
    ):
        run(x, out)
        run(widened(x), wide)
        np.testing.assert_allclose(widened(out), wide, rtol=2.0**-8)


def test_recorded_kernels_take_arrays_of_bfloat16(backend: Backend) -> None:
    window = WINDOWS["3/2 padded, ceil"]
    given = short(arrays((SHAPE[0], *window.out, CHANNELS)))
    names = ("add relu out", "max pool 3/2 padded, ceil", "batch norm True", "relu and bias gradient", "statistics")

    def run() -> None:
        for name in names:
            CALLS[name][0](backend, given, scratch)

    scratch, recording = Buffers(backend), KernelRecording()
    run()
    results = {name: given[name].copy() for name in ("out", "small", "winners", "one", "two")}
    with recording.record():
        run()
    for name in results:
        given[name].fill(3)
    given["x"][...] = shortened(RNG(9).standard_normal(SHAPE).astype(np.float32))
    assert recording.prepare()
    recording.repeat()
    repeated = {name: given[name].copy() for name in results}
    for name in results:
        given[name].fill(5)
    run()
    for name, x in repeated.items():
        assert x.tobytes() == given[name].tobytes()
        assert x.tobytes() != results[name].tobytes()


def test_networks_in_float32_compile_no_kernel_of_bfloat16() -> None:
    assert not any(SHORTS in kernel.kinds for kernel in KERNELS)
    twins = (elementwise.forward, elementwise.add, elementwise.scale, elementwise.backward, pooling.pool)
    for twin in (*twins, normalization.moments, normalization.normalise):
        assert twin.floats in KERNELS
        assert twin.shorts in RARE


class Truncating(Storing):
    """Cuts off the lower half of its sums instead of rounding it."""

    def add(self, x: Array, y: Array, activation: str | None, out: Array) -> None:
        wide = np.empty(x.shape, np.float32)
        super().add(widened(x), widened(y), activation, wide)
        out[...] = wide.view(np.uint32) >> 16


class Forgetful(Storing):
    """Keeps the sums of overlapping windows in bfloat16."""

    def avg_pool2d(self, x: Array, window: Window, out: Array) -> None:
        sums = np.zeros(out.shape, np.float32)
        for _, _, p, q, h, w in window.each_tap():
            sums[:, p, q] = widened(shortened(sums[:, p, q] + widened(x[:, h, w])))
        out[...] = shortened(sums / np.float32(window.taps))


class Late(Storing):
    """Sums rounded gradients for the bias."""

    def activation_bias_gradient(self, name: str, y: Array, dy: Array, out: Array, bias: Array) -> None:
        self.activation_gradient(name, y, dy, out)
        self.bias_gradient(out, bias)


@pytest.mark.parametrize(
    ("faulty", "operation"),
    [(Truncating, "add"), (Forgetful, "avg_pool2d"), (Late, "activation_bias_gradient")],
)
def test_planted_faults_are_found(faulty: type[Storing], operation: str) -> None:
    def passes(case: Case) -> bool:
        try:
            check_case(faulty(), case, np.float32)
        except ContractViolation:
            return False
        return True

    assert not all(passes(case) for case in CASES if case.operation == operation)
