"""What `cnn compare` found: rows of this workload, published rows beside them, and each device's time by layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cnn.cost import Cost, Stage
from cnn.energy.checks import Check
from cnn.energy.interval import Interval
from cnn.energy.published import Published, ran
from cnn.report.curve import Curve
from cnn.report.row import Row, published_row


@dataclass(frozen=True)
class StageTime:
    """What a layer's phase takes on a device: seconds, and joules where they are known."""

    stage: Stage
    seconds: Interval
    joules: Interval | None = None


@dataclass(frozen=True)
class Breakdown:
    """The stages of the network on one device, and its roofline where it has one: peak FLOP/s and memory bytes/s."""

    device: str
    stages: tuple[StageTime, ...]
    peak: float | None = None
    bandwidth: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows of one network, batch and mode, the fastest first, and published ones, which are not to be ranked with them.

    `same_network` are published runs of this network, in other batches or other arithmetic; `other_networks` are not
    comparable at all. `omitted` says which devices have no row, and why. `scaling` are steps on many nodes, if they
    were asked for. `checks` are published times beside the model's, for a picture.
    """

    cost: Cost
    rows: tuple[Row, ...]
    same_network: tuple[Row, ...]
    other_networks: tuple[Row, ...]
    breakdowns: tuple[Breakdown, ...] = ()
    omitted: tuple[str, ...] = ()
    scaling: tuple[Curve, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def mode(self) -> str:
        """ "train" or "infer"."""
        return mode_name(self.cost)

    @property
    def title(self) -> str:
        """The workload in words."""
        return f"{self.cost.net}, batch {self.cost.batch}, {self.mode}"

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Every row."""
        return self.rows + self.same_network + self.other_networks


def mode_name(cost: Cost) -> str:
    """ "train" or "infer"."""
    return "train" if cost.training else "infer"


def compare(
    cost: Cost,
    rows: Iterable[Row],
    runs: Sequence[Published],
    breakdowns: Iterable[Breakdown] = (),
    omitted: Iterable[str] = (),
    scaling: Iterable[Curve] = (),
    checks: Iterable[Check] = (),
) -> Comparison:
    """Sorts the rows, and keeps the published runs of the same mode."""
    of_mode = [run for run in runs if run.mode == mode_name(cost)]
    return Comparison(
        cost,
        tuple(sorted(rows, key=lambda row: row.seconds.value if row.seconds else float("inf"))),
        tuple(published_row(run) for run in of_mode if ran(run, cost)),
        tuple(published_row(run) for run in of_mode if not ran(run, cost)),
        tuple(breakdowns),
        tuple(omitted),
        tuple(scaling),
        tuple(checks),
    )
