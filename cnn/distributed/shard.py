"""Which images of a batch a rank computes, and how it joins the others' sums over that batch."""

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

    A rank with none, where there are fewer images than ranks, computes the batch's first one, so that it takes part in
    every sum and no layer need know; what it adds is zero. With `alone`, batch statistics are of own images.
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
        # All draw all numbers: their generators stay the same, and the batch's numbers do not depend on the ranks.
        numbers = rng.random((self._whole, *shape[1:]), np.float32)
        return numbers[self._start : self._start + self._rows]

    def whole(self, images: int) -> int:
        return images if self.alone else self._whole

    def merge_moments(self, mean: Array, variance: Array) -> None:
        if self.alone:
            return
        # The variance of all is the mean of the variances and the variance of the means (Chan, Golub & LeVeque 1983,
        # "Algorithms for computing the sample variance", eq. 2.1); float64 loses no digit that counts.
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
