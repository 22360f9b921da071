"""The catalogue of links between nodes: latency and bandwidth, each with its source and confidence."""

from dataclasses import dataclass
from pathlib import Path

from cnn.energy.devices import Quantity, read_quantity, read_tables
from cnn.errors import UsageError
from cnn.terminal.visible import visible

NEEDED = ("latency_us", "gbs")


@dataclass(frozen=True)
class Link:
    """Joins two nodes: a message of n bytes takes latency_us + n / gbs one way, in any number of pairs at once.

    `overlap` is the share of a transfer that runs while the cores compute; the rest occupies the cores. None means
    unknown.
    """

    key: str
    name: str
    latency_us: Quantity
    gbs: Quantity
    overlap: Quantity | None = None
    note: str | None = None

    def quantities(self) -> dict[str, Quantity]:
        """What is known, by name."""
        known = {"latency_us": self.latency_us, "gbs": self.gbs}
        return known | ({} if self.overlap is None else {"overlap": self.overlap})


def links(own: Path | None = None) -> dict[str, Link]:
    """The links by key: those of links.toml, then those of the TOML file `own`, which replace those with the same key.

    Raises FileFormatError for a file that is missing or is not TOML, UsageError for an entry that is not a link.
    """
    found = {}
    for key, (table, origin) in read_tables("links.toml", own).items():
        texts = {name: table[name] for name in ("name", "note") if name in table}
        numbers = {name: table[name] for name in (*NEEDED, "overlap") if name in table}
        unknown = sorted(table.keys() - texts.keys() - numbers.keys())
        if unknown or not all(isinstance(text, str) for text in texts.values()):
            raise UsageError(f"{origin}: {key} takes name, note, latency_us, gbs and overlap, not {unknown or texts}.")
        if "name" not in texts or any(name not in numbers for name in NEEDED):
            raise UsageError(f"{origin}: {key} needs a name, latency_us and gbs.")
        read = {name: read_quantity(f"{origin}: {key}.{name}", number) for name, number in numbers.items()}
        if not read["gbs"].low:
            raise UsageError(f"{origin}: {key}.gbs must be above 0.")
        if "overlap" in read and read["overlap"].high > 1:
            raise UsageError(f"{origin}: {key}.overlap is a share; it must be at most 1.")
        shown = {name: visible(text) for name, text in texts.items()}
        found[key] = Link(key=key, **shown, **read)  # type: ignore[arg-type]
    return found
