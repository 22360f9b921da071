"""Keeps the training state the same on all processes, by averaging it or copying it from rank 0."""

from collections.abc import Iterable

import numpy as np

from cnn.arrays import Array
from cnn.model.sequential import Sequential
from cnn.optimizers import Optimizer
from cnn.training.world import World


class Replicas:
    """The processes' copies of a model and its optimizer."""

    def __init__(self, model: Sequential, optimizer: Optimizer, world: World, others: Iterable[Array] = ()) -> None:
        self._world = world
        self._backend = model.backend
        statistics = model.network.statistics.values()
        self._arrays: list[Array] = [*(group.value for group in model.groups), *optimizer.state.values(), *statistics]
        self._arrays += others

    @np.errstate(all="ignore")
    def average(self, images: int) -> None:
        """Gives all processes the average of their parameters, optimizer states and running statistics.

        Each process is weighted by the `images` that it has trained on since the last average, as in McMahan et al.
        2017, "Communication-efficient learning of deep networks from decentralized data", algorithm 1.
        """
        if self._world.size == 1:
            return
        weight = images / max(1, sum(self._world.gather(images)))
        for array in self._arrays:
            self._backend.scale(array, weight, array)
        self._world.sum(*self._arrays)

    def copy_first(self) -> None:
        """Gives all processes the state of rank 0, because different kinds of processors round updates differently."""
        self._world.copy_first(*self._arrays)
