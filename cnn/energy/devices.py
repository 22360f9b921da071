"""The catalogue of devices: published numbers, each with its source and confidence, and the user's own beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from cnn.errors import UsageError
from cnn.terminal.visible import visible
from cnn.toml import parse_toml, read_toml
from cnn.words import unknown

SPREAD = {"read": 0.05, "measured": 0.05, "derived": 0.10, "unverified": 0.25}
"""By how much a number without bounds of its own may be off, by its confidence; the model's own assumption."""
COUNTED = ("cores", "threads_per_core", "cap_watts")
"""Numbers that are either right or wrong, and have no spread."""
KINDS = ("cpu", "coprocessor", "gpu")


@dataclass(frozen=True)
class Quantity:
    """A number between bounds, with its source; if it has only bounds, the estimate is their middle."""

    value: float
    low: float
    high: float
    confidence: str
    source: str

    @classmethod
    def of(cls, value: float, confidence: str, source: str) -> "Quantity":
        """A number with the bounds that its confidence implies."""
        spread = SPREAD[confidence]
        return cls(value, value * (1 - spread), value * (1 + spread), confidence, source)

    def __str__(self) -> str:
        exact = self.low == self.value == self.high
        bounds = "" if exact else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.4g}{bounds}, {self.confidence}: {self.source}"


@dataclass(frozen=True)
class Device:
    """What the model knows of a device; None is unknown. Units are in the names, GFLOP/s in single precision.

    half_side: the side of a product at which half its rate is lost (`cnn.energy.model`). threads_per_core: threads that
    a core needs for its full rate. busy_watts are drawn in a large product at busy_gflops (sgemm_gflops unless given),
    idle_watts when nothing runs, cap_watts at most. Watts are those of what `covers` names.
    """

    key: str
    name: str
    kind: str
    covers: str = "the device alone"
    cores: Quantity | None = None
    threads_per_core: Quantity | None = None
    peak_gflops: Quantity | None = None
    sgemm_gflops: Quantity | None = None
    half_side: Quantity | None = None
    stream_gbs: Quantity | None = None
    idle_watts: Quantity | None = None
    busy_watts: Quantity | None = None
    busy_gflops: Quantity | None = None
    cap_watts: Quantity | None = None
    memory_pj_per_byte: Quantity | None = None
    launch_us: Quantity | None = None
    pcie_latency_us: Quantity | None = None
    pcie_gbs: Quantity | None = None
    origin: str = field(default="catalogue", compare=False)

    def quantities(self) -> dict[str, Quantity]:
        """What is known, by name."""
        found = {name: getattr(self, name) for name in QUANTITIES}
        return {name: value for name, value in found.items() if value is not None}

    def missing(self, *names: str) -> list[str]:
        """Which of the quantities are unknown."""
        return [name for name in names if getattr(self, name) is None]


QUANTITIES = tuple(each.name for each in fields(Device) if "Quantity" in str(each.type))


def catalogue(own: Path | None = None) -> dict[str, Device]:
    """The devices by key: the published ones, then those of the TOML file `own`, which replace those with the same key.

    Raises FileFormatError for a file that is missing or is not TOML, UsageError for an entry that is not a device.
    """
    return {key: _device(key, table, origin) for key, (table, origin) in read_tables("devices.toml", own).items()}


def read_tables(name: str, own: Path | None) -> dict[str, tuple[dict[str, Any], str]]:
    """The tables of the catalogue's file `name` by key, then those of the user's, each with the file's name.

    Raises FileFormatError for a file that is missing or is not TOML, UsageError for an entry that is not a table.
    """
    published = files("cnn.energy").joinpath(name).read_text(encoding="utf-8")
    read = {"catalogue": parse_toml(published, name)} | ({} if own is None else {str(own): read_toml(own)})
    found = {}
    for origin, tables in read.items():
        for key, table in tables.items():
            if not isinstance(table, dict):
                raise UsageError(f"{origin}: {key} must be a table [{key}] of numbers, not {table!r}.")
            found[visible(key)] = table, origin
    return found


def _device(key: str, table: dict[str, Any], origin: str) -> Device:
    texts = {name: table.get(name) for name in ("name", "kind")}
    if not all(isinstance(text, str) for text in texts.values()) or texts["kind"] not in KINDS:
        raise UsageError(f"{origin}: {key} needs a name and a kind ({', '.join(KINDS)}).")
    known = (*texts, "covers", *QUANTITIES)
    for name in sorted(table.keys() - set(known)):
        raise unknown(f"{origin}: {key} has no entry", name, known)
    numbers = {name: read_quantity(f"{origin}: {key}.{name}", table[name]) for name in QUANTITIES if name in table}
    covers = {"covers": str(table["covers"])} if "covers" in table else {}
    return Device(key=key, name=visible(str(texts["name"])), kind=texts["kind"], origin=origin, **covers, **numbers)  # type: ignore[arg-type]


def read_quantity(place: str, table: Any) -> Quantity:
    """The number in the table at `place`. Raises UsageError for a table without one."""
    if not isinstance(table, Mapping) or not {"confidence", "source"} <= table.keys():
        raise UsageError(f"{place} must be a table with a value (or low and high), confidence and source.")
    confidence, source = table["confidence"], table["source"]
    if confidence not in SPREAD:
        raise UsageError(f"{place}: confidence must be one of {', '.join(SPREAD)}, not {confidence!r}.")
    numbers = {name: table[name] for name in ("value", "low", "high") if name in table}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not (isfinite(number) and number >= 0):
            raise UsageError(f"{place}: {name} must be a number of at least 0, not {number!r}.")
    if set(table) - {"value", "low", "high", "confidence", "source"} or ("low" in numbers) != ("high" in numbers):
        raise UsageError(f"{place} takes value, low and high (both or none), confidence and source.")
    if "low" not in numbers:
        if "value" not in numbers:
            raise UsageError(f"{place} needs a value, or low and high.")
        value = float(numbers["value"])
        if place.rpartition(".")[2] in COUNTED:
            return Quantity(value, value, value, confidence, str(source))
        return Quantity.of(value, confidence, str(source))
    low, high = float(numbers["low"]), float(numbers["high"])
    value = float(numbers.get("value", (low + high) / 2))
    if not low <= value <= high:
        raise UsageError(f"{place}: {value:g} does not lie between {low:g} and {high:g}.")
    return Quantity(value, low, high, confidence, str(source))
