"""Models: a network with weights on one backend, from images to classes, with a loss."""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from math import prod
from operator import index
from threading import RLock
from typing import Any, Self
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from cnn import registry
from cnn.arrays import Array, Shape, generator
from cnn.backend import Backend
from cnn.config import whole
from cnn.data.border import Border, border_of
from cnn.data.conversion import Layout, as_images
from cnn.data.dataset import Split, class_names
from cnn.data.mixup import Partners
from cnn.data.pixels import TYPES, WHITE, kind_of
from cnn.data.preprocessing import Preprocessing
from cnn.data.stored import Images, StoredImages
from cnn.data.views import NONE, checked, views
from cnn.errors import CnnError, FileFormatError, ShapeError, UsageError
from cnn.layers import Context, Layer, Parameter
from cnn.layers.blocks import Block
from cnn.layers.layer import packed
from cnn.losses import Loss, SoftmaxCrossEntropy
from cnn.model.from_images import awaiting, fill
from cnn.model.network import AfterLayer, Network
from cnn.model.passes import Passes, Score
from cnn.model.table import summary_html, summary_lines
from cnn.ops.input import Changes, change, normalise
from cnn.precision import chosen, dtype_of
from cnn.system.machine import physical_memory
from cnn.words import counted

_OWN = {"_lock", "_passes", "_shares", "context", "buffers", "groups"}
"""Attributes that a copy makes anew."""

MOST_PASSES = 128
"""Passes that a model keeps, each with its recording of some 60 kB; the one that was not used for longest goes."""

EVALUATED = 64
"""Images that a model classifies at a time by default."""


class Sequential:
    """A model: layers applied to images (N, H, W, C), one after the other unless they name their inputs.

    `predict`, `evaluate` and `train_step` may be called from several threads: one call waits for the other, as all use
    the same buffers. `forward` and `backward` return or read these buffers, so use them from one thread.

    What NumPy does about overflow and underflow (`np.seterr`) does not matter here: no backend warns or raises.

    A copy (`copy.deepcopy`, `pickle`) has the same weights, statistics and random state, and from then on is
    independent. It computes on the same backend; a pickled model needs this backend where it is read.
    """

    def __init__(
        self,
        layers: Iterable[Layer | Block],
        input_shape: Shape,
        *,
        name: str = "net",
        loss: Loss | str | None = None,
        preprocessing: Preprocessing | None = None,
        classes: Iterable[object] | None = None,
        backend: Backend | str | None = None,
        precision: str | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        """Builds the layers for images of `input_shape` (H, W, C) and draws their weights from `seed`.

        loss defaults to softmax cross-entropy, preprocessing to what suits the first images that it is trained on
        (pixels / 256 for those of 8 bits), classes (their names) to numbers, backend to the current one
        (`cnn.registry.choose`), and precision to that of CNN_PRECISION or float32. In "bfloat16" the operands of
        products are rounded; weights and sums are float32, and so is what lies between layers, except where a backend
        stores that in bfloat16 (`cnn.precision`).
        Raises ShapeError naming the layer that does not fit the one before it, UsageError for an impossible setting.
        """
        self.name = str(name)
        self.input_shape = _image_shape(input_shape)
        self.network = Network(layers, self.input_shape)
        self.loss = Loss.from_config(loss or SoftmaxCrossEntropy())
        self.preprocessing = preprocessing or Preprocessing()
        if not isinstance(self.preprocessing, Preprocessing):
            raise UsageError(f"preprocessing must be a cnn.Preprocessing, not {preprocessing!r}.")
        self.precision = chosen(precision)
        """"float32", "bfloat16" or "float64"."""
        self.dtype = dtype_of(self.precision)
        """The type of its arrays."""
        backend = backend if isinstance(backend, Backend) else registry.choose(backend)[0]
        self.backend = backend.in_precision(self.precision)
        if self.dtype not in [np.dtype(each) for each in self.backend.dtypes]:
            raise UsageError(f"Backend {self.backend.name!r} does not compute in {self.dtype}.")
        self._check_memory()
        self.rng = generator(seed)
        self.only_classifies = False
        """Whether it is a copy that `for_inference` made."""
        self._build()
        self.awaits_images = bool(awaiting(self.network.nodes))
        """Whether weights are still to be made of the images that it is first trained on."""
        outputs = prod(self.output_shape)
        self.border: Border | None = None
        """The borders of the images that it was trained on, None if they are not known."""
        self.adapts = preprocessing is None
        """Whether its preprocessing is still to be made for the kind of pixels that it is first trained on."""
        self.met = False
        """Whether it knows the kind of pixels that it is trained on."""
        self.resize: str | None = None
        """How pictures of other sizes were made to fit in training, None if it was trained on none."""
        self.named = classes is not None
        """Whether the classes have names of their own; without, they are the labels 0, 1, ..."""
        self.classes = class_names(classes) if classes is not None else tuple(str(k) for k in range(outputs))
        if len(self.output_shape) != 1 or len(self.classes) != outputs:
            raise ShapeError(
                f"The last layer gives {self.output_shape} for {len(self.classes)} classes; "
                "end with a Linear layer of one unit per class."
            )

    def _build(self) -> None:
        """Makes everything that belongs to this one object: lock, buffers, recordings and the layers' arrays."""
        self._lock = RLock()
        _models.add(self)
        self._passes: dict[Hashable, Passes] = {}
        self._shares = np.ones(1)  # of mixed images, read by passes that are kept
        # Recordings of passes hold addresses: they are valid until a buffer moves.
        self.context = Context(self.backend, self.dtype, self.rng, on_move=self._passes.clear)
        self.buffers = self.context.buffers()
        self.network.build(self.context)
        trained = (each for layer in self.layers if not layer.frozen for each in layer.parameters)
        self.groups = packed(self.backend, trained)
        """The parameters that are trained as a few long ones, for an optimizer."""
        if self.only_classifies:
            self._keep_weights()

    def _keep_weights(self) -> None:
        """Lets what is made of weights and statistics be kept, as nobody changes them."""
        self.context.scratch.constants.update(each.ctypes.data for each in self._arrays().values())

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            kept = {name: value for name, value in vars(self).items() if name not in _OWN}
            return kept | {"arrays": self.state(), "random_state": self.rng.bit_generator.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays, random_state = state.pop("arrays"), state.pop("random_state")
        self.only_classifies = False  # in the pickle of an earlier version
        vars(self).update(state)
        self._build()
        load_arrays(self.backend, self._arrays(), arrays, self.name)
        self.awaits_images = state.get("awaits_images", False)
        self.rng.bit_generator.state = random_state  # building has drawn weights

    def __copy__(self) -> Self:
        return deepcopy(self)

    def for_inference(self) -> Self:
        """A copy that only classifies, and faster where its input is a few images: it cannot be trained or changed.

        What products need of weights is made at the first image and kept, which takes up to four times their memory.
        """
        copied = deepcopy(self)
        copied.only_classifies = True
        copied._keep_weights()
        return copied

    def _check_changeable(self) -> None:
        """Raises UsageError if nothing may change its weights."""
        if self.only_classifies:
            raise UsageError(
                f"{self.name} is a copy for inference, whose weights stay as they are; change or train the model that "
                "it was made of, and make a new copy."
            )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in their order."""
        return self.network.layers

    @property
    def output_shape(self) -> Shape:
        """The shape of one image's scores."""
        return self.network.output_shape

    @property
    def parameters(self) -> list[Parameter]:
        """Every trained array, in the order of the layers; those of a copy for inference cannot be written to."""
        found = self.network.parameters
        return [replace(each, value=_read_only(each.value)) for each in found] if self.only_classifies else found

    def parameter_count(self) -> int:
        """The total of trained numbers."""
        return sum(int(parameter.value.size) for parameter in self.parameters)

    def macs(self) -> int:
        """Multiply-accumulates per image in the forward pass, as executed."""
        return sum(node.macs for node in self.network.nodes)

    def memory(self, batch: int, *, training: bool) -> int:
        """Bytes for a batch: parameters, activations and temporary space, and in training gradients.

        The optimizer's state and what the BLAS allocates itself are not counted.
        """
        return self.network.memory(whole(batch, "The batch"), training=training) * self.dtype.itemsize

    def _check_memory(self) -> None:
        """Raises CnnError if this machine cannot hold the weights and one image: a system may promise what it lacks."""
        needed, total = self.memory(1, training=False), physical_memory()
        if total is not None and needed > total:
            raise CnnError(
                f"{self.name} needs {needed / 1e9:,.1f} GB for its weights and one image, but this machine has "
                f"{total / 1e9:,.1f} GB of memory; use fewer or smaller layers."
            )

    def arrays(self) -> dict[str, Array]:
        """Every array of the model's state by name: parameters and running statistics."""
        found = self._arrays()
        return {name: _read_only(array) for name, array in found.items()} if self.only_classifies else found

    def _arrays(self) -> dict[str, Array]:
        """The arrays themselves, not what can only be read of them."""
        return {parameter.name: parameter.value for parameter in self.network.parameters} | self.network.statistics

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all `arrays` in host memory."""
        return {name: self.backend.to_numpy(array) for name, array in self.arrays().items()}

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Overwrites all `arrays`. Raises FileFormatError if one is missing, unknown, or of another shape or type.

        Raises UsageError for a copy for inference.
        """
        self._check_changeable()
        load_arrays(self.backend, self.arrays(), state, self.name)
        self.awaits_images = False

    @np.errstate(all="ignore")
    def forward(self, x: Array, *, training: bool = False) -> Array:
        """Scores (N, K) for x (N, *input_shape), both the backend's arrays; the next call overwrites them.

        Raises ShapeError for another shape, UsageError if a copy for inference is `training`.
        """
        if training:
            self._check_changeable()
        shape = getattr(x, "shape", type(x).__name__)
        if shape[1:] != self.input_shape:
            raise ShapeError(f"{self.name} takes inputs (N, {', '.join(map(str, self.input_shape))}), not {shape}.")
        return self.network.forward(x, training=training)

    @np.errstate(all="ignore")
    def backward(self, dy: Array, after_layer: AfterLayer | None = None) -> None:
        """Fills every parameter's gradient, given the gradient (N, K) of the last scores in training."""
        self.network.backward(dy, after_layer)

    def load_images(
        self,
        images: Images,
        order: npt.NDArray[np.int64] | None = None,
        changes: Changes | None = None,
        *,
        buffer: str = "x",
    ) -> Array:
        """Images (N, H, W, C), all or those at `order` (M,), preprocessed, as a backend array.

        `changes` come from an augmentation; the next call with this `buffer` overwrites the result. Raises ShapeError
        for images of another shape or type, UsageError for an index that does not exist.
        """
        self._check_images(images)
        order = np.arange(len(images)) if order is None else self._whole_numbers(order, "The order", len(images))
        x = self.buffers.get(buffer, (len(order), *self.input_shape))
        pre = self.preprocessing
        pixels, rows = (images.pixels, images.rows[order]) if isinstance(images, StoredImages) else (images, order)
        changes = changes or Changes()
        if pixels.dtype == np.uint8:
            scale = pre.scale_for(pixels)
            self.backend.load_batch(pixels, rows, changes, x, scale=scale, mean=pre.mean, std=pre.std)
        else:
            # Whether floats are of the right kind was seen from all of them: a single batch may have none above 1.
            prepared = self._prepared(change(pixels[rows], changes))
            changes.cut(prepared)
            self.backend.copy(prepared, x)
        if isinstance(images, StoredImages):
            images.touched(len(order))
        return x

    def _loaded(self, images: Images, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Some images as the network takes them, in host memory."""
        return self.backend.to_numpy(self.load_images(images, np.arange(start, stop))).astype(np.float64)

    def _prepared(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pixels of other types than 8 bits, as the network takes them."""
        pre = self.preprocessing
        scale = pre.scale if pixels.dtype.kind == "f" else pre.scale_for(pixels)
        prepared = np.empty(pixels.shape, self.dtype)
        normalise(pixels, prepared, scale=scale, mean=pre.mean, std=pre.std)
        return prepared

    def _check_images(self, images: Images) -> None:
        if not isinstance(images, np.ndarray | StoredImages):
            raise ShapeError(
                f"{self.name} takes images as a NumPy array (N, {', '.join(map(str, self.input_shape))}), "
                f"not as a {type(images).__name__}."
            )
        if images.shape[1:] != self.input_shape or images.dtype not in TYPES:
            cure = f"give pixels as {', '.join(np.dtype(kind).name for kind in TYPES[:-1])} or float64"
            if images.shape[1:] != self.input_shape:
                cure = "resize them or build it anew"
            raise ShapeError(
                f"{self.name} was built for images of {self.input_shape}, but these are {images.shape[1:]} "
                f"{images.dtype}; {cure}."
            )

    @np.errstate(all="ignore")
    def train_step(
        self,
        images: Images,
        labels: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64] | None = None,
        changes: Changes | None = None,
        *,
        weight: float = 1.0,
        weights: npt.NDArray[np.float32] | None = None,
        partners: Partners | None = None,
        after_layer: AfterLayer | None = None,
    ) -> tuple[float, int]:
        """Forward, loss and backward on one batch, all images and labels or those at `order`, augmented by `changes`.

        Fills the gradients, `weight` times those of the mean loss, and returns (summed loss, correct answers).
        With `partners` each image, and the loss, is the average of its own and its partner's; an answer is correct if
        it is the image's own label. `weights` (N,) multiply the gradient of each of all images, but not its part of the
        loss that is returned. `after_layer` is passed to `backward`. Raises ShapeError for images or labels that do not
        fit, UsageError for an index or a label that does not exist.
        """
        self._check_changeable()
        with self._lock:
            x = self.load_images(images, order, changes)
            labels = np.asarray(labels)
            if len(x) == 0 or labels.shape != images.shape[:1]:
                raise ShapeError(
                    f"There are {len(x)} images and labels of shape {labels.shape}; give at least one image, and one "
                    "label per image."
                )
            if partners is not None:
                order = np.arange(len(x)) if order is None else order
                return self._mixed_step(x, images, labels, order, partners, weight, weights, after_layer)
            gradient = self.buffers.get("gradient", (len(x), *self.output_shape))
            chosen = self._labels(labels if order is None else labels[order])
            loss, backend = self.loss, self.backend

            factors = None if weights is None else self._factors(weights if order is None else weights[order], gradient)

            def score(scores: Array) -> tuple[float, int]:
                result = loss.evaluate(backend, scores, chosen, gradient)
                if weight != 1:
                    backend.scale(gradient, weight, gradient)
                if factors is not None:
                    backend.scale(gradient, factors, gradient)
                return result

            purpose = f"training, {weight}{'' if factors is None else ', weighted'}"
            result: tuple[float, int] = self._pass(purpose, x, gradient, score, after_layer)
        return result

    def _mixed_step(
        self,
        x: Array,
        images: Images,
        labels: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64],
        partners: Partners,
        weight: float,
        weights: npt.NDArray[np.float32] | None,
        after_layer: AfterLayer | None,
    ) -> tuple[float, int]:
        """`train_step` with partners, once the images themselves are loaded to x."""
        loss, backend, share, shares = self.loss, self.backend, partners.share, self._shares
        other = self.load_images(images, partners.order, partners.changes, buffer="partners")
        backend.scale(x, share, x)
        backend.scale(other, 1 - share, other)
        backend.add(x, other, None, x)
        gradient, second = (self.buffers.get(each, (len(x), *self.output_shape)) for each in ("gradient", "second"))
        own, others = self._labels(labels[order]), self._labels(labels[partners.order], "partners' labels")
        given = [np.ones(len(x)) if weights is None else weights[each] for each in (order, partners.order)]
        factors = self._factors(weight * share * given[0], gradient)
        second_factors = self._factors(weight * (1 - share) * given[1], gradient, "partners' weights")
        shares[0] = share

        def score(scores: Array) -> tuple[float, int]:
            first, correct = loss.evaluate(backend, scores, own, gradient)
            rest, _ = loss.evaluate(backend, scores, others, second)
            backend.scale(gradient, factors, gradient)
            backend.scale(second, second_factors, second)
            backend.add(gradient, second, None, gradient)
            return float(shares[0] * first + (1 - shares[0]) * rest), correct

        result: tuple[float, int] = self._pass("training, mixed", x, gradient, score, after_layer, steady=False)
        return result

    def _factors(self, weights: npt.NDArray[np.floating], gradient: Array, buffer: str = "weights") -> Array:
        """The weights (N,) of the images of a batch as (N, K), for the gradient of their scores."""
        factors = self.buffers.get(buffer, gradient.shape)
        self.backend.copy(np.broadcast_to(weights[:, None], gradient.shape).astype(self.dtype), factors)
        return factors

    def _pass(
        self,
        purpose: str,
        x: Array,
        gradient: Array | None,
        score: Score,
        after_layer: AfterLayer | None = None,
        *,
        steady: bool = True,
    ) -> Any:
        """The result of `score`, which depends on `purpose` only and holds no reference to this model.

        It is recorded only if it is `steady`: if all that it does is to call the backend.
        """
        apart = after_layer is not None or self.network.observer is not None
        key = (purpose, x.shape, apart, self.backend.instruments.recording_key())
        passes = self._passes.pop(key, None)
        if passes is None:
            passes = Passes(self.network, x, gradient, score, steady_score=steady and self.loss.repeatable, apart=apart)
        self._passes[key] = passes  # as the last one used
        if len(self._passes) > MOST_PASSES:
            del self._passes[next(iter(self._passes))]
        result = passes.run(after_layer)
        if passes.runs == 1:  # A first run may move buffers, but has recorded nothing.
            self._passes[key] = passes
        return result

    @np.errstate(all="ignore")
    def predict(
        self, images: Any, *, batch_size: int = EVALUATED, layout: Layout = "NHWC", tta: str = NONE
    ) -> npt.NDArray[Any]:
        """The probability of each class, (N, K), for images as `Dataset.from_arrays` takes them.

        A single image, rows of pixels (N, H*W*C) and an iterable of batches will do, too. With `tta`, "flip" or
        "flip+shift", the probabilities are those of the mean scores of several views of each image (see `views`).
        Raises ShapeError for images of another shape, UsageError for pixels of another kind than it was trained on, or
        a batch size below 1.
        """
        batch_size, tta = whole(batch_size, "The batch size"), checked(tta)
        if isinstance(images, Iterator):
            found = [self.predict(each, batch_size=batch_size, layout=layout, tta=tta) for each in images]
            return np.concatenate(found) if found else np.empty((0, len(self.classes)), self.dtype)
        images = self._images(images, layout)
        result = np.empty((len(images), len(self.classes)), self.dtype)
        for start in range(0, len(images), batch_size):
            with self._lock:
                batch = images[start : start + batch_size]
                out = self.buffers.get("probabilities", (len(batch), *self.output_shape))
                score = partial(_probabilities, self.loss, self.backend, out)
                found = self._scored("probabilities", batch, score, tta)
                result[start : start + len(batch)] = self.backend.to_numpy(found)
        return result

    def _scored(self, purpose: str, images: Images, score: Score, tta: str) -> Any:
        """The result of `score` for the scores of images, or for the mean scores of their views."""
        if tta == NONE:
            return self._pass(purpose, self.load_images(images), None, score)
        total, one = (self.buffers.get(name, (len(images), *self.output_shape)) for name in ("mean scores", "scores"))
        for number, (share, changes) in enumerate(views(tta, len(images), self.input_shape)):
            x = self.load_images(images, None, changes)
            self._pass("scores", x, None, partial(_copied, self.backend, one))
            if number == 0:
                self.backend.scale(one, share, total)
            else:
                self.backend.scale(one, share, one)
                self.backend.add(total, one, None, total)
        return score(total)

    @np.errstate(all="ignore")
    def evaluate(
        self, split: Any, labels: Any = None, *, batch_size: int = EVALUATED, layout: Layout = "NHWC", tta: str = NONE
    ) -> tuple[float, float]:
        """(mean loss, accuracy in 0..1) on a split, or on images and labels as `Dataset.from_arrays` takes them.

        `tta` is as in `predict`: figures with it are not to be compared with those without. Labels are compared by the
        names of their classes, where both the split and the model have names. Raises UsageError if the split is empty
        or has classes that the model does not have, or for a batch size below 1.

        If several processes train the model, all of them evaluate it, each on some of the batches.
        """
        batch_size, tta = whole(batch_size, "The batch size"), checked(tta)
        split = self.with_own_labels(self.split_of(split, labels, layout=layout))
        total, right = 0.0, 0.0
        for start in self.context.shard.deal(range(0, len(split), batch_size)):
            with self._lock:
                batch = split.images[start : start + batch_size]
                labels = self._labels(split.labels[start : start + len(batch)])
                score = partial(self.loss.evaluate, self.backend, labels=labels, out=None)
                loss, correct = self._scored("loss", batch, score, tta)
            total, right = total + loss, right + correct
        total, right = self.context.shard.total(total, right)
        return total / len(split), right / len(split)

    def split_of(
        self, images: Any, labels: Any = None, *, layout: Layout = "NHWC", weights: npt.ArrayLike | None = None
    ) -> Split:
        """Images and labels as people have them, with labels that number this model's classes. Raises UsageError."""
        if isinstance(images, Split) and labels is None:
            return images if weights is None else Split.of(images, weights=weights)
        if labels is not None:
            images, layout = as_images(images, layout=layout, shape=self.input_shape), "NHWC"
        split = Split.of(images, labels, classes=self.classes, weights=weights, layout=layout, named=self.named)
        self._check_images(split.images)
        return split if self.named or split.classes != self.classes else replace(split, classes=None)

    def _images(self, images: Any, layout: Layout) -> Images:
        """Images as people have them as (N, H, W, C)."""
        # Few checks are made of what needs no change: a program may predict image by image.
        if type(images) is np.ndarray and images.ndim == 4 and images.dtype == np.uint8 and layout == "NHWC":
            self._check_images(images)
            return images
        found = as_images(images, layout=layout, shape=self.input_shape)
        self._check_images(found)
        if found.dtype.kind == "f" and isinstance(found, np.ndarray):
            if not np.isfinite(found).all():
                raise UsageError("There are pixels that are NaN or infinite; replace them, or leave these images out.")
            self.preprocessing.scale_for(found)
        return found

    def with_own_labels(self, split: Split) -> Split:
        """The split with labels that number this model's classes: by name, or unchanged where one side has no names.

        Raises UsageError if the split is none or empty, or has images of a class that the model does not have.
        """
        if not isinstance(split, Split):
            raise UsageError(f"Give images and labels as cnn.Split(images, labels), not as a {type(split).__name__}.")
        if len(split) == 0:
            raise UsageError("The split has no images; give at least one.")
        if self.named:
            split = split.numbered_by(self.classes)
        if split.labels.max() >= len(self.classes):
            raise UsageError(
                f"The data have label {split.labels.max()}, but {self.name} has only {len(self.classes)} classes."
            )
        return split

    def get_to_know(self, split: Split) -> None:
        """Keeps what it will be asked about its training images: their kind of pixels, borders, and class names.

        A model that was given no preprocessing gets one that suits the first images that it is trained on. Weights that
        are made of training images are made of these. Raises UsageError for a copy for inference.
        """
        self._check_changeable()
        if not self.met and self.adapts:
            self.preprocessing = Preprocessing.suiting(split)
        elif not self.met:
            self.preprocessing = replace(self.preprocessing, pixels=kind_of(split.images))
        self.met, self.adapts = True, False
        if self.awaits_images:
            fill(awaiting(self.network.nodes), partial(self._loaded, split.images), len(split))
            self.awaits_images = False
        white = WHITE[self.preprocessing.pixels]
        known = WHITE.get(split.images.dtype.name, white)
        self.border = None if white is None or known is None else border_of(split.images, known)
        names = split.classes
        if not self.named and names is not None and len(names) == len(self.classes):
            self.classes, self.named = names, True

    def _whole_numbers(self, numbers: npt.ArrayLike, what: str, count: int) -> npt.NDArray[np.int64]:
        """The numbers as (M,) int64. Raises UsageError unless all are from 0 to count - 1."""
        found = np.asarray(numbers)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise UsageError(f"{what} has shape {found.shape} and type {found.dtype}; give (M,) and whole numbers.")
        found = found.astype(np.int64, copy=False)
        # Seen as unsigned, negative numbers are large, and one comparison finds both.
        if found.size and found.view(np.uint64).max() >= count:
            raise UsageError(f"{what} runs from {found.min()} to {found.max()}; give 0 to {count - 1}.")
        return found

    def _labels(self, labels: npt.NDArray[np.int64], name: str = "labels") -> Array:
        labels = self._whole_numbers(labels, f"The array of labels for {len(self.classes)} classes", len(self.classes))
        buffer = self.buffers.get(name, labels.shape, np.int64)
        self.backend.copy(labels, buffer)
        return buffer

    def summary(self, batch: int = EVALUATED) -> str:
        """The layers as a table of text, with what the model needs for a batch; `print(model.summary())` shows it."""
        return "\n".join(summary_lines(self, whole(batch, "The batch")))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        return (
            f"Sequential({self.name}: {counted(len(self.layers), 'layer')}, {self.parameter_count():,} parameters, "
            f"images {shape}, {counted(len(self.classes), 'class')}, {self.backend.name} {self.precision})"
        )

    def _repr_html_(self) -> str:
        """The summary as a table of a notebook."""
        return summary_html(self, EVALUATED)

    def config(self) -> dict[str, Any]:
        """The architecture as a table: name, input shape, layers, loss, classes."""
        return {
            "name": self.name,
            "input": list(self.input_shape),
            "layers": self.network.config(),
            "loss": self.loss.config(),
            "classes": list(self.classes),
        }


def _image_shape(shape: Shape) -> Shape:
    try:
        found = tuple(map(index, shape))
    except TypeError:
        found = ()
    if len(found) != 3 or min(found) < 1:
        raise ShapeError(f"A model takes images (H, W, C) of at least one pixel, not {shape!r}.")
    return found


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _probabilities(loss: Loss, backend: Backend, out: Array, scores: Array) -> Array:
    loss.probabilities(backend, scores, out)
    return out


def _copied(backend: Backend, out: Array, scores: Array) -> Array:
    backend.scale(scores, 1.0, out)
    return out


_models: WeakSet[Sequential] = WeakSet()


def _unlock() -> None:
    """In a forked process the threads that held a lock are gone."""
    for model in _models:
        model._lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def load_arrays(
    backend: Backend, arrays: Mapping[str, Array], state: Mapping[str, npt.NDArray[Any]], owner: str
) -> None:
    """Copies host arrays into a backend's by name. Raises what `check_arrays` raises."""
    check_arrays(arrays, state, owner)
    for name, array in arrays.items():
        backend.copy(np.asarray(state[name]), array)


def check_arrays(arrays: Mapping[str, Array], state: Mapping[str, npt.NDArray[Any]], owner: str) -> None:
    """Raises FileFormatError unless the names, shapes and types of the arrays of `state` are those of `arrays`.

    Raises UsageError for anything but arrays by name.
    """
    if not isinstance(state, Mapping):
        raise UsageError(f"The arrays of {owner} are given by name, as `state()` returns them, not as {type(state)}.")
    state = {name: np.asarray(array) for name, array in state.items()}
    if arrays.keys() != state.keys():
        odd = ", ".join(sorted(arrays.keys() ^ state.keys()))
        raise FileFormatError(
            f"The stored arrays are not those of {owner}: {odd}; load them into the model they were saved from."
        )
    for name, array in arrays.items():
        stored = state[name]
        if stored.shape != array.shape or stored.dtype != array.dtype:
            raise FileFormatError(
                f"{name} is stored as {stored.dtype} {stored.shape}, but {owner} has {array.dtype} {array.shape}; "
                "load it into the model it was saved from."
            )
