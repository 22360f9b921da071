"""The layers of a network."""

from cnn.layers.activation import GELU, HardSwish, LeakyReLU, ReLU, ReLU6, Sigmoid, SiLU, Tanh
from cnn.layers.blocks import Block, Branches, Residual
from cnn.layers.conv import Conv2D
from cnn.layers.layer import Context, Layer, Parameter
from cnn.layers.linear import Linear
from cnn.layers.merge import Add, Concat
from cnn.layers.multiply import Multiply
from cnn.layers.norm import BatchNorm, LocalResponseNorm
from cnn.layers.pool import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from cnn.layers.shape import Dropout, Flatten

__all__ = [
    "GELU",
    "Add",
    "AvgPool2D",
    "BatchNorm",
    "Block",
    "Branches",
    "Concat",
    "Context",
    "Conv2D",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2D",
    "HardSwish",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2D",
    "Multiply",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Tanh",
]
