"""The part of a batch that this process computes: all of it, unless several processes divide every batch."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array


def part(index: int, parts: int, start: int, stop: int) -> tuple[int, int]:
    """(start, stop) of part `index` of the range start to stop cut into `parts`, whose sizes differ by at most one."""
    count = stop - start
    return start + index * count // parts, start + (index + 1) * count // parts


class Shard:
    """A whole batch. Layers and models call its methods, so that a divided batch gives the results of a whole one.

    `cnn.distributed.shard` has the subclass for divided batches, which takes a slice and sums over the processes.
    """

    divided = False
    """Whether several processes share every batch."""
    count = 0
    """How many images of the last slice taken count as this process's own."""

    def take(self, start: int, stop: int) -> slice:
        """The slice of the images start to stop of a batch that this process computes next."""
        self.count = stop - start
        return slice(start, stop)

    def counted(self, start: int, stop: int) -> int:
        """How many of the images start to stop would be this process's own."""
        return stop - start

    def uniform(self, rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Random numbers in 0..1 for this process's images (N, ...): its part of those drawn for the whole batch."""
        return rng.random(shape, np.float32)

    def whole(self, images: int) -> int:
        """The number of images in the whole batch, of which this process has `images`."""
        return images

    def merge_moments(self, mean: Array, variance: Array) -> None:
        """Turns mean and biased variance over this process's images, each (C,), into those over the whole batch."""

    def summed(self, *arrays: Array) -> tuple[Array, ...]:
        """Each array summed over the processes: a new array, or the given one if there is nothing to add."""
        return arrays

    def deal(self, starts: range) -> Iterator[int]:
        """Those of the batches starting at `starts` that this process evaluates."""
        return iter(starts)

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        return list(values)
