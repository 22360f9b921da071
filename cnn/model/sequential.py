"""A network: layers in sequence on one backend, with its parameters, predictions and accuracy."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn import registry
from cnn.arrays import Array, Shape
from cnn.backend import Backend
from cnn.data.dataset import Split
from cnn.data.preprocessing import Preprocessing
from cnn.errors import FileFormatError, ShapeError, UsageError
from cnn.layers import Layer, Parameter, Setting
from cnn.layers.layer import layer_names, packed
from cnn.losses import Loss, SoftmaxCrossEntropy
from cnn.model.passes import BACKWARD, FORWARD, AfterLayer, Passes, Score
from cnn.ops.input import Changes
from cnn.ops.losses import checked_count

Observer = Callable[[int, str, Callable[[], Any]], Any]

EVALUATED = 64
"""Images that a network classifies at a time, unless told otherwise."""


class Sequential:
    """Layers applied one after the other to images (N, H, W, C)."""

    def __init__(
        self,
        layers: Iterable[Layer],
        input_shape: Shape,
        *,
        name: str = "net",
        loss: Loss | None = None,
        preprocessing: Preprocessing | None = None,
        classes: Iterable[str] | None = None,
        backend: Backend | str | None = None,
        dtype: npt.DTypeLike = np.float32,
        seed: int | np.random.Generator = 0,
    ) -> None:
        """Builds the layers for images of `input_shape` (H, W, C) and draws their weights from `seed`.

        loss defaults to softmax cross-entropy, preprocessing to pixels / 256, classes to numbers, backend to the one
        in force (`cnn.registry.choose`).
        Raises ShapeError naming the layer that does not fit the one before it.
        """
        self.name = name
        self.input_shape = tuple(input_shape)
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ShapeError(f"A network takes images (H, W, C) of at least one pixel, not {self.input_shape}.")
        self.layers = tuple(layers)
        if not self.layers:
            raise UsageError("A network needs at least one layer.")
        self.loss = loss or SoftmaxCrossEntropy()
        self.preprocessing = preprocessing or Preprocessing()
        self.backend = backend if isinstance(backend, Backend) else registry.choose(backend)[0]
        self.dtype = np.dtype(dtype)
        if self.dtype not in [np.dtype(each) for each in self.backend.dtypes]:
            raise UsageError(f"Backend {self.backend.name!r} does not compute in {self.dtype}.")
        self.rng = np.random.default_rng(seed)
        self._passes: dict[Hashable, Passes] = {}
        # Recordings of passes hold addresses: they are good until a buffer moves.
        self.setting = Setting(self.backend, self.dtype, self.rng, on_move=self._passes.clear)
        self.buffers = self.setting.buffers()
        self.observer: Observer | None = None
        """While it is set, is handed each layer's part of a pass to run: the layer's place, the direction, the part."""
        self._build()
        self.groups = packed(self.backend, self.parameters)
        """The parameters as few long ones, for an optimizer."""
        # Nothing before the first layer with parameters needs a gradient.
        self.first_trained = next((k for k, layer in enumerate(self.layers) if layer.parameters), 0)
        outputs = prod(self.output_shape)
        self.classes = tuple(classes) if classes is not None else tuple(str(k) for k in range(outputs))
        if len(self.output_shape) != 1 or len(self.classes) != outputs:
            raise ShapeError(
                f"The last layer gives {self.output_shape} for {len(self.classes)} classes; "
                "end with a Linear layer of one unit a class."
            )

    def _build(self) -> None:
        shape = self.input_shape
        for name, layer in zip(layer_names(self.layers), self.layers, strict=True):
            if layer.name:
                raise UsageError(
                    f"{layer.name} is part of a network already; make a new {type(layer).__name__} for this one."
                )
            layer.name = name
            try:
                layer.build(shape, self.setting)
            except ShapeError as error:
                raise ShapeError(f"{layer.name}: {error}") from error
            shape = layer.output_shape
        self.output_shape = shape

    @property
    def parameters(self) -> list[Parameter]:
        """Every trained array, in the order of the layers."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    def parameter_count(self) -> int:
        """Trained numbers in all."""
        return sum(int(parameter.value.size) for parameter in self.parameters)

    def macs(self) -> int:
        """Multiply-accumulate operations for one image forward, as executed."""
        return sum(layer.macs() for layer in self.layers)

    def memory(self, batch: int, *, training: bool) -> int:
        """Bytes for a batch: parameters, activations and temporary space, in training their gradients too.

        The optimizer's state and what the BLAS allocates itself are not counted.
        """
        elements = self.parameter_count() + batch * prod(self.input_shape)
        elements += batch * sum(layer.forward_elements() for layer in self.layers)
        elements += batch * max(layer.scratch_elements() for layer in self.layers)
        if training:
            elements += self.parameter_count() + batch * prod(self.output_shape)
            elements += batch * sum(layer.backward_elements() for layer in self.layers)
            elements += batch * sum(layer.input_gradient_elements() for layer in self.layers[self.first_trained + 1 :])
        return elements * self.dtype.itemsize

    def arrays(self) -> dict[str, Array]:
        """Every array that makes the model what it is, by name: parameters and running statistics."""
        found = {parameter.name: parameter.value for parameter in self.parameters}
        for layer in self.layers:
            found.update(layer.statistics)
        return found

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all `arrays` in host memory."""
        return {name: self.backend.to_numpy(array) for name, array in self.arrays().items()}

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Overwrites all `arrays`. Raises FileFormatError if one is missing, unknown, or of another shape or type."""
        load_arrays(self.backend, self.arrays(), state, self.name)

    def forward(self, x: Array, *, training: bool = False) -> Array:
        """Scores (N, K) for x (N, *input_shape), both the backend's arrays; the next call overwrites them."""
        if x.shape[1:] != self.input_shape:
            raise ShapeError(f"{self.name} takes inputs (N, {', '.join(map(str, self.input_shape))}), not {x.shape}.")
        self.outputs = []
        for place in self.order(FORWARD):
            x = self.observed(place, FORWARD, partial(self.through, place, FORWARD, x, training=training))
            self.outputs.append(x)
        return x

    def backward(self, dy: Array, after_layer: AfterLayer | None = None) -> None:
        """Fills every parameter's gradient, from the gradient (N, K) of the last forward pass in training.

        `after_layer` is told the place of each layer whose gradients are filled, from the last one to the first.
        """
        for place in self.order(BACKWARD):
            dy = self.observed(place, BACKWARD, partial(self.through, place, BACKWARD, dy, training=True))
            if after_layer is not None:
                after_layer(place)

    def order(self, direction: str) -> Sequence[int]:
        """The places of the layers that a pass comes to."""
        places = range(len(self.layers))
        return places if direction == FORWARD else places[self.first_trained :][::-1]

    def through(self, place: int, direction: str, value: Array, *, training: bool) -> Array:
        """What one layer makes of `value` in a pass."""
        layer = self.layers[place]
        if direction == FORWARD:
            return layer.forward(value, training=training)
        if place > self.first_trained:
            return layer.backward(value)
        layer.backward_parameters(value)
        return value

    def observed(self, place: int, direction: str, run: Callable[[], Any]) -> Any:
        """Runs a layer's part of a pass, or has the observer run it."""
        return run() if self.observer is None else self.observer(place, direction, run)

    def load_images(
        self,
        images: npt.NDArray[np.uint8],
        order: npt.NDArray[np.int64] | None = None,
        changes: Changes | None = None,
    ) -> Array:
        """Images (N, H, W, C) uint8, all or those at `order` (M,), preprocessed, as a backend array.

        `changes` are those of an augmentation. Raises ShapeError for images of another shape or type.
        """
        if images.shape[1:] != self.input_shape or images.dtype != np.uint8:
            raise ShapeError(
                f"{self.name} was built for images of {self.input_shape} uint8, these are {images.shape[1:]} "
                f"{images.dtype}; resize them or build it anew."
            )
        if order is None:
            order = np.arange(len(images))
        x = self.buffers.get("x", (len(order), *self.input_shape))
        pre = self.preprocessing
        self.backend.load_batch(images, order, changes or Changes(), x, scale=pre.scale, mean=pre.mean, std=pre.std)
        return x

    def train_step(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64] | None = None,
        changes: Changes | None = None,
        *,
        weight: float = 1.0,
        after_layer: AfterLayer | None = None,
    ) -> tuple[float, int]:
        """Forward, loss and backward on one batch, all images and labels or those at `order`, augmented by `changes`.

        Fills the gradients, `weight` times those of the mean loss, and returns (summed loss, right answers).
        `after_layer` is that of `backward`.
        """
        x = self.load_images(images, order, changes)
        slopes = self.buffers.get("slopes", (len(x), *self.output_shape))
        chosen = self._labels(labels if order is None else labels[order])
        loss, backend = self.loss, self.backend

        def score(scores: Array) -> tuple[float, int]:
            result = loss.evaluate(backend, scores, chosen, slopes)
            if weight != 1:
                backend.scale(slopes, weight, slopes)
            return result

        return checked_count(self._pass(f"training, {weight}", x, slopes, score, after_layer), len(self.classes))

    def _pass(
        self, purpose: str, x: Array, slopes: Array | None, score: Score, after_layer: AfterLayer | None = None
    ) -> Any:
        """The result of `score`, which depends on `purpose` and has no reference to this model."""
        apart = after_layer is not None or self.observer is not None
        key = (purpose, x.shape, apart, self.backend.recordings_hold_for())
        passes = self._passes.get(key)
        if passes is None:
            passes = self._passes[key] = Passes(self, x, slopes, score, apart=apart)
        result = passes.run(after_layer)
        if passes.runs == 1:  # A first run may move buffers, but has recorded nothing.
            self._passes[key] = passes
        return result

    def predict(self, images: npt.NDArray[Any], *, batch_size: int = EVALUATED) -> npt.NDArray[Any]:
        """The probability of each class, (N, K), for images (N, H, W, C) of pixels."""
        result = np.empty((len(images), len(self.classes)), self.dtype)
        for start in range(0, len(images), batch_size):
            x = self.load_images(images[start : start + batch_size])
            shares = self.buffers.get("shares", (len(x), *self.output_shape))
            score = partial(_probabilities, self.loss, self.backend, shares)
            result[start : start + len(x)] = self.backend.to_numpy(self._pass("shares", x, None, score))
        return result

    def evaluate(self, split: Split, *, batch_size: int = EVALUATED) -> tuple[float, float]:
        """(mean loss, accuracy in 0..1) on a split. Raises UsageError if it is empty or has unknown labels.

        A model that several processes train is evaluated by all of them, each on some of the batches.
        """
        self.check_labels(split)
        total, right = 0.0, 0.0
        for start in self.setting.shard.deal(range(0, len(split), batch_size)):
            x = self.load_images(split.images[start : start + batch_size])
            labels = self._labels(split.labels[start : start + len(x)])
            score = partial(self.loss.evaluate, self.backend, labels=labels, out=None)
            loss, correct = checked_count(self._pass("loss", x, None, score), len(self.classes))
            total, right = total + loss, right + correct
        total, right = self.setting.shard.total(total, right)
        return total / len(split), right / len(split)

    def check_labels(self, split: Split) -> None:
        """Raises UsageError unless the split has images and every label is one of the classes."""
        if len(split) == 0:
            raise UsageError("The split holds no image.")
        if split.labels.max() >= len(self.classes):
            raise UsageError(
                f"The data have label {split.labels.max()}; {self.name} knows {len(self.classes)} classes."
            )

    def _labels(self, labels: npt.NDArray[np.int64]) -> Array:
        buffer = self.buffers.get("labels", labels.shape, np.int64)
        self.backend.copy(labels, buffer)
        return buffer

    def first_non_finite(self) -> str | None:
        """Where NaN or infinity came up first in the last forward pass, or None."""
        for layer, y in zip(self.layers, self.outputs, strict=True):
            for parameter in layer.parameters:
                if not self.backend.all_finite(parameter.value):
                    return f"the parameter {parameter.name}"
            if not self.backend.all_finite(y):
                return f"the output of {layer.name}"
        return None

    def config(self) -> dict[str, Any]:
        """The architecture as a table: name, input shape, layers, loss, classes."""
        return {
            "name": self.name,
            "input": list(self.input_shape),
            "layers": [layer.config() for layer in self.layers],
            "loss": self.loss.config(),
            "classes": list(self.classes),
        }


def _probabilities(loss: Loss, backend: Backend, out: Array, scores: Array) -> Array:
    loss.probabilities(backend, scores, out)
    return out


def load_arrays(
    backend: Backend, arrays: Mapping[str, Array], state: Mapping[str, npt.NDArray[Any]], owner: str
) -> None:
    """Copies host arrays into a backend's by name. Raises FileFormatError unless names, shapes and types agree."""
    if arrays.keys() != state.keys():
        odd = ", ".join(sorted(arrays.keys() ^ state.keys()))
        raise FileFormatError(
            f"The stored arrays are not those of {owner}: {odd}; load it into the net it was saved from."
        )
    for name, array in arrays.items():
        stored = state[name]
        if stored.shape != array.shape or stored.dtype != array.dtype:
            raise FileFormatError(
                f"{name} is stored as {stored.dtype} {stored.shape}, but {owner} has {array.dtype} {array.shape}; "
                "load it into the net it was saved from."
            )
    for name, array in arrays.items():
        backend.copy(state[name], array)
