"""Which layers each layer of a network reads: found from names, blocks and the order of the list."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from cnn.errors import UsageError
from cnn.layers.blocks import Block
from cnn.layers.layer import Layer
from cnn.words import nearest

INPUT = -1
"""The place that stands for the network's input among the inputs of a layer."""

INPUT_NAME = "input"
"""The name by which layers read the network's input."""


class Wired(NamedTuple):
    """A layer with its name in the network and the places of the layers it reads."""

    layer: Layer
    name: str
    inputs: tuple[int, ...]


def wire(layers: Iterable[Layer | Block]) -> list[Wired]:
    """The layers in their order, blocks taken apart; the last one has the network's output.

    Raises UsageError if a name is used twice or unknown, if a layer reads one that comes later, or if nobody reads it.
    """
    wiring = _Wiring()
    last = wiring.chain(layers, INPUT)
    names = _names(wiring.layers)
    places = {INPUT_NAME: INPUT} | {name: place for place, name in enumerate(names)}
    wired = [
        Wired(layer, name, _resolved(layer, place, places) or inputs)
        for place, (layer, name, inputs) in enumerate(zip(wiring.layers, names, wiring.inputs, strict=True))
    ]
    read = {place for each in wired for place in each.inputs}
    for place, each in enumerate(wired):
        if place not in read and place != last:
            raise UsageError(f"No layer reads {each.name}; remove it, or name it among the inputs of a later layer.")
    return wired


class _Wiring:
    """The layers placed so far, and the places that each reads unless it names its inputs itself."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.inputs: list[tuple[int, ...]] = []

    def chain(self, layers: Iterable[Layer | Block], before: int) -> int:
        for each in layers:
            before = each.wire(self.chain, self.join, before) if isinstance(each, Block) else self.join(each, (before,))
        return before

    def join(self, layer: Layer, inputs: Sequence[int]) -> int:
        if not isinstance(layer, Layer):
            raise UsageError(f"A network is made of a list of layers, not of {layer!r}.")
        self.layers.append(layer)
        self.inputs.append(tuple(inputs))
        return len(self.layers) - 1


def _names(layers: Sequence[Layer]) -> list[str]:
    """The given name of each layer, or its class in short and the next number of that class that is free."""
    given = [None if layer.generated_name else layer.name for layer in layers]
    taken = set[str]()
    for name in given:
        if name is None:
            continue
        if name in taken:
            raise UsageError(f"Two layers are named {name!r}; give each a name of its own.")
        if name in (INPUT_NAME, "") or "." in name:
            raise UsageError(f"A layer cannot be named {name!r}; take a name without dots other than {INPUT_NAME!r}.")
        taken.add(name)
    numbers: dict[str, count[int]] = {}

    def generated(layer: Layer) -> str:
        kind = type(layer).__name__.lower().removesuffix("2d")
        free = (f"{kind}{number}" for number in numbers.setdefault(kind, count(1)))
        return next(each for each in free if each not in taken)

    return [name or generated(layer) for name, layer in zip(given, layers, strict=True)]


def _resolved(layer: Layer, place: int, places: Mapping[str, int]) -> tuple[int, ...]:
    """The places of the inputs that the layer at `place` names, empty if it names none."""
    if layer.inputs is None:
        return ()
    wanted = [layer.inputs] if isinstance(layer.inputs, str) else layer.inputs
    own = next(name for name, at in places.items() if at == place)
    if not wanted:
        raise UsageError(f"{own} names no inputs; leave inputs out to read the layer before it.")
    for name in wanted:
        if places.get(name, INPUT) >= place:
            raise UsageError(f"{own} reads {name}, which is not before it; a layer reads only layers before it.")
        if name not in places:
            known = [each for each, at in places.items() if at < place]
            close = nearest(str(name), known)
            cure = f"did you mean {close!r}?" if close else f"known before it are: {', '.join(known)}."
            raise UsageError(f"{own} reads {name!r}, but no layer has that name; {cure}")
    return tuple(places[name] for name in wanted)
