"""Every name the package `cnn` offers."""

from cnn.backend import Backend, Library, current, use
from cnn.cblas import CblasBackend
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Dataset, DatasetPlugin, Split, load_dataset
from cnn.data.preprocessing import Preprocessing
from cnn.errors import CnnError
from cnn.layers import (
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Tanh,
)
from cnn.losses import MeanSquaredError, SoftmaxCrossEntropy
from cnn.model.modelfile import load_model, save_model
from cnn.model.sequential import Sequential
from cnn.model.zoo import architecture
from cnn.optimizers import SGD, Adam, RMSprop
from cnn.schedules import Constant, Cosine, Exponential, Inv, MultiStep, Step, Warmup
from cnn.threads import limit
from cnn.training.trainer import Callback, Trainer, fit

__all__ = [
    "SGD",
    "Adam",
    "Augmentation",
    "AvgPool2D",
    "Backend",
    "BatchNorm",
    "Callback",
    "CblasBackend",
    "CnnError",
    "Constant",
    "Conv2D",
    "Cosine",
    "Dataset",
    "DatasetPlugin",
    "Dropout",
    "Exponential",
    "Flatten",
    "Inv",
    "Layer",
    "Library",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2D",
    "MeanSquaredError",
    "MultiStep",
    "Preprocessing",
    "RMSprop",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SoftmaxCrossEntropy",
    "Split",
    "Step",
    "Tanh",
    "Trainer",
    "Warmup",
    "architecture",
    "current",
    "fit",
    "limit",
    "load_dataset",
    "load_model",
    "save_model",
    "use",
]
