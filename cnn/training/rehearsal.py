"""Computes every shape of a run before it begins, so that choosing algorithms is no part of its time and energy."""

from collections.abc import Iterable

import numpy as np

from cnn.data.dataset import Split
from cnn.model.sequential import EVALUATED, Sequential
from cnn.shard import Shard, part
from cnn.training.world import World


def rehearse(
    model: Sequential, train: Split, batch_size: int, micro_batches: int, world: World, evaluated: Iterable[Split]
) -> None:
    """Computes every slice of a batch that a rank may get, and batches of the splits; leaves the model unchanged.

    So a backend that chooses algorithms by measuring does this once per host, undisturbed, and all processes use the
    choices of the first. Other backends have nothing to rehearse in a single process.
    """
    if world.size == 1 and not model.backend.instruments.measures_algorithms:
        return
    wholes = {min(batch_size, len(train)), len(train) % batch_size}
    micro = {size for whole in wholes for size in _sizes(whole, micro_batches)}
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
