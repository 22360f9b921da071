"""The images of a batch that a rank computes, and its part in sums over the whole batch."""

from collections.abc import Iterator
from itertools import islice
from math import prod

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.shard import Shard, part
from cnn.training.world import World


class Slice(Shard):
    """The slice of each batch that belongs to this rank.

    If there are fewer images than ranks, a rank without images computes the first image of the batch, so that it takes
    part in every sum and layers need no special case; it adds zero. With `alone`, batch statistics cover only the
    rank's own images.
    """

    divided = True

    def __init__(self, world: World, *, alone: bool = False) -> None:
        self.world = world
        self.alone = alone
        self._start = self._rows = self._whole = 0

    def take(self, start: int, stop: int) -> slice:
        first, last = part(self.world.rank, self.world.size, start, stop)
        self.count = last - first
        if not self.count:
            first, last = start, start + 1
        self._start, self._rows, self._whole = first - start, last - first, stop - start
        return slice(first, last)

    def counted(self, start: int, stop: int) -> int:
        first, last = part(self.world.rank, self.world.size, start, stop)
        return last - first

    def uniform(self, rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        # Every rank draws all numbers, so that the generators stay equal and the numbers do not depend on the ranks.
        numbers = rng.random((self._whole, *shape[1:]), np.float32)
        return numbers[self._start : self._start + self._rows]

    def whole(self, images: int) -> int:
        return images if self.alone else self._whole

    def merge_moments(self, mean: Array, variance: Array) -> None:
        if self.alone:
            return
        # The total variance is the mean of the variances plus the variance of the means (Chan, Golub & LeVeque 1983,
        # "Algorithms for computing the sample variance", eq. 2.1); float64 is precise enough for this form.
        share = self.count / self._whole
        sums = np.empty((2, *mean.shape))
        np.multiply(mean, share, out=sums[0])
        np.multiply(variance + np.square(mean, dtype=np.float64), share, out=sums[1])
        self.world.sum(sums)
        np.copyto(mean, sums[0], casting="same_kind")
        np.copyto(variance, np.maximum(sums[1] - np.square(sums[0]), 0), casting="same_kind")

    def summed(self, *arrays: Array) -> tuple[Array, ...]:
        if self.alone:
            return arrays
        joined = np.concatenate([array.reshape(-1) for array in arrays], dtype=np.float64)
        if not self.count:
            joined.fill(0)
        self.world.sum(joined)
        ends = np.cumsum([prod(array.shape) for array in arrays])[:-1]
        pieces = zip(np.split(joined, ends), arrays, strict=True)
        return tuple(piece.reshape(array.shape).astype(array.dtype) for piece, array in pieces)

    def deal(self, starts: range) -> Iterator[int]:
        return islice(starts, self.world.rank, None, self.world.size)

    def total(self, *values: float) -> list[float]:
        sums = np.array(values, np.float64)
        self.world.sum(sums)
        return [float(value) for value in sums]
