"""Every layer's backward pass is the gradient of its forward pass, on every backend; and a wrong one is found."""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers.ready_backends import ALL, ready

from cnn.errors import UsageError
from cnn.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    Multiply,
    ReLU,
    Sigmoid,
    Tanh,
)
from cnn.losses import MeanSquaredError, SoftmaxCrossEntropy
from cnn.model.sequential import Sequential
from cnn.testing import ContractViolation, check_gradients

LAYERS = {
    "convolution": (lambda: Conv2D(3, 3), (5, 4, 2)),
    "convolution, padded": (lambda: Conv2D(3, 3, padding=1), (5, 4, 2)),
    "convolution, same, stride 2": (lambda: Conv2D(3, 3, stride=2, padding="same"), (6, 5, 2)),
    "convolution, asymmetric padding": (lambda: Conv2D(2, (2, 3), stride=(2, 1), padding=(0, 1, 2, 0)), (6, 4, 2)),
    "convolution, rows unread": (lambda: Conv2D(2, 2, stride=3), (7, 7, 2)),
    "convolution, 1x1": (lambda: Conv2D(4, 1, activation="tanh"), (3, 3, 5)),
    "convolution, no bias": (lambda: Conv2D(2, 3, bias=False), (4, 4, 2)),
    "convolution, relu": (lambda: Conv2D(3, 3, activation="relu"), (5, 4, 2)),
    "convolution, tanh": (lambda: Conv2D(3, 3, activation="tanh"), (5, 4, 2)),
    "convolution, sigmoid": (lambda: Conv2D(3, 3, activation="sigmoid"), (5, 4, 2)),
    "convolution, 2 groups": (lambda: Conv2D(4, 3, groups=2, padding=1, activation="relu"), (5, 4, 6)),
    "convolution, dilated": (lambda: Conv2D(2, 3, dilation=(1, 2), padding="same"), (4, 6, 2)),
    "convolution, depthwise, stride 2": (lambda: Conv2D(3, 3, 2, 1, groups=3, activation="tanh"), (6, 5, 3)),
    "convolution, depthwise, 2 filters per channel": (lambda: Conv2D(6, 2, groups=3, dilation=2), (4, 5, 3)),
    "linear": (lambda: Linear(4), (7,)),
    "linear, relu": (lambda: Linear(4, activation="relu"), (7,)),
    "linear, no bias": (lambda: Linear(4, bias=False, activation="sigmoid"), (7,)),
    "maximum": (lambda: MaxPool2D(2), (4, 6, 2)),
    "maximum, overlapping": (lambda: MaxPool2D(3, 2), (7, 5, 2)),
    "maximum, padded, ceil": (lambda: MaxPool2D(3, 2, padding=1, ceil=True), (6, 7, 2)),
    "mean": (lambda: AvgPool2D(2), (4, 6, 2)),
    "mean, overlapping, ceil": (lambda: AvgPool2D(3, 2, ceil=True), (6, 8, 2)),
    "mean, padded, ceil": (lambda: AvgPool2D(3, 2, padding=1, ceil=True), (6, 7, 2)),
    "maximum, wider than the image": (lambda: MaxPool2D(3, 2, ceil=True), (2, 2, 3)),
    "mean, wider than the image": (lambda: AvgPool2D((5, 3), (4, 2), ceil=True), (3, 2, 3)),
    "batch norm of images": (BatchNorm, (3, 4, 2)),
    "batch norm of vectors": (BatchNorm, (5,)),
    "lrn across 5": (lambda: LocalResponseNorm(5, 0.5), (3, 2, 7)),
    "lrn across 4": (lambda: LocalResponseNorm(4, 0.5, k=2.0), (3, 2, 7)),
    "lrn within 3": (lambda: LocalResponseNorm(3, 0.5, region="within"), (4, 5, 2)),
    "dropout": (lambda: Dropout(0.4), (20,)),
    "no dropout": (lambda: Dropout(0.0), (6,)),
    "multiplied": (lambda: Multiply(-0.25), (3, 2, 2)),
    "flatten": (Flatten, (2, 3, 2)),
    "relu": (ReLU, (3, 3, 2)),
    "tanh": (Tanh, (7,)),
    "sigmoid": (Sigmoid, (7,)),
}


@pytest.fixture(params=ALL)
def backend(request):
    return ready(request.param)


@pytest.mark.parametrize("kind", LAYERS)
def test_layer(kind, backend):
    layer, shape = LAYERS[kind]
    assert check_gradients(layer(), shape, backend=backend, batch=3) <= 1


def net(loss, backend, dtype=np.float64):
    layers = [
        Conv2D(4, 3, padding=1, activation="relu"),
        BatchNorm(),
        MaxPool2D(2),
        Conv2D(3, 3, connections=[[0, 1], [1, 2, 3], [0, 3]]),
        LocalResponseNorm(3, 0.5),
        Flatten(),
        Dropout(0.2),
        Linear(6, activation="tanh"),
        Linear(4),
    ]
    return Sequential(layers, (8, 8, 2), loss=loss, backend=backend, precision=np.dtype(dtype).name)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), MeanSquaredError(-0.8, 0.8)])
def test_network_with_its_loss(loss, backend):
    assert check_gradients(net(loss, backend), batch=4, elements=25) <= 1


@dataclass(eq=False)
class Halved(Tanh):
    """Gives half the gradient."""

    def backward(self, dy):
        dx = super().backward(dy)
        dx *= 0.5
        return dx


@dataclass(eq=False)
class BiasForgotten(Linear):
    """Leaves out the bias's gradient if the gradient of the input is not computed."""

    def backward_parameters(self, dy):
        super().backward_parameters(dy)
        self.b.gradient *= 0


@dataclass(eq=False)
class SlightlyWrong(Linear):
    """Is off by one part in ten thousand."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.w.gradient *= 1.0001
        return dx

    def backward_parameters(self, dy):
        self.backward(dy)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Halved(), r"Halved on numpy: the gradient of x\[\d, \d\] is \S+, differences give"),
        (BiasForgotten(3), r"the gradient of biasforgotten.bias changes if"),
        (SlightlyWrong(3), r"the gradient of slightlywrong.weight\[\d, \d\] is \S+, differences give"),
    ],
)
def test_wrong_gradient_is_found(layer, message):
    with pytest.raises(ContractViolation, match=message):
        check_gradients(layer, (6,), backend="numpy")


def test_wrong_gradient_in_a_network_is_found():
    model = Sequential([Flatten(), Halved(), SlightlyWrong(3)], (2, 2, 1), backend="numpy", precision="float64")
    with pytest.raises(ContractViolation, match=r"net: the gradient of "):
        check_gradients(model)


def test_what_is_missing_is_said():
    with pytest.raises(UsageError, match=r"in float64; build net with dtype=numpy.float64"):
        check_gradients(net(None, "numpy", np.float32))
    with pytest.raises(UsageError, match=r"shape of one input of Tanh"):
        check_gradients(Tanh())
