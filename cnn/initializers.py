"""Distributions for the initial weights, named after their papers or as in Caffe."""

from abc import abstractmethod
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Shape
from cnn.config import Configurable, require


class Initializer(Configurable):
    """Draws a weight tensor: (R, S, C, K) for a convolution, (D, K) for a linear layer.

    Fan-in is the number of inputs to one output, R*S*C or D; fan-out R*S*K or K.
    """

    @abstractmethod
    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        """A float64 array of `shape`."""

    def draw_groups(self, shape: Shape, groups: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """A float64 array of `shape`, whose last axis is cut into `groups` tensors that share no input or output."""
        if groups == 1:
            return self.draw(shape, rng)
        own = (*shape[:-1], shape[-1] // groups)
        return np.concatenate([self.draw(own, rng) for _ in range(groups)], axis=-1)


@dataclass(frozen=True)
class Zeros(Initializer):
    """All zero."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        return np.zeros(shape)


@dataclass(frozen=True)
class Ones(Initializer):
    """All one."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        return np.ones(shape)


@dataclass(frozen=True)
class Gaussian(Initializer):
    """Normal with mean 0 and standard deviation `std`."""

    std: float = 0.01

    def __post_init__(self) -> None:
        require(self.std > 0, f"std must be above 0, not {self.std}.")

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        return rng.normal(0, self.std, shape)


@dataclass(frozen=True)
class Glorot(Initializer):
    """Uniform in +-sqrt(6 / (fan-in + fan-out)) (Glorot & Bengio 2010, eq. 16)."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        limit = sqrt(6 / (prod(shape[:-1]) + prod(shape[:-2]) * shape[-1]))
        return rng.uniform(-limit, limit, shape)


@dataclass(frozen=True)
class Xavier(Initializer):
    """Uniform in +-sqrt(3 / fan-in): Caffe's xavier."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        limit = sqrt(3 / prod(shape[:-1]))
        return rng.uniform(-limit, limit, shape)


@dataclass(frozen=True)
class He(Initializer):
    """Normal with standard deviation sqrt(2 / fan-in) (He et al. 2015, eq. 10)."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        return rng.normal(0, sqrt(2 / prod(shape[:-1])), shape)
