"""The part of a batch that this process computes: all of it, unless several processes divide every batch."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array


def part(index: int, parts: int, start: int, stop: int) -> tuple[int, int]:
    """(start, stop) of one of the parts that start to stop is cut into; their sizes differ by one at most."""
    count = stop - start
    return start + index * count // parts, start + (index + 1) * count // parts


class Shard:
    """A whole batch; layers and the model ask it, so that a divided batch gives what a whole one does.

    `cnn.distributed.shard` puts another in its place, which knows its slice and sums over the processes.
    """

    divided = False
    """Whether several processes share every batch."""
    count = 0
    """Images of the last slice taken that count as this process's own."""

    def take(self, start: int, stop: int) -> slice:
        """Which of the images start to stop of a batch this process computes next."""
        self.count = stop - start
        return slice(start, stop)

    def counted(self, start: int, stop: int) -> int:
        """How many of the images start to stop would be this process's own."""
        return stop - start

    def uniform(self, rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Numbers in 0..1 for own images (N, ...): this process's part of those drawn for the whole batch."""
        return rng.random(shape, np.float32)

    def whole(self, images: int) -> int:
        """The images of the whole batch of which this process has `images`."""
        return images

    def merge_moments(self, mean: Array, variance: Array) -> None:
        """Turns mean and biased variance over own images, each (C,), into those over the whole batch."""

    def summed(self, *arrays: Array) -> tuple[Array, ...]:
        """Each array summed over the processes: a new one, or the one given where there is nothing to add."""
        return arrays

    def deal(self, starts: range) -> Iterator[int]:
        """The batches that this process evaluates, of all that start there."""
        return iter(starts)

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        return list(values)
