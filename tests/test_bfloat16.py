"""Networks in bfloat16: the same promises as in float32, and which numbers are rounded and which are not."""

import copy
import pickle
import time

import numpy as np
import pytest
from helpers.ready_backends import ready

from cnn import registry
from cnn.backend import Backend, Library
from cnn.cli import main
from cnn.compiled import rounding
from cnn.compiled.ops import CompiledOps
from cnn.instruments import private
from cnn.layers import BatchNorm, Conv2D, Flatten, Linear, MaxPool2D
from cnn.measure.benchmark import gemm_flops_per_second
from cnn.model.modelfile import load_model, save_model
from cnn.model.passes import SETTLED
from cnn.model.sequential import Sequential
from cnn.ops.elementwise import Elementwise
from cnn.optimizers import SGD
from cnn.precision import round_bfloat16

SHAPE, CLASSES, BATCH = (8, 8, 3), 5, 6
BACKENDS = ["numpy", "openblas", "mkl"]


def network(backend="numpy", precision="bfloat16", seed=0):
    """A layer of every kind that multiplies, and a batch normalisation that is folded at inference."""
    layers = [
        Conv2D(5, 3, padding=1, activation="relu"),
        Conv2D(8, 3, padding=1, bias=False),
        BatchNorm(activation="relu"),
        MaxPool2D(2),
        Conv2D(7, 1),
        Flatten(),
        Linear(9, activation="tanh"),
        Linear(CLASSES),
    ]
    return Sequential(layers, SHAPE, backend=backend, precision=precision, seed=seed)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (BATCH, *SHAPE), np.uint8), rng.integers(0, CLASSES, BATCH)


def trained(model, steps=SETTLED + 3):
    """The model after some steps, the last of them recorded passes."""
    optimizer = SGD(0.9, 5e-4)
    optimizer.attach(model.backend, model.groups)
    for step in range(steps):
        model.train_step(*batch(step))
        optimizer.step(0.01)
    return model


def state(model):
    return {name: array.tobytes() for name, array in model.state().items()}


def is_bfloat16(x):
    rounded = np.empty_like(x)
    round_bfloat16(np.ascontiguousarray(x), rounded)
    return bool((rounded == x).all())


@pytest.mark.parametrize("name", BACKENDS)
def test_the_same_seed_gives_the_same_bytes(name):
    backend = ready(name)
    first, second = (state(trained(network(backend))) for _ in range(2))
    assert first == second
    assert state(trained(network(backend, precision="float32"))) != first


@pytest.mark.parametrize("name", ["openblas", "mkl"])
def test_recorded_passes_give_the_bytes_of_the_layers(name):
    backend = ready(name)
    recorded, called = network(backend), network(backend)
    called._passes = Forgetful()
    assert state(trained(recorded)) == state(trained(called))
    assert any(passes._recorded for passes in recorded._passes.values())


class Forgetful(dict):
    """Keeps no pass, so that each is the first."""

    def __setitem__(self, key, value):
        pass


def test_every_product_is_of_rounded_operands_and_nothing_else_is_rounded():
    seen = []

    def gemm(whole, a, b, **options):
        seen.append(is_bfloat16(a) and is_bfloat16(b))
        whole(a, b, **options)

    model = trained(network(private(registry.create("numpy"), gemm=gemm)), 2)
    # Five products forward, five weight gradients, four data gradients; two steps.
    assert len(seen) == 2 * (5 + 5 + 4)
    assert all(seen)
    weights = [each for each in model.parameters if each.name.endswith("weight")]
    assert {array.dtype for each in weights for array in (each.value, each.gradient)} == {np.dtype(np.float32)}
    assert not any(is_bfloat16(array) for each in weights for array in (each.value, each.gradient))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_normalisation_is_folded_as_it_is_computed_apart(name, monkeypatch):
    model = trained(network(ready(name)), 3)
    images, _ = batch()
    folded = model.predict(images)
    monkeypatch.setattr(type(model.network), "folds", lambda self, place, images: False)
    apart = copy.deepcopy(model).predict(images)
    # Folding rounds the product of weight and scale in place of the weight: an eighth of a percent of each term.
    np.testing.assert_allclose(folded, apart, atol=0.02)
    assert np.abs(folded - apart).max() > 0


def test_backends_compute_the_same_network():
    images, labels = batch()
    exact = network("reference")
    exact.train_step(images, labels)
    for name in BACKENDS:
        model = network(ready(name))
        model.train_step(images, labels)
        for own, truth in zip(model.parameters, exact.parameters, strict=True):
            off = np.linalg.norm(own.gradient - truth.gradient)
            # Two roundings of a number that differs in float32's last bit may differ in bfloat16's.
            assert off <= 0.01 * np.linalg.norm(truth.gradient) + 1e-6, (name, own.name)


def test_the_gradient_is_that_of_float32_but_for_rounding():
    images, labels = batch()
    rounded, plain = network("reference"), network("reference", precision="float32")
    for model in (rounded, plain):
        model.train_step(images, labels)
    for own, truth in zip(rounded.parameters, plain.parameters, strict=True):
        off = np.linalg.norm(own.gradient - truth.gradient) / np.linalg.norm(truth.gradient)
        assert off < 0.15, own.name
        assert off > 0, own.name


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_in_the_same_precision(copied):
    model = trained(network("openblas"), 2)
    twin = copied(model)
    assert (twin.precision, twin.backend.rounds) == ("bfloat16", True)
    assert twin.predict(batch()[0]).tobytes() == model.predict(batch()[0]).tobytes()
    assert not registry.create("openblas").rounds


@pytest.mark.parametrize("name", ["numpy", "openblas"])
def test_the_peak_is_that_of_the_multiplication_alone(name, monkeypatch):
    """Rounding that takes much longer than the product hardly changes it."""
    backend = ready(name)

    def slow(*arguments, **options):
        time.sleep(0.01)

    for module, what in ((Elementwise, "round_bfloat16"), (CompiledOps, "round_bfloat16"), (rounding, "panels")):
        run = getattr(module, what)
        monkeypatch.setattr(module, what, lambda *given, run=run: (slow(), run(*given)))
    assert 2 * 48**3 / gemm_flops_per_second(backend, "bfloat16", side=48) < 0.005


def test_a_file_says_the_precision_and_loads_in_either(tmp_path, monkeypatch):
    monkeypatch.delenv("CNN_PRECISION", raising=False)
    model = trained(network(), 2)
    save_model(model, tmp_path / "m.safetensors")
    same = load_model(tmp_path / "m.safetensors", backend="numpy")
    other = load_model(tmp_path / "m.safetensors", backend="numpy", precision="float32")
    assert (same.precision, other.precision) == ("bfloat16", "float32")
    assert state(same) == state(other) == state(model)
    images, _ = batch()
    assert same.predict(images).tobytes() == model.predict(images).tobytes()
    assert other.predict(images).tobytes() != model.predict(images).tobytes()
    monkeypatch.setenv("CNN_PRECISION", "float32")
    assert load_model(tmp_path / "m.safetensors", backend="numpy").precision == "float32"


class OnlyProducts(Backend):
    """A backend that gives no more than it must."""

    name = "only products"
    library = Library("NumPy", np.__version__)

    def gemm(self, a, b, *, out, transpose_a=False, transpose_b=False, accumulate=False):
        product = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
        out[...] = out + product if accumulate else product


def test_a_backend_that_gives_only_its_product_computes_in_bfloat16():
    mine = trained(network(OnlyProducts()), 2)
    assert mine.backend.rounds
    for own, other in zip(mine.parameters, trained(network("numpy"), 2).parameters, strict=True):
        np.testing.assert_allclose(own.value, other.value, atol=1e-3)
    assert "no faster here" in mine.backend.bfloat16_by


def test_onnx_files_are_checked_in_float32(tmp_path, monkeypatch):
    save_model(trained(network(), 2), tmp_path / "m.safetensors")
    monkeypatch.setenv("CNN_PRECISION", "bfloat16")
    exported, imported = (str(tmp_path / name) for name in ("m.onnx", "again.safetensors"))
    assert main(["export", str(tmp_path / "m.safetensors"), exported, "--backend", "numpy"]) == 0
    assert main(["import", exported, "--out", imported]) == 0
