"""A network's passes over batches of one shape: by its layers at first, later from recordings of their work."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any
from weakref import proxy

import numpy as np

from cnn.arrays import Array
from cnn.instruments import Recording

if TYPE_CHECKING:
    from cnn.model.sequential import Sequential

FORWARD, BACKWARD = "forward", "backward"

SETTLED = 3
"""Runs of a pass after which none goes into a recording or its check any more."""

Score = Callable[[Array], Any]
AfterLayer = Callable[[int], None]
Stretch = tuple[int, Recording | None, Array, Array]
"""The place of the first of some neighbouring layers, their work, and the arrays it begins and ends with.

Without a recording it is one layer that is to be called.
"""


class Passes:
    """Takes what is in `x` through a network, time and again: forward, and backward where `slopes` is given.

    Layers hand the backend the same arrays every time, and for small ones that takes Python longer than the work
    itself. So the second run is recorded, if the backend can, after a first one that allocates and chooses algorithms.
    The third is done twice, from the recording and by the layers: the recording is used from then on if both left the
    same bytes in scores, gradients and running statistics. Layers that are not `repeatable` are called in between.
    """

    def __init__(self, model: "Sequential", x: Array, slopes: Array | None, score: Score, *, apart: bool) -> None:
        """`score` makes a result of the scores, and fills the slopes if there are any.

        With `apart` every layer has a recording of its own.
        """
        self._model: Sequential = proxy(model)  # which has this object: both go with the last reference to it
        self._x = x
        self._slopes = slopes
        self._score = score
        self._apart = apart
        self.runs = 0
        self._recorded = False
        self._outputs: list[Array] = []
        self._result: Any = None
        self._whole: Recording | None = None
        self._stretches: dict[str, list[Stretch]] = {}

    def run(self, after_layer: AfterLayer | None = None) -> Any:
        """The result.

        `after_layer` is told the place of each layer whose gradients are filled, if recordings are kept apart.
        """
        if self._recorded and self.runs >= SETTLED:
            return self._repeat(after_layer)
        run = self._record if self.runs == 1 else self._check if self._recorded else self._by_layers
        result = run(after_layer)
        self.runs += 1
        return result

    def _by_layers(self, after_layer: AfterLayer | None) -> Any:
        result = self._score(self._model.forward(self._x, training=self._slopes is not None))
        if self._slopes is not None:
            self._model.backward(self._slopes, after_layer)
        return result

    def _record(self, after_layer: AfterLayer | None) -> Any:
        model = self._model
        recording = model.backend.instruments.recording()
        steady = all(layer.repeatable for layer in model.layers)
        # Others may sum over the processes, of which not all need be at the run that is done twice.
        if recording is None or (model.setting.shard.divided and not steady):
            return self._by_layers(after_layer)
        if steady and model.loss.repeatable and not self._apart:
            with recording.record():
                self._result = self._by_layers(after_layer)
            self._whole = recording
        else:
            model.outputs = self._record_stretches(FORWARD, self._x, None)
            self._result = self._score(model.outputs[-1])
            if self._slopes is not None:
                self._record_stretches(BACKWARD, self._slopes, after_layer)
        self._outputs, self._recorded = model.outputs, True
        return self._result

    def _record_stretches(self, direction: str, value: Array, after_layer: AfterLayer | None) -> list[Array]:
        """Records one direction in stretches, from `value` on; returns what comes out of each layer."""
        model, results = self._model, list[Array]()
        training = self._slopes is not None
        self._stretches[direction] = []
        for places in self._cut(model.order(direction)):
            recording, start = model.backend.instruments.recording(), value
            assert recording is not None
            with recording.record():
                for place in places:
                    value = model.through(place, direction, value, training=training)
                    results.append(value)
            steady = model.layers[places[0]].repeatable
            self._stretches[direction].append((places[0], recording if steady else None, start, value))
            if after_layer is not None:
                after_layer(places[0])
        return results

    def _cut(self, order: Iterable[int]) -> Iterator[list[int]]:
        """The places of layers in stretches: those of repeatable ones together, unless they are kept apart."""
        for repeatable, group in groupby(order, lambda place: self._model.layers[place].repeatable):
            places = list(group)
            yield from [places] if repeatable and not self._apart else [[place] for place in places]

    def _call(self, place: int, direction: str, value: Array, out: Array) -> None:
        """Takes `value` through a layer, to where it came out while the others were recorded."""
        result = self._model.through(place, direction, value, training=self._slopes is not None)
        if result is not out:
            self._model.backend.copy(result, out)

    def _repeat(self, after_layer: AfterLayer | None) -> Any:
        self._model.outputs = self._outputs
        if self._whole is not None:
            returned = self._whole.repeat()
            return self._result if returned is None else returned
        self._go(FORWARD, None)
        result = self._score(self._outputs[-1])
        if self._slopes is not None:
            self._go(BACKWARD, after_layer)
        return result

    def _go(self, direction: str, after_layer: AfterLayer | None) -> None:
        for place, recording, start, out in self._stretches[direction]:
            again = recording.repeat if recording else partial(self._call, place, direction, start, out)
            self._model.observed(place, direction, again)
            if after_layer is not None:
                after_layer(place)

    def _check(self, after_layer: AfterLayer | None) -> Any:
        model, generator = self._model, self._model.rng.bit_generator
        statistics = [array for layer in model.layers for array in layer.statistics.values()]
        before, state = [model.backend.to_numpy(array) for array in statistics], generator.state
        result = self._repeat(None)
        repeated = [_bytes(array) for array in (result, self._outputs[-1], *statistics)]
        gradients = {each.name: _bytes(each.gradient) for each in model.parameters}
        for array, copy in zip(statistics, before, strict=True):
            model.backend.copy(copy, array)
        generator.state = state

        def compare(place: int) -> None:
            for each in model.layers[place].parameters:
                self._recorded &= _bytes(each.gradient) == gradients[each.name]
            if after_layer is not None:
                after_layer(place)

        result = self._by_layers(compare)
        self._recorded &= [_bytes(array) for array in (result, model.outputs[-1], *statistics)] == repeated
        # Where nothing was multiplied the arrays hold what they held, and there is nothing to compare.
        self._recorded |= not model.backend.instruments.multiplies
        return result


def _bytes(value: Array | tuple[float, int]) -> bytes:
    return np.asarray(value).tobytes()
