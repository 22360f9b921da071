"""Keeps the state of training the same on all processes: averaged now and then, or copied from rank 0."""

from cnn.arrays import Array
from cnn.model.sequential import Sequential
from cnn.optimizers import Optimizer
from cnn.training.world import World


class Replicas:
    """The copies that processes have of a model and its optimizer."""

    def __init__(self, model: Sequential, optimizer: Optimizer, world: World) -> None:
        self._world = world
        self._backend = model.backend
        statistics = model.network.statistics.values()
        self._arrays: list[Array] = [*(group.value for group in model.groups), *optimizer.state.values(), *statistics]

    def average(self, images: int) -> None:
        """Gives all the average of parameters, optimizer state and running statistics.

        Each process's are weighted by the `images` that it has trained on since the last average, as in McMahan et al.
        2017, "Communication-efficient learning of deep networks from decentralized data", algorithm 1.
        """
        if self._world.size == 1:
            return
        weight = images / max(1, sum(self._world.gather(images)))
        for array in self._arrays:
            self._backend.scale(array, weight, array)
        self._world.sum(*self._arrays)

    def copy_first(self) -> None:
        """Gives all those of rank 0: processors of different kinds round an update differently."""
        self._world.copy_first(*self._arrays)
