"""The layers of a network."""

from cnn.layers.activation import ReLU, Sigmoid, Tanh
from cnn.layers.conv import Conv2D
from cnn.layers.layer import Context, Layer, Parameter
from cnn.layers.linear import Linear
from cnn.layers.norm import BatchNorm, LocalResponseNorm
from cnn.layers.pool import AvgPool2D, MaxPool2D
from cnn.layers.shape import Dropout, Flatten

__all__ = [
    "AvgPool2D",
    "BatchNorm",
    "Context",
    "Conv2D",
    "Dropout",
    "Flatten",
    "Layer",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2D",
    "Parameter",
    "ReLU",
    "Sigmoid",
    "Tanh",
]
