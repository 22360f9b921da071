"""Training that starts from a saved model: its layers, weights and preprocessing, with a new head for other classes."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from cnn.backend import Backend
from cnn.data.dataset import Dataset
from cnn.errors import UsageError, listed
from cnn.layers import Conv2D, Layer, Linear
from cnn.model.architecture import Architecture, Recipe
from cnn.model.modelfile import load_model
from cnn.model.network import Network
from cnn.model.sequential import Sequential
from cnn.model.wiring import Wired, wire
from cnn.paths import shown
from cnn.words import unknown


class Start:
    """A saved model to train on. `head` is the name of the layer that is made anew, None if the classes are the same.

    `frozen` are the names of the layers that stay as they are.
    """

    def __init__(self, path: str | Path, data: Dataset, freeze: Sequence[str], backend: Backend) -> None:
        """Reads the model. `freeze` are names of layers with *, ? and [] as in those of files.

        Raises UsageError if a name stands for no layer with parameters or nothing is left to train, and FileFormatError
        if there is no model in the file.
        """
        self.path = path
        source = load_model(path, backend=backend)
        self._state, self._preprocessing, self._shape = source.state(), source.preprocessing, source.input_shape
        layers = [Layer.from_config(table) for table in source.network.config()]
        wired = wire(layers)
        unnamed = not source.named and len(source.classes) == len(data.classes)
        self.head = None if unnamed or source.classes == data.classes else _head(source.network)
        if self.head is not None:
            place = next(place for place, each in enumerate(wired) if each.name == self.head)
            key = "units" if isinstance(layers[place], Linear) else "filters"
            layers[place] = Layer.from_config(layers[place].config() | {key: len(data.classes)})
            wired = wire(layers)
        weighted = {node.name for node in source.network.nodes if node.parameter_count or node.layer.statistics}
        self.frozen = self._freeze(wired, weighted, freeze)
        self.architecture = Architecture(source.name, layers, data.shape, Recipe(loss=source.loss))

    def _freeze(self, wired: Sequence[Wired], weighted: set[str], patterns: Sequence[str]) -> list[str]:
        """Marks the layers that a pattern stands for, but never the new head; returns their names."""
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in weighted):
                raise unknown(f"{shown(self.path)} has no layer to freeze named", pattern, sorted(weighted), ", or *")
        frozen = []
        for each in wired:
            wanted = each.name in weighted and any(fnmatchcase(each.name, pattern) for pattern in patterns)
            each.layer.frozen = wanted and each.name != self.head
            frozen += [each.name] * each.layer.frozen
        if set(frozen) >= weighted:
            raise UsageError(f"All layers of {shown(self.path)} are frozen; leave one to be trained.")
        return frozen

    def apply(self, model: Sequential) -> None:
        """Gives a model built from `architecture` the weights and the preprocessing, once.

        Raises UsageError if the images do not fit them.
        """
        state, mine = self._state, model.state()
        for name, array in mine.items():
            if name.rpartition(".")[0] == self.head:
                continue
            if state[name].shape != array.shape:
                raise UsageError(
                    f"{name} of {shown(self.path)} has the shape {state[name].shape}, and these images of "
                    f"{model.input_shape} need {array.shape}; give images of {self._shape}."
                )
            mine[name] = state.pop(name).astype(array.dtype, copy=False)
        self._preprocessing.check(model.input_shape)
        model.load_state(mine)
        model.preprocessing = self._preprocessing

    def describe(self, model: Sequential) -> dict[str, str]:
        """The lines of a header."""
        new = f", with a new {self.head} for {len(model.classes)} classes" if self.head else ""
        lines = {"start": f"the weights of {self.path}{new}"}
        if self.frozen:
            kept = sum(node.parameter_count for node in model.network.nodes if node.layer.frozen)
            lines["frozen"] = f"{listed(self.frozen)}: {kept:,} of {model.parameter_count():,} parameters"
        return lines


def _head(network: Network) -> str:
    """The name of the last layer with weights, which gives the scores."""
    node = next((each for each in reversed(network.nodes) if isinstance(each.layer, Conv2D | Linear)), None)
    if node is None:
        raise UsageError("The network has no Linear or Conv2D layer, so it cannot be given other classes.")
    return node.name
