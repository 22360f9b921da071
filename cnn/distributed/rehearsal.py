"""Computes every shape of a run before it begins, on one process of each host first."""

from collections.abc import Iterable

import numpy as np

from cnn.data.dataset import Split
from cnn.model.sequential import EVALUATED
from cnn.shard import Shard, part
from cnn.training.trainer import Trainer


def rehearse(trainer: Trainer, evaluated: Iterable[Split]) -> None:
    """Computes every slice of a batch that a rank may get, and batches of the splits; leaves the model unchanged.

    So a backend that chooses algorithms by measuring does this once per host, undisturbed, and all processes use the
    choices of the first.
    """
    model, train, world = trainer.model, trainer.train, trainer.world
    if world.size == 1:
        return
    wholes = {min(trainer.batch_size, len(train)), len(train) % trainer.batch_size}
    micro = {size for whole in wholes for size in _sizes(whole, trainer.accumulate)}
    slices = {max(1, size) for whole in micro for size in _sizes(whole, world.size)}
    batches = {size for count in map(len, evaluated) for size in (EVALUATED, count % EVALUATED)}
    state, random = model.state(), model.rng.bit_generator.state
    shard, model.context.shard = model.context.shard, Shard()
    with world.first_here(), np.errstate(all="ignore"):
        for size in sorted(slices):
            model.train_step(train.images, train.labels, np.arange(size))
        for size in sorted(batches - {0}):
            model.forward(model.load_images(train.images, np.arange(size) % len(train)))
    model.context.shard = shard
    model.load_state(state)
    model.rng.bit_generator.state = random


def _sizes(whole: int, parts: int) -> set[int]:
    """The sizes of the parts that `whole` is cut into."""
    return {stop - start for start, stop in (part(k, parts, 0, whole) for k in range(parts))}
