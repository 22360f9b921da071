"""A row of a comparison: one device or backend, its time and energy per image, and the source of each number."""

from dataclasses import dataclass
from typing import Any, Literal

from cnn.energy.interval import Interval
from cnn.energy.published import Number, Published

Provenance = Literal["measured", "predicted", "published"]


@dataclass(frozen=True)
class Row:
    """Seconds and joules per image, and watts, of a network on a device; None means unknown.

    `provenance` says how the time is known, `energy` how energy and watts are: "measured", "modelled" (predicted, or
    from watts that the user gave), "published" or "unavailable".
    `unverified` are the numbers that the row rests on and that nobody has verified: with any, it is indicative.
    `busy` says so if the machine did other work while the row was measured.
    """

    device: str
    software: str | None
    net: str
    batch: int | None
    mode: str
    provenance: Provenance
    source: str
    threads: int | None = None
    seconds_per_image: Interval | None = None
    watts: Interval | None = None
    joules_per_image: Interval | None = None
    energy: str = "unavailable"
    unverified: tuple[str, ...] = ()
    busy: str | None = None
    note: str | None = None

    @property
    def indicative(self) -> bool:
        """Whether it rests on a number that nobody has verified."""
        return bool(self.unverified)

    @property
    def seconds(self) -> Interval | None:
        """Seconds per batch."""
        if self.seconds_per_image is None or self.batch is None:
            return None
        return self.seconds_per_image.times(self.batch)

    @property
    def images_per_second(self) -> Interval | None:
        """Images per second."""
        return self.seconds_per_image and self.seconds_per_image.inverse()

    @property
    def images_per_joule(self) -> Interval | None:
        """Images per joule."""
        return self.joules_per_image and self.joules_per_image.inverse()

    @property
    def label(self) -> str:
        """Device and software."""
        return f"{self.device}, {self.software}" if self.software else self.device

    def to_dict(self) -> dict[str, Any]:
        """Flat values for JSON and CSV; None where unknown."""
        table: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("device", "software", "threads", "net", "batch", "mode", "provenance")
        }
        for name in QUANTITIES:
            table |= Interval.columns(name, getattr(self, name))
        return table | {
            "energy": self.energy,
            "indicative": self.indicative,
            "unverified": "; ".join(self.unverified) or None,
            "busy": self.busy,
            "source": self.source,
            "note": self.note,
        }


QUANTITIES = ("seconds", "images_per_second", "watts", "joules_per_image", "images_per_joule")


def published_row(run: Published) -> Row:
    """The row of a published measurement."""
    given = run.quantities()
    known = "watts" in given or "images_per_joule" in given
    rate, watts, per_joule = (given.get(name) for name in ("images_per_second", "watts", "images_per_joule"))
    return Row(
        device=run.device,
        software=run.software,
        net=run.net,
        batch=run.batch,
        mode=run.mode,
        provenance="published",
        source="; ".join([run.source, *(f"{name} = {each.how}" for name, each in given.items() if each.how)]),
        seconds_per_image=_interval(rate, inverse=True),
        watts=_interval(watts),
        joules_per_image=_interval(per_joule, inverse=True),
        energy="published" if known else "unavailable",
        unverified=tuple(run.unverified()),
        note=run.note,
    )


def _interval(number: Number | None, *, inverse: bool = False) -> Interval | None:
    if number is None:
        return None
    return Interval(1 / number.value if inverse else number.value)
