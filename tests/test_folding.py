"""At inference, batch normalisation goes into the weights of the layer before it, and only where that is the same."""

from dataclasses import dataclass

import numpy as np
import pytest

from cnn.layers import Add, BatchNorm, Conv2D, Flatten, Linear, MaxPool2D
from cnn.layers.weighted import Weighted
from cnn.model.network import Network
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD

SHAPE = (9, 8, 4)


@dataclass(eq=False)
class PassOfItsOwn(BatchNorm):
    """Batch normalisation with a pass of its own."""

    def forward(self, x, *, training):
        return super().forward(x, training=training)


def layers(norm):
    return [
        Conv2D(8, 3, padding=1),
        norm(activation="relu"),
        Conv2D(8, 3, bias=False, groups=8),
        norm(),
        Conv2D(6, 3, groups=2, dilation=2),
        norm(scale=False, activation="relu"),
        Conv2D(12, 1),
        norm(shift=False),
        MaxPool2D(2),
        Flatten(),
        Linear(5),
        norm(momentum=0.5),
    ]


def mixed(model):
    """Gives all parameters and statistics numbers that an error would show."""
    rng, state = np.random.default_rng(1), model.state()
    for name, array in state.items():
        low = 0.5 if name.endswith("variance") else -1
        state[name] = rng.uniform(low, 1.5, array.shape).astype(array.dtype)
    model.load_state(state)
    return model


def scores(model, x):
    return model.backend.to_numpy(model.forward(model.backend.asarray(x))).copy()


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((12, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("name", ["reference", "numpy", "mkl", "openblas"])
def test_it_computes_what_two_passes_do(name, x):
    folded, apart = (mixed(Sequential(layers(norm), SHAPE, backend=name)) for norm in (BatchNorm, PassOfItsOwn))
    assert [folded.network.folds(place, 12) for place in (0, 2, 4, 6, 10)] == [True, True, True, True, False]
    assert folded.network.folds(10, 100)
    assert not any(apart.network.folds(place, 100) for place in folded.network.order)
    for batch in (12, 1):
        expected = scores(apart, x[:batch])
        np.testing.assert_allclose(scores(folded, x[:batch]), expected, atol=2e-6 * np.abs(expected).max())


def test_a_wrong_fold_is_found(x, monkeypatch):
    expected = scores(mixed(Sequential(layers(PassOfItsOwn), SHAPE, backend="numpy")), x)
    monkeypatch.setattr(Weighted, "forward_normalised", lambda self, x, norm: self.forward(x, training=False))
    wrong = scores(mixed(Sequential(layers(BatchNorm), SHAPE, backend="numpy")), x)
    assert not np.allclose(wrong, expected, atol=1e-3 * np.abs(expected).max())


def test_the_weights_are_those_of_now(x):
    images, labels = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), np.uint8), np.arange(12) % 5
    trained = {}
    for norm in (BatchNorm, PassOfItsOwn):
        model, optimizer = Sequential(layers(norm), SHAPE, backend="openblas", seed=3), SGD(0.9)
        optimizer.attach(model.backend, model.groups)
        trained[norm] = []
        for _ in range(5):  # so that passes are recorded
            model.train_step(images, labels)
            optimizer.step(0.1)
            trained[norm].append(model.predict(images))
    np.testing.assert_allclose(trained[BatchNorm], trained[PassOfItsOwn], atol=1e-5)
    assert not np.allclose(trained[BatchNorm][0], trained[BatchNorm][-1], atol=1e-2)


@pytest.mark.parametrize(
    "chain",
    [
        [Conv2D(4, 3, padding=1, activation="tanh"), BatchNorm()],
        [Conv2D(4, 3, padding=1, name="a"), BatchNorm(name="b"), Add(inputs=["a", "b"])],
        [Conv2D(4, 3, padding=1), MaxPool2D(2), BatchNorm()],
        [BatchNorm(), BatchNorm()],
    ],
    ids=["an activation between", "another reader", "another layer between", "no weights before"],
)
def test_where_it_would_be_something_else_it_is_not_folded(chain):
    network = Network(chain, SHAPE)
    assert not any(network.folds(place, 100) for place in network.order)
