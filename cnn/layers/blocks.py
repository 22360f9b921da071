"""Blocks: short notation for layers with branches, which a network takes apart into the layers themselves."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cnn.config import require
from cnn.layers.layer import Layer
from cnn.layers.merge import Add, Concat

Chain = Callable[[Iterable["Layer | Block"], int], int]
"""Places layers one after the other, the first of which reads a place; returns the place of the last."""

Join = Callable[[Layer, Sequence[int]], int]
"""Places a layer that reads several places; returns its place."""


class Block(ABC):
    """Several layers with branches, in place of one layer."""

    @abstractmethod
    def wire(self, chain: Chain, join: Join, before: int) -> int:
        """Places the layers, which read the place `before`; returns the place of the output."""


@dataclass(eq=False)
class Residual(Block):
    """activation(layers(x) + shortcut(x)), the shortcut being x itself by default (He et al. 2015, section 3.2)."""

    layers: Sequence[Layer | Block]
    shortcut: Sequence[Layer | Block] = field(default=(), kw_only=True)
    activation: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require(len(self.layers) > 0, "Residual needs at least one layer to add to its shortcut.")

    def wire(self, chain: Chain, join: Join, before: int) -> int:
        main = chain(self.layers, before)
        return join(Add(self.activation), (main, chain(self.shortcut, before)))


class Branches(Block):
    """The outputs of several chains of layers that read the same input, concatenated by channels.

    A chain without layers hands on the input itself. Szegedy et al. 2014, section 4.
    """

    def __init__(self, *branches: Sequence[Layer | Block]) -> None:
        require(len(branches) > 1, f"Branches needs at least two branches, not {len(branches)}.")
        self.branches = branches

    def wire(self, chain: Chain, join: Join, before: int) -> int:
        return join(Concat(), [chain(branch, before) for branch in self.branches])
