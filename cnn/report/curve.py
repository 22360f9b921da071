"""What `cnn compare --nodes` found: a network's training step on increasing numbers of nodes, joined by one link."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cnn.energy.interval import Interval
from cnn.energy.links import Link
from cnn.energy.scaling import Scaled

QUANTITIES = (
    *("seconds", "compute", "communication", "exposed"),
    *("images_per_second", "efficiency", "images_per_joule"),
)


@dataclass(frozen=True)
class Curve:
    """Steps on nodes of one kind; strong scaling divides `batch` images among them, weak scaling gives `batch` to each.

    `unverified` are the numbers that the steps rest on and that nobody has verified.
    """

    device: str
    link: Link
    weak: bool
    batch: int
    points: tuple[Scaled, ...]
    unverified: tuple[str, ...]

    @property
    def mode(self) -> str:
        """ "weak" or "strong"."""
        return "weak" if self.weak else "strong"

    @property
    def title(self) -> str:
        """Node and workload in words."""
        return f"{self.device}: {self.mode} scaling, {self.batch} images {'per node' if self.weak else 'in all'}"

    def to_dicts(self) -> Iterator[dict[str, Any]]:
        """Flat values of each number of nodes for JSON and CSV; times in seconds, None where unknown."""
        for point in self.points:
            row: dict[str, Any] = {"device": self.device, "link": self.link.key, "scaling": self.mode}
            row |= {"nodes": point.nodes, "batch": point.batch}
            for name in QUANTITIES:
                row |= Interval.columns(name, getattr(point, name))
            yield row | {"indicative": bool(self.unverified), "unverified": "; ".join(self.unverified) or None}
