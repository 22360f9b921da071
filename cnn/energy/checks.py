"""Checks the model against everything published: with the catalogue as it is, and with each source left out in turn.

Leaving out a source means that its products are not fitted, and that neither the spread nor the share of any software
is taken from its steps. A device that has no other products is then known by its peak, bandwidth and launch alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

from cnn.energy.algorithms import DIRECT, FAST, GEMM, LIBRARIES, Library
from cnn.energy.devices import Device
from cnn.energy.fitting import Fit, Product, fit_law, published_products, refitted
from cnn.energy.interval import Compared, Interval
from cnn.energy.model import predict, product_time
from cnn.energy.published import Published, published, published_cost

PRODUCTS = "products (SGEMM)"
LEAST_SPREAD = {GEMM: 0.08, FAST: 0.2, DIRECT: 0.4}
"""The least spread of each class, and that of one with fewer than two steps: few networks and authors are known, and it
is not known which algorithm a library chose for which layer."""


@dataclass(frozen=True)
class Check(Compared):
    """One published time on the device `key` and what the model says of it, in seconds.

    `kind` is its class: products, or the class of software. `library` is the key of the software of a step, None
    for a product. `watts` are those of the model, known where `measured_watts` were published.
    """

    key: str
    what: str
    software: str
    kind: str
    source: str
    predicted: Interval
    measured: float
    library: str | None = None
    watts: Interval | None = None
    measured_watts: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON values."""
        intervals = {"predicted": self.predicted._asdict(), "watts": self.watts and self.watts._asdict()}
        return vars(self) | intervals | {"error": self.error, "within": self.within}


@dataclass(frozen=True)
class Summary:
    """Checks of one class: how many, their mean |predicted / measured - 1|, and the share within their intervals."""

    kind: str
    number: int
    error: float
    within: float


def checks(devices: Mapping[str, Device], libraries: Mapping[str, Library] = LIBRARIES) -> list[Check]:
    """Every published product and step, predicted with `devices` and `libraries`."""
    return _products(published_products(), devices) + _steps(_rows(), devices, libraries)


def held_out(devices: Mapping[str, Device]) -> list[Check]:
    """Every published product and step, predicted without its own source."""
    products, rows = published_products(), _rows()
    found = []
    for source in dict.fromkeys([each.source for each in products] + [each.source for each in rows]):
        kept, others = (
            [each for each in products if each.source != source],
            [each for each in rows if each.source != source],
        )
        changed = _refitted(devices, kept, {each.device for each in products if each.source == source})
        libraries = fitted_libraries(_steps(others, changed, _exact()))
        found += _products([each for each in products if each.source == source], changed)
        found += _steps([each for each in rows if each.source == source], changed, libraries)
    return found


def summaries(found: Iterable[Check]) -> list[Summary]:
    """One for each class, in the order of the classes."""
    by_kind: dict[str, list[Check]] = {}
    for each in found:
        by_kind.setdefault(each.kind, []).append(each)
    return [_summary(kind, each) for kind, each in by_kind.items()]


def _summary(kind: str, found: Sequence[Check]) -> Summary:
    number = len(found)
    return Summary(
        kind, number, sum(abs(each.error) for each in found) / number, sum(each.within for each in found) / number
    )


def fitted_libraries(steps: Sequence[Check]) -> dict[str, Library]:
    """The libraries, with the spread and the share that `steps` show, which were predicted without either."""
    shares = [log(each.error + 1) for each in steps if each.kind == DIRECT]
    share = exp(sum(shares) / len(shares)) if shares else 1.0
    spreads = {}
    for kind in dict.fromkeys(library.kind for library in LIBRARIES.values()):
        of_kind = [each for each in steps if each.kind == kind]
        # What is left, less what the spread of the products and of the parameters explains.
        left = [log(each.error + 1) ** 2 - _deviation(each.predicted) ** 2 for each in of_kind]
        spreads[kind] = LEAST_SPREAD[kind]
        if len(of_kind) > 1:
            spreads[kind] = max(LEAST_SPREAD[kind], _spread(left))
    return {
        key: library._replace(spread=spreads[library.kind], share=share if library.kind == DIRECT else 1.0)
        for key, library in LIBRARIES.items()
    }


def _spread(squares: Sequence[float]) -> float:
    """The standard deviation whose normal interval of 90 % is that of Student's t for so few `squares`."""
    free = len(squares) - 1
    # Cornish and Fisher's expansion of the quantile (Abramowitz and Stegun 1964, 26.7.5).
    wider = 1 + 0.926 / free + 0.863 / free**2
    return wider * sqrt(max(0.0, sum(squares) / free))


def _deviation(interval: Interval) -> float:
    """The standard deviation of the logarithm, from the middle 90 % of a normal distribution."""
    assert interval.low is not None
    assert interval.high is not None
    return log(interval.high / interval.low) / (2 * 1.645)


def _exact() -> dict[str, Library]:
    return {key: library._replace(spread=0.0, share=1.0) for key, library in LIBRARIES.items()}


def _rows() -> list[Published]:
    return [run for run in published() if run.predictable]


def _products(products: Sequence[Product], devices: Mapping[str, Device]) -> list[Check]:
    found = []
    for each in products:
        draws = product_time(each.sizes, devices[each.device])
        what = f"{'x'.join(map(str, each.sizes))} {each.form}".strip()
        found.append(Check(each.device, what, each.library, PRODUCTS, each.source, Interval.of(draws), each.seconds))
    return found


def _steps(rows: Sequence[Published], devices: Mapping[str, Device], libraries: Mapping[str, Library]) -> list[Check]:
    found = []
    for run in rows:
        assert run.device_key is not None
        assert run.library is not None
        assert run.step_seconds is not None
        library, cost = libraries[run.library], published_cost(run)
        prediction, watts = predict(cost, devices[run.device_key], library=library), run.quantities().get("watts")
        found.append(
            Check(
                run.device_key,
                f"{cost.net} {run.mode}, {run.batch}",
                run.software or "",
                library.kind,
                run.source,
                prediction.seconds,
                run.step_seconds,
                run.library,
                prediction.watts if watts else None,
                watts.value if watts else None,
            )
        )
    return found


def _refitted(devices: Mapping[str, Device], kept: Sequence[Product], keys: set[str]) -> dict[str, Device]:
    """The devices, of which those of `keys` are fitted to the products that are kept."""
    fits: dict[str, Fit] = {}
    for key in {each.device for each in kept} - keys:
        bandwidth = devices[key].stream_gbs
        assert bandwidth is not None
        fits[key] = fit_law([each for each in kept if each.device == key], bandwidth.value * 1e9)
    changed = dict(devices)
    for key in keys:
        changed[key] = refitted(devices[key], [each for each in kept if each.device == key], fits.values())
    return changed
