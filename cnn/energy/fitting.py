"""Fits a device's products, rate R, half side h and start s, to published times of SGEMM (`products.csv`).

The law is that of `cnn.energy.model`: t = s + max(2 M N K / R (1 + h (1/M + 1/N + 1/K)), bytes / bandwidth). Logarithms
of t over the measured times are fitted with the soft L1 loss, as a few products of every library are far slower than
their neighbours. What is left of them is the device's spread.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from math import exp, log
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.arithmetic import Sizes
from cnn.energy.devices import Device, Quantity
from cnn.energy.model import NARROW

LEAST = 12
"""Products that a device needs for a fit of its own; with fewer, only its rate is fitted."""
SCALE = 0.1
"""Relative error from which on a product counts as an outlier."""
RESAMPLED = 40
"""How often the products are drawn again, with repetition, for the bounds of what is fitted."""
FITTED = ("sgemm_gflops", "half_side", "product_us")
SHARE = (0.6, 0.9)
"""Between what shares of its peak a device reaches in SGEMM, if nothing else is known of it."""

Vector = npt.NDArray[np.float64]


class Product(NamedTuple):
    """A published product: device, sizes, transposition (as BLAS names it, "" if not said), seconds, and where from."""

    device: str
    sizes: Sizes
    form: str
    seconds: float
    library: str
    source: str


@dataclass(frozen=True)
class Fit:
    """GFLOP/s, half side and microseconds to start, and the standard deviation of the logarithm of what is left."""

    rate: float
    half: float
    start: float
    spread: float


def published_products() -> list[Product]:
    """Every row of products.csv."""
    text = (files("cnn.energy") / "products.csv").read_text(encoding="utf-8")
    return [
        Product(
            row["device"],
            Sizes(*(int(row[side]) for side in "mnk")),
            row["form"],
            float(row["microseconds"]) * 1e-6,
            row["library"],
            row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    ]


def fit_law(products: Sequence[Product], bandwidth: float) -> Fit:
    """Rate, half side and start of a device with `bandwidth` bytes per second."""
    # Takes a third of a second, and is needed here only.
    from scipy.optimize import least_squares

    sides = np.array([each.sizes for each in products], dtype=np.float64)
    measured = np.log([each.seconds for each in products])

    def off(logs: Vector) -> Vector:
        return np.log(_seconds(sides, np.exp(logs), bandwidth)) - measured

    fastest = max(each.sizes.flops / each.seconds for each in products)
    begin = [log(fastest), log(50.0), log(1e-5)]
    found = least_squares(off, begin, loss="soft_l1", f_scale=SCALE)
    rate, half, start = (float(exp(each)) for each in found.x)
    return Fit(rate / 1e9, half, start * 1e6, float(np.sqrt(np.mean(off(found.x) ** 2))))


def _seconds(sides: Vector, law: Vector, bandwidth: float) -> Vector:
    rate, half, start = law
    lost = (1 / np.maximum(sides, NARROW)).sum(axis=1)
    products = 2 * sides.prod(axis=1) / rate * (1 + half * lost)
    moved = 4 * (sides[:, 0] * sides[:, 2] + sides[:, 1] * sides[:, 2] + sides[:, 0] * sides[:, 1]) / bandwidth
    return np.asarray(start + np.maximum(products, moved))


def bounds(products: Sequence[Product], bandwidth: float) -> list[tuple[float, float]]:
    """The middle 90 % of rate, half side and start, fitted to products drawn again with repetition."""
    rng = np.random.default_rng(1)
    fits = [
        fit_law([products[place] for place in rng.integers(len(products), size=len(products))], bandwidth)
        for _ in range(RESAMPLED)
    ]
    columns = np.array([[each.rate, each.half, each.start] for each in fits])
    return [(float(low), float(high)) for low, high in np.quantile(columns, (0.05, 0.95), axis=0).T]


def refitted(device: Device, products: Sequence[Product], others: Iterable[Fit]) -> Device:
    """The device as `products` alone show it.

    With fewer than LEAST of them, a processor's half side is unknown and its products start as its other operations do;
    those of another device lie between the `others`. Without any, the rate is SHARE of the peak.
    """
    assert device.stream_gbs is not None
    new: dict[str, Quantity | None] = {}
    if len(products) >= LEAST:
        bandwidth = device.stream_gbs.value * 1e9
        fit, found = fit_law(products, bandwidth), bounds(products, bandwidth)
        for name, value, ends in zip(FITTED, (fit.rate, fit.half, fit.start), found, strict=True):
            new[name] = _between(value, *ends)
        return replace(device, **new, product_spread=_between(fit.spread, fit.spread, fit.spread))  # type: ignore[arg-type]
    fits = list(others)
    for name, attribute in (("half_side", "half"), ("product_us", "start")):
        values = [getattr(each, attribute) for each in fits]
        middle = exp(sum(map(log, values)) / len(values))
        new[name] = None if device.kind == "cpu" else _between(middle, min(values), max(values))
    spread = max(each.spread for each in fits)
    new["product_spread"] = _between(spread, spread, spread)
    if products:
        rates = [each.sizes.flops / each.seconds / 1e9 for each in products]
        new["sgemm_gflops"] = _between(sum(rates) / len(rates), min(rates), max(rates))
    else:
        assert device.peak_gflops is not None
        low, high = (share * device.peak_gflops.value for share in SHARE)
        new["sgemm_gflops"] = _between((low + high) / 2, low, high)
    return replace(device, **new)  # type: ignore[arg-type]


def _between(value: float, low: float, high: float) -> Quantity:
    return Quantity(value, min(low, value), max(high, value), "derived", "fitted to products.csv")
