"""A network's passes over batches of one shape: run by its layers at first, later from recordings of their work."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from math import nan
from typing import Any
from weakref import proxy

import numpy as np

from cnn.arrays import Array
from cnn.instruments import Recording
from cnn.model.network import BACKWARD, FORWARD, AfterLayer, Arrays, Network
from cnn.model.wiring import INPUT

SETTLED = 3
"""Runs of a pass until recording and checking are over."""

Score = Callable[[Array], Any]


@dataclass(frozen=True)
class Stretch:
    """Consecutive layers of a walk with their recorded work, or one layer that must be called, without a recording."""

    places: list[int]
    recording: Recording | None


class Passes:
    """Runs the content of `x` through a network repeatedly: forward, and backward if `gradient` is given.

    Layers pass the same arrays to the backend every time, and with small arrays this takes Python longer than the work
    itself. So the first run allocates and chooses algorithms, and the second is recorded, if the backend can record.
    The third is done twice, from the recording and by the layers. If both give the same bytes in scores, gradients and
    running statistics, the recording is used from then on. Layers that are not `repeatable` are called in between.
    """

    def __init__(
        self, network: Network, x: Array, gradient: Array | None, score: Score, *, steady_score: bool, apart: bool
    ) -> None:
        """`score` computes the result from the scores, and fills the gradient if there is one.

        With `steady_score` it only calls the backend. With `apart` every layer has its own recording.
        """
        # The model owns the network, whose buffers clear the passes when they move: the proxy avoids a reference cycle.
        self._network: Network = proxy(network)
        self._x = x
        self._gradient = gradient
        # A layer that is recorded draws nothing.
        self._draws = gradient is not None and not all(layer.repeatable for layer in network.layers)
        self._score = score
        self._steady_score = steady_score
        self._apart = apart
        self.runs = 0
        self._recorded = False
        self._arrays = Arrays(x)
        self._result: Any = None
        self._whole: Recording | None = None
        self._stretches: dict[str, list[Stretch]] = {}

    def run(self, after_layer: AfterLayer | None = None) -> Any:
        """Returns the result.

        `after_layer` is called with the place of each layer whose gradients are complete, if recordings are kept apart.
        """
        network = self._network
        if self._draws:
            network.random_state = network.context.rng.bit_generator.state
        if self._recorded and self.runs >= SETTLED:
            return self._repeat(after_layer)
        run = self._record if self.runs == 1 else self._check if self._recorded else self._by_layers
        result = run(after_layer)
        self.runs += 1
        return result

    def _by_layers(self, after_layer: AfterLayer | None) -> Any:
        result = self._score(self._network.forward(self._x, training=self._gradient is not None))
        if self._gradient is not None:
            self._network.backward(self._gradient, after_layer)
        return result

    def _record(self, after_layer: AfterLayer | None) -> Any:
        network = self._network
        recording = network.context.backend.instruments.recording()
        steady = all(layer.repeatable for layer in network.layers)
        # Other layers may sum over the processes, and some of these may not be doing their run twice.
        if recording is None or (network.context.shard.divided and not steady):
            return self._by_layers(after_layer)
        if steady and self._steady_score and not self._apart:
            with recording.record():
                self._result = self._by_layers(after_layer)
            self._whole, self._arrays = recording, network.arrays
        else:
            network.arrays = self._arrays
            self._record_stretches(FORWARD, network.order, None)
            self._result = self._score(network.scores)
            if self._gradient is not None:
                self._arrays.gradients = {network.order[-1]: self._gradient}
                self._record_stretches(BACKWARD, network.backward_order, after_layer)
        self._recorded = True
        return self._result

    def _record_stretches(self, direction: str, order: Iterable[int], after_layer: AfterLayer | None) -> None:
        """Records one direction, stretch by stretch."""
        network, training = self._network, self._gradient is not None
        stretches = self._stretches[direction] = []
        for places in self._cut(order):
            recording = network.context.backend.instruments.recording()
            assert recording is not None
            with recording.record():
                for place in places:
                    network.visit(place, direction, self._arrays, training=training)
            stretches.append(Stretch(places, recording if network.layers[places[0]].repeatable else None))
            if after_layer is not None:
                after_layer(places[0])

    def _cut(self, order: Iterable[int]) -> Iterator[list[int]]:
        """The places of the layers in stretches: consecutive repeatable layers together, unless kept apart."""
        for repeatable, group in groupby(order, lambda place: self._network.layers[place].repeatable):
            places = list(group)
            yield from [places] if repeatable and not self._apart else [[place] for place in places]

    def _recordings(self) -> Iterator[Recording]:
        if self._whole is not None:
            yield self._whole
        for stretch in chain.from_iterable(self._stretches.values()):
            if stretch.recording is not None:
                yield stretch.recording

    def _repeat(self, after_layer: AfterLayer | None) -> Any:
        self._network.arrays = self._arrays
        if self._whole is not None:
            returned = self._whole.repeat()
            return self._result if returned is None else returned
        self._go(FORWARD, None)
        result = self._score(self._network.scores)
        if self._gradient is not None:
            self._go(BACKWARD, after_layer)
        return result

    def _go(self, direction: str, after_layer: AfterLayer | None) -> None:
        network, training = self._network, self._gradient is not None
        for stretch in self._stretches[direction]:
            place = stretch.places[0]
            by_layer = partial(network.visit, place, direction, self._arrays, training=training)
            network.observed(place, direction, stretch.recording.repeat if stretch.recording else by_layer)
            if after_layer is not None:
                after_layer(place)

    def _check(self, after_layer: AfterLayer | None) -> Any:
        if not all(recording.prepare() for recording in self._recordings()):
            self._recorded = False
            return self._by_layers(after_layer)
        network, generator = self._network, self._network.context.rng.bit_generator
        backend, statistics = network.context.backend, list(network.statistics.values())
        before, state = [backend.to_numpy(array) for array in statistics], generator.state
        self._spoil()
        result = self._repeat(None)
        repeated = [_bytes(array) for array in (result, network.scores, *statistics)]
        gradients = {each.name: _bytes(each.gradient) for each in network.parameters}
        for array, copy in zip(statistics, before, strict=True):
            backend.copy(copy, array)
        generator.state = state

        def compare(place: int) -> None:
            for each in network.layers[place].parameters:
                self._recorded &= _bytes(each.gradient) == gradients[each.name]
            if after_layer is not None:
                after_layer(place)

        result = self._by_layers(compare)
        self._recorded &= [_bytes(array) for array in (result, network.scores, *statistics)] == repeated
        # If no products were computed, the arrays are unchanged and there is nothing to compare.
        self._recorded |= not backend.instruments.multiplies
        return result

    def _spoil(self) -> None:
        """Overwrites every output with NaN, so that one which the recording does not compute is not taken for computed.

        What NumPy computes leaves no trace in a recording, and with the batch of the run before it would be right.
        """
        backend = self._network.context.backend
        for place, array in self._arrays.outputs.items():
            if place != INPUT and not np.may_share_memory(array, self._x):
                backend.scale(array, nan, array)


def _bytes(value: Array | tuple[float, int]) -> bytes:
    return np.asarray(value).tobytes()
