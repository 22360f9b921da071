"""The gradients of a whole batch, computed in micro-batches that are each divided among the processes."""

from dataclasses import dataclass
from math import fsum, sqrt

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.data.dataset import Split
from cnn.data.mixup import Mix
from cnn.model.sequential import Sequential
from cnn.ops.input import Changes
from cnn.shard import part
from cnn.training.world import World

BUCKET = 1 << 20
"""Least bytes of gradients that are summed at a time: enough to make the cost of starting a sum small."""


@dataclass(frozen=True)
class Bucket:
    """A stretch of a long gradient that is complete once the backward pass is through with `layer`."""

    gradient: Array
    layer: int


def buckets(model: Sequential, least: int) -> list[Bucket]:
    """The gradients of `model` in stretches of at least `least` bytes, in the order in which they become complete."""
    layer_of = {id(each): node.place for node in model.network.nodes for each in node.layer.parameters}
    found = []
    for group in model.groups:
        end = group.gradient.size
        for parameter, start in reversed(group.parts):
            if start == 0 or (end - start) * group.gradient.itemsize >= least:
                found.append(Bucket(group.gradient[start:end], layer_of[id(parameter)]))
                end = start
    return sorted(found, key=lambda bucket: -bucket.layer)


def clip(model: Sequential, most: float) -> float:
    """Scales all gradients down together until their norm is `most`, if it is larger; returns the norm before.

    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.
    """
    gradients = [group.gradient for group in model.groups]
    norm = sqrt(fsum(model.backend.squared_norm(each) for each in gradients))
    if norm > most:
        for each in gradients:
            model.backend.scale(each, most / norm, each)
    return norm


class BatchGradients:
    """Fills the gradients of a model for whole batches.

    They are the mean over all images of the batch, however these are divided. With `alone`, each process's gradients
    are the mean over its own images.
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
        """How many images of the last batch were this process's own."""
        self._completed = 0
        self._keeps = False
        self._counts = 1.0
        """0 while this process computes an image that does not count, else 1."""

    @np.errstate(all="ignore")
    def compute(
        self,
        split: Split,
        chosen: npt.NDArray[np.int64],
        changes: Changes,
        flag: bool = False,
        mix: Mix | None = None,
    ) -> tuple[float, int, bool]:
        """(summed loss, correct answers, whether any process set `flag`) over the images `chosen` and all processes.

        `changes` come from an augmentation and cover all of `chosen`, as `mix` does.
        """
        pieces = [part(k, self.micro_batches, 0, len(chosen)) for k in range(self.micro_batches)]
        pieces = [piece for piece in pieces if piece[0] < piece[1]]
        self.own = sum(self.shard.counted(*piece) for piece in pieces)
        images = max(1, self.own) if self.alone else len(chosen)
        self._completed, self._keeps = 0, False
        results = np.zeros(3)
        # If there is nothing to sum, the pass need not be divided by layers.
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
                weights=split.weights,
                partners=None if mix is None else mix.of(rows, chosen, changes),
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
        """Stores the gradients of a micro-batch, or adds them to those already stored."""
        self._keeps = True
        for bucket, kept in zip(self._buckets, self._kept, strict=True):
            if first:
                self.model.backend.scale(bucket.gradient, self._counts, kept)
            elif self._counts:
                self.model.backend.add(kept, bucket.gradient, None, kept)

    def _complete(self, layer: int) -> None:
        """Starts to sum the gradients that are complete after `layer`, and lets running sums make progress."""
        while self._completed < len(self._buckets) and self._buckets[self._completed].layer >= layer:
            bucket = self._buckets[self._completed]
            if not self._counts:
                self.model.backend.scale(bucket.gradient, 0.0, bucket.gradient)
            if self._keeps:
                self.model.backend.add(bucket.gradient, self._kept[self._completed], None, bucket.gradient)
            if self._sums and not self.alone:
                self._sums.add(bucket.gradient)
            self._completed += 1
        if self._sums:
            self._sums.poke()
