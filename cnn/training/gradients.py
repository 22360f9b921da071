"""The gradients of a whole batch: of micro-batches one after the other, each divided among the processes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.data.dataset import Split
from cnn.model.sequential import Sequential
from cnn.ops.input import Changes
from cnn.shard import part
from cnn.training.world import World

BUCKET = 1 << 20
"""Bytes of gradients worth a sum of their own: what a start costs is small against it, and the rest goes on."""


@dataclass(frozen=True)
class Bucket:
    """A stretch of a long gradient, complete once the backward pass has done with `layer`."""

    gradient: Array
    layer: int


def buckets(model: Sequential, least: int) -> list[Bucket]:
    """The gradients of `model` in stretches of at least so many bytes, in the order they become complete."""
    layer_of = {id(each): node.place for node in model.network.nodes for each in node.layer.parameters}
    found = []
    for group in model.groups:
        end = group.gradient.size
        for parameter, start in reversed(group.parts):
            if start == 0 or (end - start) * group.gradient.itemsize >= least:
                found.append(Bucket(group.gradient[start:end], layer_of[id(parameter)]))
                end = start
    return sorted(found, key=lambda bucket: -bucket.layer)


class BatchGradients:
    """Fills the gradients of a model for whole batches.

    The mean over the batch is one over its images, however they are divided. With `alone` each process's gradients are
    the mean over its own images.
    """

    def __init__(self, model: Sequential, world: World, micro_batches: int = 1, *, alone: bool = False) -> None:
        self.model = model
        self.world = world
        self.micro_batches = micro_batches
        self.alone = alone
        self.shard = world.shard(alone=alone)
        model.context.shard = self.shard
        self._buckets = buckets(model, BUCKET)
        zeros = model.backend.zeros
        self._kept = [zeros(b.gradient.shape, b.gradient.dtype) for b in self._buckets] if micro_batches > 1 else []
        self._sums = world.sums()
        self.own = 0
        """The images of the last batch that were this process's own."""
        self._completed = 0
        self._keeps = False
        self._counts = 1.0
        """0 while this process computes an image that counts for nothing."""

    def compute(
        self, split: Split, chosen: npt.NDArray[np.int64], changes: Changes, flag: bool = False
    ) -> tuple[float, int, bool]:
        """(summed loss, right answers, whether any process has the flag set) of the images `chosen`, all processes'.

        `changes` are those of an augmentation, for all of `chosen`.
        """
        pieces = [part(k, self.micro_batches, 0, len(chosen)) for k in range(self.micro_batches)]
        pieces = [piece for piece in pieces if piece[0] < piece[1]]
        self.own = sum(self.shard.counted(*piece) for piece in pieces)
        images = max(1, self.own) if self.alone else len(chosen)
        self._completed, self._keeps = 0, False
        results = np.zeros(3)
        # Where there is nothing to sum, the pass need not be divided by layers.
        complete = self._complete if self._sums or len(pieces) > 1 else None
        for number, piece in enumerate(pieces, 1):
            rows = self.shard.take(*piece)
            self._counts = float(self.shard.count > 0)
            loss, correct = self.model.train_step(
                split.images,
                split.labels,
                chosen[rows],
                changes.of(rows),
                weight=self.shard.count / images,
                after_layer=complete if number == len(pieces) else None,
            )
            if self._counts:
                results += loss, correct, 0
            if number < len(pieces):
                self._keep(first=number == 1)
        if self._sums:
            results[2] = flag
            self._sums.add(results)
            self._sums.finish()
        return float(results[0]), int(results[1]), bool(results[2])

    def _keep(self, *, first: bool) -> None:
        """Puts the gradients of a micro-batch by, or adds them to those put by."""
        self._keeps = True
        for bucket, kept in zip(self._buckets, self._kept, strict=True):
            if first:
                self.model.backend.scale(bucket.gradient, self._counts, kept)
            elif self._counts:
                self.model.backend.add(bucket.gradient, kept)

    def _complete(self, layer: int) -> None:
        """Starts to sum what the backward pass has completed with `layer`, and lets what is under way move on."""
        while self._completed < len(self._buckets) and self._buckets[self._completed].layer >= layer:
            bucket = self._buckets[self._completed]
            if not self._counts:
                self.model.backend.scale(bucket.gradient, 0.0, bucket.gradient)
            if self._keeps:
                self.model.backend.add(self._kept[self._completed], bucket.gradient)
            if self._sums and not self.alone:
                self._sums.add(bucket.gradient)
            self._completed += 1
        if self._sums:
            self._sums.poke()
