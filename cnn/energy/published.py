"""Time and energy of CNNs that others published (`published.toml`): every number with its source and confidence."""

import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files
from typing import Any, Literal, NamedTuple, get_args

from cnn.config import check_values
from cnn.cost import DATA, FORWARD, UPDATE, Cost, count, layer_stages
from cnn.energy.algorithms import GEMM, LIBRARIES
from cnn.errors import FileFormatError, UsageError
from cnn.model.architecture import Architecture, read_architecture
from cnn.model.zoo import architecture

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
    published-nets/, `device_key` the device of the catalogue, `library` the software in `cnn.energy.algorithms`. A step
    in training is forward and backward, with `update` also the update, with `first_data_gradient` also the gradient of
    the images. `note` says what numbers cannot.
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
    library: str | None = None
    update: bool = False
    first_data_gradient: bool = False
    note: str | None = None
    seconds: Number | None = None
    images_per_second: Number | None = None
    watts: Number | None = None
    images_per_joule: Number | None = None

    @property
    def step_seconds(self) -> float | None:
        """Seconds of a batch, read or derived; None where they are unknown."""
        rate = self.quantities().get("images_per_second")
        return self.batch / rate.value if rate and self.batch else None

    @property
    def predictable(self) -> bool:
        """Whether the row says all that a prediction of it needs."""
        return bool((self.zoo or self.layers) and self.device_key and self.library and self.step_seconds)

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


@cache
def published() -> tuple[Published, ...]:
    """Every row of published.toml."""
    return tuple(parse(_text()))


def published_net(zoo: str | None, layers: str | None = None) -> Architecture | None:
    """The network of the zoo, or the one in a file of published-nets/; None without either."""
    if layers:
        with as_file(files("cnn.energy").joinpath("published-nets", f"{layers}.toml")) as path:
            return read_architecture(path)
    return architecture(zoo) if zoo else None


def layers_of(cost: Cost) -> tuple[object, ...]:
    """What a network computes for an image, layer by layer, whatever it is called; dropout classifies nothing."""
    forward = [stage for stage in cost.stages if stage.phase == FORWARD and stage.kind != "Dropout"]
    return tuple(
        (stage.kind, stage.extent._replace(rows=stage.extent.rows // cost.batch), stage.gemm_flops // cost.batch)
        for stage in forward
    )


def ran(run: Published, cost: Cost) -> bool:
    """Whether a row ran the network of `cost`, by its layers."""
    return (run.zoo or run.layers) is not None and _published_layers(run.zoo, run.layers) == layers_of(cost)


@cache
def _published_layers(zoo: str | None, layers: str | None) -> tuple[object, ...]:
    net = published_net(zoo, layers)
    return () if net is None else layers_of(count(net, 1, training=False))


@cache
def published_cost(run: Published) -> Cost:
    """The cost of a row that is `predictable`, with the stages that were timed and no others."""
    net = published_net(run.zoo, run.layers)
    assert net is not None
    assert run.batch is not None
    cost = count(net, run.batch, training=run.mode == "train")
    stages = [stage for stage in cost.stages if run.update or stage.phase != UPDATE]
    if run.first_data_gradient:
        stages += [stage for stage in layer_stages(net.network.nodes[0], run.batch) if stage.phase == DATA]
    return replace(cost, stages=tuple(stages))


def tested_devices() -> set[str]:
    """The keys of devices on which others timed a network computed with im2col + GEMM."""
    rows = [run for run in published() if run.predictable]
    return {run.device_key or "" for run in rows if LIBRARIES[run.library or ""].kind == GEMM}


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
