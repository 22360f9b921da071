"""Groups the stages of a step into tasks: what runs in one call, is timed as one, and has one law."""

from collections.abc import Iterator
from dataclasses import dataclass

from cnn.cost import DATA, FORWARD, WEIGHT, Cost, Extent, Stage
from cnn.measure.profiler import LayerPass, layer_pass_of


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
        """What the time of a piece of work depends on."""
        return (*self.extent, self.traffic)


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
    """The kind of the layer; strided convolutions are one of their own, as Winograd does not take them."""
    strided = stage.convolution is not None and stage.convolution.window.stride != (1, 1)
    return f"{stage.kind} strided" if strided else stage.kind
