"""Which arrays of a network's walks may share memory, found from when each is written first and read last."""

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

from cnn.arrays import Shape
from cnn.layers.layer import Lives
from cnn.model.node import Node


class Plan:
    """The slot of memory of every output and gradient of a walk; two that are needed at the same time have two slots.

    Node p computes at time p, in training also at time 2 n - 1 - p on the way back. A slot is as large as the largest
    array that it ever holds; sizes are elements per image.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        readers: Mapping[int, Sequence[int]],
        turns: Mapping[tuple[int, int], int],
        trained: set[int],
        stored: Collection[int],
        *,
        training: bool,
    ) -> None:
        """`readers` and `turns` are a network's; `trained` are the places whose gradient is computed.

        `stored` are those whose output and its gradient are bfloat16 in memory, half as large.
        """
        self._nodes, self._readers, self._turns, self._trained = nodes, readers, turns, trained
        self._stored, self._training = stored, training
        self._end = 2 * len(nodes) if training else len(nodes)
        self.sizes: list[int] = []
        """Elements per image of each slot."""
        self.sums: dict[int, int] = {}
        """The slot of the summed gradient of each output that several nodes read."""
        outputs = self._outputs()
        gradients = self._gradients() if training else []
        self._assign(sorted([*outputs, *gradients]))

    def output(self, place: int) -> int | None:
        """The slot of a node's output; None if the node does not write it to memory of the plan."""
        return self._slot.get((place, None))

    def gradients(self, place: int) -> tuple[int | None, ...]:
        """The slots of the gradients that a node gives its inputs."""
        return tuple(self._slot.get((place, k)) for k in range(len(self._nodes[place].inputs)))

    def _lives(self, place: int) -> Lives:
        return self._nodes[place].layer.known_lives

    def _size(self, source: int, shape: Shape) -> int:
        """The elements of float32 that the output of a node, or its gradient, takes per image."""
        return -(-prod(shape) // 2) if source in self._stored else prod(shape)

    def _back(self, place: int) -> int:
        """The time at which a node computes on the way back."""
        return 2 * len(self._nodes) - 1 - place

    def _outputs(self) -> list["_Array"]:
        """The outputs that layers write to memory of the plan."""
        last = dict[int, int]()
        for node in reversed(self._nodes):
            reads = self._readers[node.place]
            ends = [node.place, *reads]
            if self._training:
                ends += [self._back(reader) for reader in reads if self._lives(reader).keeps_input]
                ends += [self._back(node.place)] if self._lives(node.place).keeps_output else []
            # A layer that hands its input on keeps that memory in use as long as its own output is.
            ends += [last[reader] for reader in reads if self._lives(reader).shares_output]
            last[node.place] = max(ends) if reads else self._end
        found = []
        for node in self._nodes:
            lives = self._lives(node.place)
            if not lives.makes_output:
                continue
            source = node.inputs[0]
            before = source if lives.in_place and last.get(source) == node.place else None
            size = self._size(node.place, node.output_shape)
            found.append(_Array(node.place, last[node.place], size, (node.place, None), before))
        return found

    def _gradients(self) -> list["_Array"]:
        """The gradients of inputs that layers write to memory of the plan, and their sums."""
        last = dict[int, int]()  # of the gradient of each output, as its node reads it
        ends = dict[tuple[int, int], int]()  # of the gradient that a node gives its k-th input
        for node in self._nodes:
            for k, source in enumerate(node.inputs):
                if source not in self._trained:
                    continue
                readers = self._readers[source]
                if len(readers) == 1:
                    ends[node.place, k] = last[source]
                elif self._turns[node.place, k] == 1:
                    ends[node.place, k] = self._back(readers[1])  # the first one waits for the second
                else:
                    ends[node.place, k] = self._back(node.place)
            own = [ends[node.place, k] for k in range(len(node.inputs)) if (node.place, k) in ends]
            shared = own if self._lives(node.place).shares_gradient else []
            last[node.place] = max([self._back(node.place), *shared])
        found = []
        for node in self._nodes:
            made = self._lives(node.place).makes_gradients
            for k, shape in list(enumerate(node.input_shapes))[:made]:
                if (node.place, k) in ends:
                    # One array may be handed to several inputs.
                    end = max(ends.get((node.place, j), 0) for j in (range(len(node.inputs)) if made == 1 else (k,)))
                    size = self._size(node.inputs[k], shape)
                    found.append(_Array(self._back(node.place), end, size, (node.place, k), None))
        for source, readers in self._readers.items():
            if source in self._trained and len(readers) > 1:
                born = self._back(readers[1])
                size = self._size(source, self._nodes[source].output_shape)
                found.append(_Array(born, last[source], size, (source, -1), None))
        return found

    def _assign(self, arrays: Sequence["_Array"]) -> None:
        """Gives each array, in the order of their birth, the free slot that fits best, or a new one."""
        self._slot: dict[tuple[int, int | None], int] = {}
        busy: dict[int, int] = {}
        for array in arrays:
            if array.in_place_of is not None and (array.in_place_of, None) in self._slot:
                slot = self._slot[array.in_place_of, None]
            else:
                free = [k for k in range(len(self.sizes)) if busy[k] < array.born]
                large = [k for k in free if self.sizes[k] >= array.size]
                if large:
                    slot = min(large, key=self.sizes.__getitem__)
                elif free:
                    slot = max(free, key=self.sizes.__getitem__)
                else:
                    slot = len(self.sizes)
                    self.sizes.append(0)
            self.sizes[slot] = max(self.sizes[slot], array.size)
            busy[slot] = array.last
            self._slot[array.key] = slot
            if array.key[1] == -1:
                self.sums[array.key[0]] = slot


class _Array(NamedTuple):
    """When it is written, when it is read last, its elements per image, and what it is.

    The key has a place, and None for its output, k for the gradient of its k-th input, -1 for its summed gradient.
    """

    born: int
    last: int
    size: int
    key: tuple[int, int | None]
    in_place_of: int | None

    def __lt__(self, other: tuple[object, ...]) -> bool:
        assert isinstance(other, _Array)
        return (self.born, -self.size) < (other.born, -other.size)
