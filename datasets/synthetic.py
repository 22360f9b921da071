"""Synthetic images for tests and benchmarks, generated in memory: one smooth pattern per class, shifted, with noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cnn.data.dataset import Dataset, DatasetPlugin, Split
from cnn.errors import UsageError

_PERIODS = 3
_MAX_SHIFT = 2


class Synthetic(DatasetPlugin):
    """`train` + `test` images of `shape` (H, W, C) in `classes` classes; the same `seed` gives the same bytes.

    `noise` is the standard deviation of the noise in grey levels; the patterns themselves span 0 to 255.
    Raises UsageError.
    """

    name = "synthetic"
    summary = "patterns with noise, generated in memory, 1,000 + 200 images of 28 x 28 x 1, 10 classes"
    built_in = True
    licence = "none needed"

    def __init__(
        self,
        shape: tuple[int, int, int] = (28, 28, 1),
        classes: int = 10,
        train: int = 1000,
        test: int = 200,
        noise: float = 32.0,
        seed: int = 0,
    ) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise UsageError(f"The shape is {shape}; give height, width and channels, each 1 or more.")
        if classes < 2 or train < 1 or test < 1:
            raise UsageError(
                f"{classes} classes, {train} training and {test} test images are too few; give at least 2, 1, 1."
            )
        if not 0 <= noise < 256:
            raise UsageError(f"The noise is {noise}; give a standard deviation from 0 to 255 grey levels.")
        self.shape, self.classes, self.train, self.test = shape, classes, train, test
        self.noise, self.seed = noise, seed

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Generates the images; `folders` are ignored."""
        rng = np.random.default_rng(self.seed)
        patterns = np.stack([self._pattern(rng) for _ in range(self.classes)])
        train, test = (self._split(rng, patterns, count) for count in (self.train, self.test))
        return Dataset(self.name, train, test, tuple(f"pattern {i}" for i in range(self.classes)))

    def _pattern(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """A sum of a few plane waves of random direction and phase, (H, W, C) from 0 to 255."""
        height, width, channels = self.shape
        rows, columns = np.arange(height)[:, None, None] / height, np.arange(width)[:, None] / width
        total: npt.NDArray[np.float64] = np.zeros(self.shape)
        for _ in range(4):
            down, across = rng.uniform(-_PERIODS, _PERIODS, size=(2, channels))
            total += np.sin(2 * np.pi * (down * rows + across * columns + rng.random(channels)))
        pattern = 127.5 + 127.5 * total / max(float(np.abs(total).max()), 1e-6)
        return pattern.astype(np.float32)

    def _split(self, rng: np.random.Generator, patterns: npt.NDArray[np.float32], count: int) -> Split:
        """`count` images in random order, with the classes as equal in number as possible."""
        labels = rng.permutation(np.arange(count, dtype=np.int64) % self.classes)
        images = np.empty((count, *self.shape), dtype=np.uint8)
        shifts = rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1, size=(count, 2))
        for image, (label, (down, across)) in enumerate(zip(labels, shifts, strict=True)):
            shifted = np.roll(patterns[label], (down, across), axis=(0, 1))
            noisy = shifted + self.noise * rng.standard_normal(self.shape, dtype=np.float32)
            images[image] = np.clip(noisy, 0, 255)
        return Split(images, labels)
