"""The passes over a network: in a chain every layer reads the one before; gradients of branches are summed."""

from dataclasses import dataclass

import numpy as np
import pytest

from cnn.errors import ShapeError, UsageError
from cnn.layers import BatchNorm, Context, Conv2D, Dropout, Flatten, Layer, Linear, MaxPool2D, ReLU
from cnn.model.network import Network
from cnn.model.wiring import INPUT
from cnn.model.zoo import SMALL, architecture
from cnn.registry import create
from cnn.testing.gradients import spaced


@dataclass(eq=False)
class Product(Layer):
    """x * y, of two inputs of one shape."""

    def shape_after(self, input_shape, other):
        assert input_shape == other
        return input_shape

    def parameter_count(self, input_shape, other):
        return 0

    def forward(self, x, y, *, training):
        self._inputs = x, y
        return x * y

    def backward(self, dy):
        x, y = self._inputs
        return dy * y, dy * x


def built(network, backend="numpy"):
    network.build(Context(create(backend), np.dtype(np.float64), np.random.default_rng(3)))
    return network


def diamond():
    """Two branches of one convolution, multiplied; the first one is read once more at the end."""
    layers = [
        Conv2D(3, 1, name="stem"),
        ReLU(),
        Conv2D(3, 3, padding=1, inputs="stem"),
        Product(inputs=["relu1", "conv1"]),
        Product(inputs=["product1", "stem"]),
        Flatten(),
        Linear(2),
    ]
    return Network(layers, (4, 4, 2))


def test_a_chain_needs_no_inputs_named():
    layers = [Conv2D(4, 3), MaxPool2D(2), Flatten(), Linear(3)]
    network = Network(layers, (8, 8, 2))
    assert [node.inputs for node in network.nodes] == [(INPUT,), (0,), (1,), (2,)]
    assert [node.name for node in network.nodes] == ["conv1", "maxpool1", "flatten1", "linear1"]
    assert [node.output_shape for node in network.nodes] == [(6, 6, 4), (3, 3, 4), (36,), (3,)]
    assert network.output_shape == (3,)
    assert layers[0].name is None  # nothing is built


def test_a_layer_that_does_not_fit_or_reads_what_comes_later_is_named():
    with pytest.raises(ShapeError, match=r"^conv2: .*\(9, 9\)"):
        Network([Conv2D(4, 3), Conv2D(4, 9)], (8, 8, 2))
    with pytest.raises(UsageError, match="relu2 reads relu2, which is not before it; a layer reads only layers before"):
        Network([ReLU(), ReLU(inputs="relu2")], (8, 8, 2))
    with pytest.raises(UsageError, match="at least one layer"):
        Network([], (8, 8, 2))


def test_what_comes_before_the_first_parameters_has_no_backward_pass():
    network = Network([ReLU(), Dropout(), BatchNorm(), ReLU(), Flatten(), Linear(2)], (4, 4, 2))
    assert network.backward_order == [5, 4, 3, 2]
    wanted = [node.place for node in network.nodes if network.wants_input_gradient(node)]
    assert wanted == [3, 4, 5]


@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_gradients_of_branches_are_those_of_differences(backend):
    network = built(diamond(), backend)
    x = spaced((2, 4, 4, 2), np.random.default_rng(0))
    weights = np.random.default_rng(1).standard_normal((2, 2))

    def value():
        return float((network.forward(x, training=True) * weights).sum())

    value()
    network.backward(weights)
    gradients = {each.name: each.gradient.copy() for each in network.parameters}
    value()
    dx = network.input_gradient(weights).copy()
    for each in network.parameters:
        np.testing.assert_array_equal(each.gradient, gradients[each.name])
    arrays = [(x, dx), *((each.value, gradients[each.name]) for each in network.parameters)]
    for array, gradient in arrays:
        for flat in np.random.default_rng(2).permutation(array.size)[:10]:
            at, before = np.unravel_index(flat, array.shape), array.flat[flat]
            array[at] = before + 1e-6
            above = value()
            array[at] = before - 1e-6
            below = value()
            array[at] = before
            assert gradient[at] == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", SMALL)
def test_parameters_and_memory_are_told_without_building(name):
    described = architecture(name)
    model = described.build(backend="numpy")
    for training in (False, True):
        assert described.network.memory(64, training=training) * 4 == model.memory(64, training=training)
    counts = [node.layer.parameter_count(*node.input_shapes) for node in described.network.nodes]
    assert counts == [sum(each.value.size for each in layer.parameters) for layer in model.layers]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [*SMALL, "squeezenet"])
def test_the_memory_told_is_the_memory_taken(name, training):
    """By NumPy lowering, whose buffers are all counted: those of the model, the layers and the temporary space."""
    model = architecture(name).build(backend="numpy")
    batch = 4 if max(model.input_shape) > 32 else 16
    images = np.zeros((batch, *model.input_shape), np.uint8)

    def taken():
        every = [model.buffers, model.context.scratch, *(layer.buffers for layer in model.layers)]
        every += [memory.memory._buffers for memory in model.network._slots.values()]
        return sum(each.nbytes() for each in every)

    if training:
        model.train_step(images, np.zeros(batch, np.int64))
    else:
        model.predict(images, batch_size=batch)
    parameters = 2 * 4 * model.parameter_count()
    told = model.memory(batch, training=training) - parameters
    assert taken() == pytest.approx(told, rel=0.1)
