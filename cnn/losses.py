"""The losses that models are trained with."""

from abc import abstractmethod
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from cnn.arrays import Array
from cnn.backend import Backend
from cnn.config import Configurable, require


class Loss(Configurable):
    """Compares scores (N, K) with labels (N,)."""

    repeatable: ClassVar[bool] = False
    """Whether it only calls the backend, as for a layer that is `repeatable`."""

    @abstractmethod
    def evaluate(self, backend: Backend, scores: Array, labels: Array, out: Array | None) -> tuple[float, int]:
        """(the loss summed over the images, the number of correct answers).

        out (N, K), if given, receives the gradient of the mean loss.
        """

    @abstractmethod
    def probabilities(self, backend: Backend, scores: Array, out: Array) -> None:
        """out (N, K) = the scores as probabilities, which sum to 1; the largest score gets the largest probability."""


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """-log softmax(scores)[label], natural logarithm."""

    repeatable = True

    label_smoothing: float = 0.0
    """The part of a label that is spread evenly over all classes, its own included (Szegedy et al. 2016, section 7)."""

    def __post_init__(self) -> None:
        require(
            0 <= self.label_smoothing < 1,
            f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing}.",
        )

    def evaluate(self, backend: Backend, scores: Array, labels: Array, out: Array | None) -> tuple[float, int]:
        return backend.softmax_cross_entropy(scores, labels, out, smoothing=self.label_smoothing)

    def probabilities(self, backend: Backend, scores: Array, out: Array) -> None:
        backend.softmax(scores, out)


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean over the outputs of (score - target)**2; the target is `high` at the label and `low` elsewhere."""

    repeatable = True

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require(
            -inf < self.low < self.high < inf,
            f"low ({self.low}) must be below high ({self.high}), both finite.",
        )

    def evaluate(self, backend: Backend, scores: Array, labels: Array, out: Array | None) -> tuple[float, int]:
        return backend.squared_error(scores, labels, out, low=self.low, high=self.high)

    def probabilities(self, backend: Backend, scores: Array, out: Array) -> None:
        backend.target_probabilities(scores, out, low=self.low, high=self.high)
