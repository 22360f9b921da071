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
COUNTED = ("cores", "threads_per_core", "cap_watts", "product_spread")
"""Numbers that have no spread of their own."""
KINDS = ("cpu", "coprocessor", "gpu")
NEEDED = ("sgemm_gflops", "stream_gbs")
"""The numbers that no time can be predicted without."""
EXAMPLE = 'mine = {kind = "cpu", sgemm_gflops = 500, stream_gbs = 40}'
"""The least that a device needs; a bare number counts as unverified."""


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

    half_side: the side of a product at which half its rate is lost (`cnn.energy.model`). product_us is the time of the
    smallest product (launch_us unless given), launch_us that of the smallest other operation. product_spread: standard
    deviation of the logarithm of a product's time over the model's. threads_per_core: threads that a core needs for its
    full rate. busy_watts are drawn in large products, idle_watts when nothing runs, cap_watts at most. Watts are those
    of what `covers` names.
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
    product_us: Quantity | None = None
    product_spread: Quantity | None = None
    stream_gbs: Quantity | None = None
    idle_watts: Quantity | None = None
    busy_watts: Quantity | None = None
    cap_watts: Quantity | None = None
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


HALF_SIDE = {
    "cpu": Quantity(24, 8, 75, "unverified", "unknown; from one thread of an AMD EPYC (cnn calibrate) to a GPU's"),
    "coprocessor": Quantity(75, 24, 197, "unverified", "unknown; between those of the devices that were fitted"),
    "gpu": Quantity(122, 75, 197, "unverified", "unknown; between those of the GPUs that were fitted"),
}
"""What half_side is taken to be where a device does not say, by its kind."""
PRODUCT_SPREAD = Quantity(0.252, 0.252, 0.252, "derived", "unknown; the largest of the devices that were fitted")

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
    """The device of a table. Raises UsageError that names everything that is wrong with it."""
    wrong, numbers, known = list[str](), dict[str, Quantity](), ("name", "kind", "covers", *QUANTITIES)
    if table.get("kind") not in KINDS:
        wrong.append(f"{key} needs a kind: {', '.join(KINDS)}")
    wrong += [
        str(unknown(f"{key} has no entry", name, known)).rstrip(".") for name in sorted(table.keys() - set(known))
    ]
    for name in QUANTITIES:
        try:
            if name in table:
                numbers[name] = read_quantity(f"{key}.{name}", table[name])
                if name in NEEDED and not numbers[name].low:
                    wrong.append(f"{key}.{name} must be above 0")
        except UsageError as error:
            wrong.append(str(error).rstrip("."))
    if wrong:
        wrong += [f"it needs {name} too" for name in NEEDED if name not in table]
        raise UsageError(f"{origin}: {'; '.join(wrong)}. An example: {EXAMPLE}.")
    texts = {name: visible(str(table[name])) for name in ("name", "covers") if name in table}
    return Device(key=key, kind=str(table["kind"]), origin=origin, **({"name": key} | texts), **numbers)  # type: ignore[arg-type]


def read_quantity(place: str, table: Any) -> Quantity:
    """The number in the table at `place`, or the number that stands there alone. Raises UsageError for all else."""
    if isinstance(table, int | float) and not isinstance(table, bool):
        table = {"value": table, "confidence": "unverified", "source": f"{place}, where no source is given"}
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
