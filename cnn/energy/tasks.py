"""Groups the stages of a step into tasks: what runs in one call, is timed as one, and has one law."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from statistics import mean

from cnn.cost import DATA, FORWARD, WEIGHT, Cost, Extent, Stage
from cnn.measure.profiler import LayerPass, layer_pass_of

TILE = 4
"""Winograd computes tiles of 4x4 outputs: an image that does not fill its last ones costs as if it did."""

SIZES = len(Extent._fields) + 2
"""How many sizes a task has."""


@dataclass(frozen=True)
class Task:
    """Stages that are timed as one: the place that the profiler names, the law of their time, and what it depends on.

    `work` is the FLOP of the products, or the bytes where there are none; `traffic` the bytes of the whole step, which
    tells how much of what a task reads the caches still hold.
    """

    place: LayerPass
    law: str
    stages: tuple[Stage, ...]
    extent: Extent
    work: int
    traffic: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """What the time of a piece of work depends on; the last is how many in a hundred outputs of tiles are used."""
        return (*self.extent, self.traffic, round(100 * mean(map(_fill, self.stages))))


def tasks(cost: Cost) -> list[Task]:
    """The tasks of a step in the order they run; every stage with operations is in one, in two if it fuses a tanh."""
    grouped: dict[LayerPass, list[Stage]] = {}
    for stage in cost.stages:
        if stage.operations:
            grouped.setdefault(layer_pass_of(stage), []).append(stage)
    return [task for place, stages in grouped.items() for task in _tasks(place, tuple(stages), cost)]


def work_of(stage: Stage) -> int:
    """FLOP of the products of a stage, or its bytes where it has none."""
    return stage.gemm_flops or stage.bytes


def _tasks(place: LayerPass, stages: tuple[Stage, ...], cost: Cost) -> Iterator[Task]:
    phases = {stage.phase for stage in stages}
    direction = "classification" if phases == {FORWARD} and not cost.training else stages[0].phase
    if phases == {WEIGHT, DATA}:
        direction = "gradients"
    first = stages[0]
    work, moved = sum(map(work_of, stages)), cost.bytes
    yield Task(place, f"{_kind(first)}, {direction}", stages, first.extent, work, moved)
    if first.activation and phases == {FORWARD}:
        # A pass of its own after the product, with the law of the layer of that kind.
        extent = first.extent._replace(channels=first.extent.filters, taps=1)
        work = 8 * extent.rows * extent.filters
        yield Task(place, f"{first.activation}, {direction}", stages, extent, work, moved)


def _kind(stage: Stage) -> str:
    """The kind of the layer, and what makes it a different one: folding, or what decides which algorithms take it.

    Winograd takes no strides and is at its best with kernels of 3x3; those of 1x1 are plain products.
    """
    if stage.folded:
        return f"{stage.kind} folded"
    convolution = stage.convolution
    if convolution is None:
        return stage.kind
    kind = stage.kind if convolution.window.stride == (1, 1) else f"{stage.kind} strided"
    rows, columns = convolution.window.kernel
    return f"{kind} {rows}x{columns}" if convolution.groups == 1 and convolution.taps in (1, 9) else kind


def _fill(stage: Stage) -> float:
    """The share of the outputs of a convolution's tiles that are in the image."""
    if stage.convolution is None:
        return 1.0
    window = stage.convolution.window
    return prod(side / (ceil(side / TILE) * TILE) for side in (window.size if stage.phase == DATA else window.out))
