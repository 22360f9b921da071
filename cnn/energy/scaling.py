"""Time and energy of synchronous data-parallel training on p nodes, from one node's step and the link between them.

Every node computes its share of the batch; the gradients are added up by allreduce, bucket by bucket, while the rest of
the backward pass runs. A transfer starts when the last gradient of its bucket is there and the transfer before it is
over; loss and accuracy follow, and the update waits for the last one. The link's `overlap` is the share of a transfer
that runs beside the cores; the rest occupies them and is never hidden. T = forward + backward + exposed + update.

Allreduce of n bytes, in seconds, the least of three (Thakur, Rabenseifner and Gropp, "Optimization of collective
communication operations in MPICH", IJHPCA 19(1), 2005, section 4; MPI libraries choose among them by size). alpha is
the latency in s, beta the s per byte of bandwidth, gamma the s to add up a byte, L = log2 p:
    recursive doubling                          L alpha + L n beta + L n gamma
    recursive halving, then doubling            2 L alpha + 2 (p-1)/p n beta + (p-1)/p n gamma
    ring                                  2 (p-1) alpha + 2 (p-1)/p n beta + (p-1)/p n gamma
The first two take p to be a power of two; else some nodes first hand all their bytes to another and get the result
last, as MPICH does: 2 alpha + 2 n beta + n gamma more, with the power of two below p. gamma follows from memory: an
addition reads two numbers and writes one, 3 / bandwidth per byte. Links are free of contention, nodes equal, and what
BatchNorm sums within the passes is not counted.

Energy: p nodes, each what its step draws and its idle power while it waits. The power of NICs and switches is
unknown and not counted. If the batch does not divide evenly, every node counts as the one with the largest share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from cnn.cost import FORWARD, UPDATE
from cnn.energy.devices import Quantity
from cnn.energy.interval import Interval
from cnn.energy.links import Link
from cnn.energy.prediction import DRAWS, SEED, Prediction, Vector, draws_of
from cnn.errors import UsageError
from cnn.words import counted

BUCKET_BYTES = 1 << 20
"""As in `cnn.training.gradients`."""
RESULT_BYTES = 24
"""The sums of losses and of correct answers, and a flag."""
OPERANDS = 3
"""Arrays in memory that an addition touches."""


@dataclass(frozen=True)
class StepTime:
    """Draws of one node's training step on its share: seconds, joules and idle watts (None where unknown).

    `backward` are the layers in the order they run, each with the bytes of its gradients (0 for none) and its seconds.
    `memory` is the node's bandwidth in bytes per second.
    """

    forward: Vector
    backward: tuple[tuple[int, Vector], ...]
    update: Vector
    memory: Vector
    joules: Vector | None = None
    idle: Vector | None = None

    @property
    def gradients(self) -> Vector:
        """Seconds until the last gradient is there."""
        return sum((seconds for _, seconds in self.backward), self.forward)

    @property
    def seconds(self) -> Vector:
        """The whole step without communication."""
        return self.gradients + self.update


@dataclass(frozen=True)
class Scaled:
    """A step of `batch` images in all on `nodes` nodes, in seconds; images_per_joule is None if unknown.

    communication is the time of all transfers, exposed the part of it that the nodes wait for. efficiency is the images
    per second over `nodes` times those of one node.
    """

    nodes: int
    batch: int
    seconds: Interval
    compute: Interval
    communication: Interval
    exposed: Interval
    images_per_second: Interval
    efficiency: Interval
    images_per_joule: Interval | None


class Fabric:
    """Draws of a link's numbers in SI units."""

    def __init__(self, link: Link) -> None:
        rng = np.random.default_rng([SEED, sum(link.key.encode())])
        self.alpha = draws_of(link.latency_us, rng) * 1e-6
        self.beta = 1e-9 / draws_of(link.gbs, rng)
        # If unknown, it may be anything; the best estimate is what the code is written for.
        overlap = link.overlap or Quantity(1, 0, 1, "unverified", "unknown")
        self.overlap = draws_of(overlap, rng)

    def allreduce(self, size: int, nodes: int, gamma: Vector | float) -> Vector:
        """Seconds to add up `size` bytes of each of `nodes` nodes, by the fastest of the algorithms."""
        if nodes == 1:
            return np.zeros(1 + DRAWS)
        power = nodes.bit_length() - 1
        moved = size * self.beta
        added = size * gamma
        part = 1 - 0.5**power
        folded = (nodes != 2**power) * (2 * self.alpha + 2 * moved + added)
        doubling = folded + power * (self.alpha + moved + added)
        halving = folded + 2 * power * self.alpha + part * (2 * moved + added)
        ring = 2 * (nodes - 1) * self.alpha + (1 - 1 / nodes) * (2 * moved + added)
        least: Vector = np.minimum(np.minimum(doubling, halving), ring)
        return least


def step_of(prediction: Prediction, gradients: dict[str, int], memory: Quantity) -> StepTime:
    """A predicted training step as the model of scaling takes it; `memory` is the node's bandwidth in 1e9 bytes/s."""
    none = np.zeros(1 + DRAWS)
    forward, update, backward = none, none, dict[str, Vector]()
    joules = None if prediction.joules is None else none
    for each in prediction.stages:
        seconds = each.draws.seconds
        if each.stage.phase == FORWARD:
            forward = forward + seconds
        elif each.stage.phase == UPDATE:
            update = update + seconds
        else:
            backward[each.stage.layer] = backward.get(each.stage.layer, none) + seconds
        if joules is not None and each.draws.joules is not None:
            joules = joules + each.draws.joules
    layers = tuple((gradients.get(layer, 0), seconds) for layer, seconds in backward.items())
    rng = np.random.default_rng([SEED, 1])
    return StepTime(forward, layers, update, draws_of(memory, rng) * 1e9, joules, prediction.idle)


def buckets(step: StepTime, least: int = BUCKET_BYTES) -> list[tuple[int, Vector]]:
    """Bytes of each bucket of at least `least`, the last one holding the rest, and when its gradients are ready."""
    found, size, time = [], 0, step.forward
    for number, seconds in step.backward:
        size, time = size + number, time + seconds
        if size >= least:
            found.append((size, time))
            size = 0
    return [*found, (size, time)] if size else found


def exposed_seconds(transfers: Sequence[tuple[Vector, Vector]], computed: Vector) -> Vector:
    """Seconds that transfers, each (ready, seconds) and one at a time, go on after the time `computed`."""
    free = np.zeros_like(computed)
    for ready, seconds in transfers:
        free = np.maximum(free, ready) + seconds
    return np.maximum(free - computed, 0)


def share(batch: int, nodes: int) -> int:
    """The largest part of a batch on `nodes` nodes. Raises UsageError if some would have no image."""
    if nodes > batch:
        raise UsageError(f"A batch of {counted(batch, 'image')} is too small for {nodes} nodes; give a larger one.")
    return ceil(batch / nodes)


def scaled(step: StepTime, link: Link, nodes: int, batch: int, alone: Vector | None = None) -> Scaled:
    """`step` on each of `nodes` nodes, `batch` images in all; `alone` are the images per second of one node."""
    fabric = Fabric(link)
    ready = [*buckets(step), (RESULT_BYTES, step.gradients)]
    transfers = [(time, fabric.allreduce(size, nodes, OPERANDS / step.memory)) for size, time in ready]
    communication = sum((seconds for _, seconds in transfers), np.zeros(1 + DRAWS))
    beside = [(time, fabric.overlap * seconds) for time, seconds in transfers]
    exposed = (1 - fabric.overlap) * communication + exposed_seconds(beside, step.gradients)
    seconds = step.seconds + exposed
    rate = batch / seconds
    per_joule = None
    if step.joules is not None and step.idle is not None:
        per_joule = batch / (nodes * (step.joules + step.idle * exposed))
    return Scaled(
        nodes=nodes,
        batch=batch,
        seconds=Interval.of(seconds),
        compute=Interval.of(step.seconds),
        communication=Interval.of(communication),
        exposed=Interval.of(exposed),
        images_per_second=Interval.of(rate),
        efficiency=Interval.of(rate / (nodes * (rate if alone is None else alone))),
        images_per_joule=None if per_joule is None else Interval.of(per_joule),
    )


def curve(
    step_at: Callable[[int], StepTime], link: Link, counts: Sequence[int], batch: int, *, weak: bool
) -> list[Scaled]:
    """A step on each of `counts` nodes. `step_at` gives one node's step on a number of images.

    Strong scaling divides `batch` images among the nodes, weak scaling gives `batch` images to each node. Raises
    UsageError if there are more nodes than images to divide.
    """
    alone = batch / step_at(batch).seconds
    found = []
    for nodes in counts:
        own = batch if weak else share(batch, nodes)
        found.append(scaled(step_at(own), link, nodes, batch * nodes if weak else batch, alone))
    return found
