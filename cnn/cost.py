"""FLOP and bytes of every layer and phase, computed from shapes alone by the layers.

Bytes are those of float32, unless another precision is named. In bfloat16 they are those of a backend that stores what
it can in it: both operands of a product, column buffers, and activations and gradients between layers that can.

As in `cnn.arithmetic`, convolutions count as im2col + GEMM. Column buffers count as written and read in full for the
batch; a backend that lowers tile by tile keeps them in the cache and moves fewer bytes, and direct convolution and
Winograd execute a different number of FLOP.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, Protocol

from cnn.arithmetic import FLOAT, Operation, Sizes, Work
from cnn.backend import Backend
from cnn.convolution import Convolution
from cnn.errors import UsageError
from cnn.layers import Conv2D
from cnn.model.network import Network
from cnn.model.node import Node
from cnn.precision import BFLOAT16, FLOAT32, FLOAT64

FORWARD, WEIGHT, DATA, UPDATE = ("forward", "weight gradient", "data gradient", "update")


class Extent(NamedTuple):
    """What a stage's time depends on besides FLOP and bytes: output rows (N*P*Q), channels, filters and taps."""

    rows: int
    channels: int
    filters: int
    taps: int


@dataclass(frozen=True)
class Stage:
    """One layer in one phase; `kind` is that of the layer, or "input", "loss" or "update".

    `activation` is the kind of a fused activation that runs as a separate pass, `convolution` that of a Conv2D.
    `folded` is true of a batch normalisation that this library folds into the weights before it at inference.
    """

    layer: str
    kind: str
    phase: str
    operations: tuple[Operation, ...]
    extent: Extent
    activation: str | None = None
    convolution: Convolution | None = None
    folded: bool = False

    @property
    def flops(self) -> int:
        """FLOP of all operations."""
        return sum(each.flops for each in self.operations)

    @property
    def gemm_flops(self) -> int:
        """FLOP of the products."""
        return sum(each.flops for each in self.operations if each.sizes)

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return sum(each.bytes for each in self.operations)

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Cost:
    """The stages of a training step, or of classifying a batch, in the order in which they run."""

    net: str
    batch: int
    training: bool
    stages: tuple[Stage, ...]

    @property
    def products(self) -> list[Sizes]:
        """Every matrix product, in the order in which they run."""
        return [each.sizes for stage in self.stages for each in stage.operations if each.sizes]

    @property
    def flops(self) -> int:
        """FLOP of all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def gemm_flops(self) -> int:
        """FLOP of all products."""
        return sum(stage.gemm_flops for stage in self.stages)

    @property
    def bytes(self) -> int:
        """Bytes read and written by all stages."""
        return sum(stage.bytes for stage in self.stages)


class Described(Protocol):
    """Anything with a name and a network: an Architecture or a Sequential."""

    name: str

    @property
    def network(self) -> Network:
        """Its layers with their shapes."""


def count(described: Described, batch: int, *, training: bool, precision: str = FLOAT32) -> Cost:
    """The cost of one step on `batch` images; nothing is built or allocated.

    A training step reads the batch, goes forward and backward and updates by SGD with momentum and weight decay. The
    first layer with parameters has no data gradient, and layers before it have no backward pass.
    Raises UsageError for an empty batch, ShapeError if a layer does not fit.
    """
    if batch < 1:
        raise UsageError(f"A batch of {batch} images has no cost; give at least 1.")
    network = described.network
    counted = [layer_stages(node, batch, training=training) for node in network.nodes]
    if not training:
        folded = [network.folded(node.place, batch) for node in network.nodes]
        counted = [[replace(stages[0], folded=fold)] for stages, fold in zip(counted, folded, strict=True)]
    stages = [input_stage(batch * prod(network.input_shape)), *(forward for forward, *_ in counted)]
    stages.append(loss_stage(batch * prod(network.output_shape)))
    if training:
        for place in network.backward_order:
            _, *gradients = counted[place]
            if not network.wants_input_gradient(network.nodes[place]):
                # A layer that computes the data gradient separately leaves it out.
                gradients = [each for each in gradients if each.phase == WEIGHT] or gradients
            stages += gradients
        stages.append(update_stage(sum(gradient_bytes(described).values()) // FLOAT))
    if precision != FLOAT32:
        nodes = {node.name: node for node in network.nodes}
        stages = [_in_precision(each, nodes.get(each.layer), network.storable, precision) for each in stages]
    return Cost(described.name, batch, training, tuple(stages))


def moved_precision(precision: str, backend: Backend) -> str:
    """The precision whose bytes a backend moves when it computes in this one: it need not store bfloat16."""
    stores = precision != BFLOAT16 or backend.in_precision(precision).stores_bfloat16
    return precision if stores else FLOAT32


def gradient_bytes(described: Described) -> dict[str, int]:
    """Bytes of the gradients of each layer that has parameters and is not frozen, in the order of the layers."""
    counts = ((node.name, node.parameter_count) for node in described.network.nodes if not node.layer.frozen)
    return {name: FLOAT * parameters for name, parameters in counts if parameters}


def layer_stages(node: Node, batch: int, *, training: bool = True) -> list[Stage]:
    """The forward stage of one layer on `batch` images, then, in training, the stages of its backward pass."""
    work = node.layer.work(batch, *node.input_shapes, training=training)
    stages = [_stage(node, batch, work, FORWARD, work.forward)]
    if training:
        phases = ((WEIGHT, work.weight_gradient), (DATA, work.data_gradient))
        stages += [_stage(node, batch, work, phase, operations) for phase, operations in phases if operations]
    return stages


def _stage(node: Node, batch: int, work: Work, phase: str, operations: Sequence[Operation]) -> Stage:
    channels, filters = node.input_shapes[0][-1], node.output_shape[-1]
    extent = Extent(batch * prod(node.output_shape) // filters, channels, filters, work.taps)
    convolution = node.layer.convolution_on(node.input_shapes[0]) if isinstance(node.layer, Conv2D) else None
    return Stage(node.name, node.layer.kind, phase, tuple(operations), extent, work.activation, convolution)


def _in_precision(stage: Stage, node: Node | None, storable: Set[int], precision: str) -> Stage:
    """The stage with the bytes of another precision; `node` is None for what is no layer."""

    def changed(operation: Operation) -> Operation:
        if precision == FLOAT64:
            return operation.with_numbers_of(8)
        return operation if node is None else _short(operation, stage.phase, node, storable)

    return replace(stage, operations=tuple(map(changed, stage.operations)))


def _short(operation: Operation, phase: str, node: Node, storable: Set[int]) -> Operation:
    """An operation of a layer with the bytes of bfloat16."""
    if operation.sizes is not None:
        operands, result = operation.sizes.operands
        written = {FORWARD: node.place in storable, DATA: not storable.isdisjoint(node.inputs)}
        return replace(operation, bytes=operands // 2 + (result // 2 if written.get(phase) else result))
    short = node.place in storable or operation.kind in ("im2col", "col2im")
    return operation.with_numbers_of(2) if short else operation


def input_stage(elements: int) -> Stage:
    """Reading pixels as bytes, shifting and scaling them."""
    return _pass("input", FORWARD, elements, 2, 1 + FLOAT, integers=1)


def loss_stage(scores: int) -> Stage:
    """The softmax of the scores, with the loss and its gradient in training."""
    return _pass("loss", FORWARD, scores, 4, 2 * FLOAT)


def update_stage(parameters: int) -> Stage:
    """v = mu v - lr (g + decay w), w += v: three arrays read, two written."""
    return _pass("update", UPDATE, parameters, 6, 5 * FLOAT)


def _pass(kind: str, phase: str, elements: int, flops: int, moved: int, integers: int = 0) -> Stage:
    """One pass over `elements`, with `flops` FLOP and `moved` bytes per element, some of them of `integers`."""
    operation = Operation("elementwise", flops * elements, moved * elements, integers=integers * elements)
    return Stage(kind, kind, phase, (operation,), Extent(elements, 1, 1, 1))
