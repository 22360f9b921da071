"""The law of one kind of task on one machine: its time, interpolated between sizes that were measured.

A task of `work` FLOP or bytes takes seconds = (overhead + work / rate) c. The logarithm of c is a linear trend in the
logarithms of the task's sizes plus a Gaussian process, so that between the measured sizes it is interpolated and the
distance from them widens the interval (Rasmussen and Williams 2006, sections 2.2, 2.7 and 5.4.2).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, exp, inf, log, log2, sqrt
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

VECTOR = 16
"""float32 numbers in 512 bits: filters and channels that do not fill their last vector cost as if they did."""
LENGTHS = (1.5, 3.0, 6.0, 12.0)
"""Octaves over which c varies little; one of these lengths is chosen for every size."""
NOISES = (0.02, 0.05, 0.1)
"""Relative errors of a measured time, of which one is chosen: how close to the points a law passes."""
RIDGE = 1.0
"""How strongly trends are held back: sizes that vary together among few points would suggest steep ones."""
SWEEPS = 2
START = 3.0
"""The length in octaves that the search begins with."""
REACH = 1000
"""How many times as much work as the largest measured task a law may be asked about."""
MOST = 700
"""Points that a law rests on; of more, which `cnn calibrate` never measures, evenly chosen ones are used."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One measured task; `sizes` are those of `cnn.energy.tasks.Task`."""

    sizes: tuple[int, ...]
    work: int
    seconds: float


@dataclass(frozen=True)
class Law:
    """Measured points, and the seconds that even the smallest task takes.

    `lengths` and `noise` are those that fit the points best; without them they are searched, which takes a second.
    """

    overhead: float
    points: tuple[Point, ...]
    lengths: tuple[float, ...] | None = None
    noise: float = NOISES[0]

    def seconds(self, sizes: tuple[int, ...], work: int) -> tuple[float, float]:
        """Seconds of a task and their relative standard deviation. Sizes are clipped to the range of those measured."""
        fit = self._fit
        x = np.clip(_features(sizes, work), fit.x.min(axis=0), fit.x.max(axis=0))
        near = fit.kernel(x[None])[0]
        correction = float(_trend(x[None])[0] @ fit.trend + near @ fit.weights)
        deviation = sqrt(fit.variance * max(1 - float(near @ fit.inverse @ near), 0) + fit.noise**2)
        return self._base(work) * exp(correction), deviation

    @property
    def features(self) -> int:
        """The number of lengths: how many numbers the correction depends on."""
        return len(_features(self.points[0].sizes, self.points[0].work))

    def reaches(self, work: int) -> bool:
        """Whether a task is not far larger than every measured one, which would show the overhead only."""
        return work <= REACH * max((point.work for point in self.points), default=0)

    def without(self, points: Collection[Point]) -> "Law":
        """The law of the other points, which varies over the same lengths."""
        fit = self._fit
        kept = tuple(point for point in self.points if point not in points)
        return Law(self.overhead, kept, tuple(fit.lengths.tolist()), fit.noise)

    @property
    def error(self) -> float:
        """Root mean square of log(predicted / measured seconds), each point being predicted from all others."""
        return self._fit.error

    def _base(self, work: int) -> float:
        return self.overhead + work / self._rate

    @cached_property
    def _rate(self) -> float:
        """The median rate, after the overhead, of the half of the points that take longest."""
        longest = sorted(self.points, key=lambda point: point.seconds)[len(self.points) // 2 :]
        return median(point.work / max(point.seconds - self.overhead, point.seconds / 10) for point in longest)

    @cached_property
    def _fit(self) -> "_Fit":
        points = self.points[:: ceil(len(self.points) / MOST)]
        x = np.array([_features(point.sizes, point.work) for point in points])
        y = np.array([log(point.seconds / self._base(point.work)) for point in points])
        if self.lengths is not None:
            return _Fit(x, y, np.array(self.lengths), self.noise)
        best = _Fit(x, y, np.full(x.shape[1], START), NOISES[0])
        for _ in range(SWEEPS):
            for noise in NOISES:
                best = min(best, _Fit(x, y, best.lengths, noise), key=lambda fit: fit.error)
            for column in range(x.shape[1]):
                for length in LENGTHS:
                    changed = best.lengths.copy()
                    changed[column] = length
                    best = min(best, _Fit(x, y, changed, best.noise), key=lambda fit: fit.error)
        return best


class _Fit:
    """A trend and a Gaussian process with given lengths through y at x."""

    def __init__(self, x: Vector, y: Vector, lengths: Vector, noise: float) -> None:
        self.x, self.lengths, self.noise = x, lengths, noise
        terms = _trend(x)
        ridge = RIDGE * len(y) * np.eye(terms.shape[1])
        ridge[0, 0] = 0
        self.trend = np.linalg.solve(terms.T @ terms + ridge, terms.T @ y)
        rest = y - terms @ self.trend
        self.variance = max(float(rest @ rest) / len(y), noise**2)
        covariance = self.kernel(x) + noise**2 / self.variance * np.eye(len(y))
        self.inverse = np.linalg.inv(covariance)
        self.weights = self.inverse @ rest
        self.error = float(np.sqrt(np.mean((self.weights / np.diag(self.inverse)) ** 2)))

    def kernel(self, x: Vector) -> Vector:
        """Correlation of log c at x (n, d) with log c at the measured points, (n, points)."""
        apart = np.sqrt((((x[:, None] - self.x[None]) / self.lengths) ** 2).sum(axis=2) * 3)
        return np.asarray((1 + apart) * np.exp(-apart))


def _features(sizes: tuple[int, ...], work: int) -> Vector:
    """What the correction depends on, in octaves.

    These are the sizes, the work for each output, which tells strides apart, how well channels and filters, the second
    and the third of the sizes, fill vectors, and how well the images fill tiles, the last of them.
    """
    *extent, fill = sizes
    octaves = [log2(max(size, 1)) for size in extent]
    share = work / max(sizes[0] * sizes[1], 1)
    shares = (max(share, 1), fill / 100, *(_filled(size) for size in sizes[1:3]))
    return np.array([*octaves, *(3 * log2(each) for each in shares)])


def _filled(size: int) -> float:
    return size / (ceil(size / VECTOR) * VECTOR)


def _trend(x: Vector) -> Vector:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def to_table(law: Law) -> dict[str, Any]:
    """The law as JSON values, with what fits its points best."""
    fit = law._fit
    return {
        "overhead": law.overhead,
        "points": [[*point.sizes, point.work, point.seconds] for point in law.points],
        "lengths": fit.lengths.tolist(),
        "noise": fit.noise,
    }


def from_table(table: dict[str, Any]) -> Law:
    """The law that `to_table` wrote. Raises KeyError, TypeError or ValueError for a table that it did not write."""
    points = [Point(tuple(map(int, row[:-2])), int(row[-2]), float(row[-1])) for row in table["points"]]
    if not points:
        raise ValueError("a law without points")
    law = Law(float(table["overhead"]), tuple(points))
    if not 0 <= law.overhead < inf or not all(0 < each.seconds < inf and each.work > 0 for each in points):
        raise ValueError("a law of impossible times")
    lengths, noise = tuple(map(float, table["lengths"])), float(table["noise"])
    if not {*lengths} <= {START, *LENGTHS} or noise not in NOISES or len(lengths) != law.features:
        raise ValueError(f"lengths {lengths} and noise {noise} fit no law")
    return replace(law, lengths=lengths, noise=noise)
