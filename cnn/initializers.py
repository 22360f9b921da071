"""Distributions for the initial weights, named after their papers or as in Caffe."""

from abc import abstractmethod
from dataclasses import dataclass, field
from math import inf, prod, sqrt
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cnn.arrays import Shape
from cnn.config import Configurable, require
from cnn.errors import UsageError

TINY = 1e-12
"""The least eigenvalue that is divided by."""


class Initializer(Configurable):
    """Draws a weight tensor: (R, S, C, K) for a convolution, (D, K) for a linear layer.

    Fan-in is the number of inputs to one output, R*S*C or D; fan-out R*S*K or K.
    """

    from_images: ClassVar[bool] = False
    """Whether the weights are made of the training images, once they are known: those of a first convolution."""

    @property
    def most_images(self) -> int:
        """Training images that are looked at, at most."""
        return 0

    @abstractmethod
    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        """A float64 array of `shape`."""

    def draw_from(self, moments: npt.NDArray[np.float64], shape: Shape) -> npt.NDArray[Any]:
        """A float64 array of `shape`, made of `moments` (D, D): the mean of v v' over patches v (D,) = (R*S*C,).

        Only initialisers that are `from_images` have this. Raises UsageError for a shape that they cannot fill.
        """
        raise NotImplementedError

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


@dataclass(frozen=True)
class PyTorch(Initializer):
    """Uniform in +-sqrt(1 / fan-in): what PyTorch gives its convolutions and linear layers."""

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        limit = sqrt(1 / prod(shape[:-1]))
        return rng.uniform(-limit, limit, shape)


@dataclass(frozen=True)
class Dirac(Initializer):
    """The identity: filter k passes on channel k unchanged, by a 1 in the middle of its kernel.

    If there are more filters than channels, `rest` draws the others, as in Jordan 2024, "94% on CIFAR-10 in 3.29
    seconds on a single GPU". Zagoruyko & Komodakis 2017, "DiracNets", start from the identity, too.
    """

    rest: Initializer = field(default_factory=PyTorch)
    """The initialiser of the filters beyond the number of channels."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rest", Initializer.from_config(self.rest))
        require(not self.rest.from_images, f"rest cannot be {type(self.rest).__name__}, which is made of images.")

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        weights = self.rest.draw(shape, rng)
        shared = min(shape[-2:])
        weights[..., :shared] = 0
        middle = weights[tuple(size // 2 for size in shape[:-2])]
        middle[range(shared), range(shared)] = 1
        return weights


@dataclass(frozen=True)
class Whitening(Initializer):
    """Filters that make the patches of the training images uncorrelated, each filter followed by its negative half.

    The first half of the filters are the eigenvectors of the patches' second moments, by falling eigenvalue, each
    divided by sqrt(eigenvalue + epsilon); the second half are their negatives. It is for a convolution that reads the
    network's input, of an even number of filters, at most 2*R*S*C. The patches are those of the first `images` of the
    training set, preprocessed but not augmented. Until a model has seen images, patches of white noise stand for them.

    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", and its code for `epsilon` and
    `images`, after Page 2019, "How to train your ResNet", part 8.
    """

    from_images = True

    epsilon: float = 5e-4
    """Added to each eigenvalue, so that directions in which the images hardly differ are not blown up."""
    images: int = 5000
    """Training images that are looked at."""

    def __post_init__(self) -> None:
        require(0 <= self.epsilon < inf, f"epsilon must be at least 0 and finite, not {self.epsilon}.")
        require(self.images >= 1, f"images must be at least 1, not {self.images}.")

    def draw(self, shape: Shape, rng: np.random.Generator) -> npt.NDArray[Any]:
        depth = prod(shape[:-1])
        # A random rotation: with all eigenvalues 1, any orthogonal vectors are eigenvectors.
        rotation, triangle = np.linalg.qr(rng.normal(size=(depth, depth)))
        return self._filters(rotation * np.sign(np.diag(triangle)), np.ones(depth), shape)

    @property
    def most_images(self) -> int:
        return self.images

    def draw_from(self, moments: npt.NDArray[np.float64], shape: Shape) -> npt.NDArray[Any]:
        values, vectors = np.linalg.eigh(moments)
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
        # An eigenvector may have either sign: its largest element shall be positive, whichever LAPACK is there.
        largest = vectors[np.abs(vectors).argmax(axis=0), range(len(values))]
        return self._filters(vectors * np.sign(largest), values, shape)

    def _filters(
        self, vectors: npt.NDArray[np.float64], values: npt.NDArray[np.float64], shape: Shape
    ) -> npt.NDArray[Any]:
        depth, filters = len(values), shape[-1]
        if filters % 2 or filters > 2 * depth:
            elements = "x".join(map(str, shape[:-1]))
            raise UsageError(
                f"Whitening makes pairs of filters, at most 2 x {depth} of kernels of {elements} elements, "
                f"not {filters}; give an even number of at most {2 * depth}, or images in colour."
            )
        half = vectors[:, : filters // 2] / np.sqrt(np.maximum(values[: filters // 2] + self.epsilon, TINY))
        return np.concatenate([half, -half], axis=1).reshape(shape)
