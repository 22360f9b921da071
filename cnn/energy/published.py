"""Time and energy of CNNs that others published (`published.toml`): every number with its source and confidence."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, NamedTuple, get_args

from cnn.config import check_values
from cnn.errors import FileFormatError, UsageError

Confidence = Literal["read", "derived", "unverified"]


class Number(NamedTuple):
    """A number, how sure it is, and what it was derived from."""

    value: float
    confidence: Confidence
    how: str | None = None


@dataclass(frozen=True)
class Published:
    """One published measurement; None is what the source does not say.

    `seconds` are those of a batch. `zoo` names the network of cnn's zoo that was run, `layers` a file of its layers in
    published-nets/, `device_key` the device of the catalogue. `note` says what numbers cannot.
    """

    device: str
    net: str
    mode: Literal["train", "infer"]
    source: str
    software: str | None = None
    batch: int | None = None
    zoo: str | None = None
    layers: str | None = None
    device_key: str | None = None
    note: str | None = None
    seconds: Number | None = None
    images_per_second: Number | None = None
    watts: Number | None = None
    images_per_joule: Number | None = None

    def quantities(self) -> dict[str, Number]:
        """Images per second, watts and images per joule, including those that follow from the others.

        images/s = batch / seconds; watts = (images/s) / (images/J), and images/J likewise. What is derived
        from an unverified number is unverified.
        """
        found = {name: value for name in QUANTITIES if (value := getattr(self, name)) is not None}
        seconds = found.pop("seconds", None)
        if seconds and self.batch and "images_per_second" not in found:
            found["images_per_second"] = _derived(self.batch / seconds.value, f"{self.batch} images / seconds", seconds)
        rate = found.get("images_per_second")
        for wanted, given in (("watts", "images_per_joule"), ("images_per_joule", "watts")):
            if rate and given in found and wanted not in found:
                how = f"images_per_second / {given}"
                found[wanted] = _derived(rate.value / found[given].value, how, rate, found[given])
        return found

    def unverified(self) -> list[str]:
        """The numbers given that nobody verified."""
        given = ((name, getattr(self, name)) for name in QUANTITIES)
        return [f"{name} = {each.value:g}" for name, each in given if each and each.confidence == "unverified"]


QUANTITIES = ("seconds", "images_per_second", "watts", "images_per_joule")


def _derived(value: float, how: str, *given: Number) -> Number:
    unverified = any(each.confidence == "unverified" for each in given)
    return Number(value, "unverified" if unverified else "derived", how)


def published() -> list[Published]:
    """Every row of published.toml."""
    return parse(_text())


def published_curves() -> list[dict[str, Any]]:
    """The speed-ups by threads that the Cornell study published, its host's first."""
    curves: list[dict[str, Any]] = tomllib.loads(_text())["curves"]
    return curves


def _text() -> str:
    return (files("cnn.energy") / "published.toml").read_text(encoding="utf-8")


def parse(text: str) -> list[Published]:
    """The rows of a TOML text. Raises FileFormatError, which names the row, if they cannot be read."""
    try:
        rows = tomllib.loads(text).get("row", [])
        return [_row(row) for row in rows]
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"The published measurements cannot be read: {error}") from error


def _row(table: dict[str, Any]) -> Published:
    values = dict(table)
    owner = f"The row of {values.get('device', 'no device')}"
    for name in QUANTITIES:
        if name in values:
            values[name] = _quantity(f"{owner}, {name}", values[name])
    check_values(owner, values, Published.__dataclass_fields__)
    return Published(**values)


def _quantity(owner: str, table: dict[str, Any]) -> Number:
    quantity = Number(**table)
    if quantity.confidence not in get_args(Confidence) or not quantity.value > 0:
        raise UsageError(f"{owner} needs a value above 0 and a confidence of {', '.join(get_args(Confidence))}.")
    if quantity.confidence == "derived" and not quantity.how:
        raise UsageError(f"{owner} is derived; say how.")
    return quantity
