"""Time and energy of a step on a device: a first-order roofline in time and in energy, with intervals.

Time of an operation of W FLOP and Q bytes, in seconds (Williams, Waterman and Patterson 2009; Choi, Dukhan, Liu and
Vuduc, IPDPS 2014, eq. 1): T = start + max(W / (rate e), Q / bandwidth). `bandwidth` is STREAM's. A product
(M, K) @ (K, N) reaches e = 1 / (1 + half (1/M + 1/N + 1/K)) of the rate: each side loses half of it at `half`, as
vectors do at Hockney's n_1/2. A side shorter than NARROW loses no more than one of NARROW: there BLAS multiplies
vectors and is bound by memory. Other operations have e = 1. `start` is the time of the smallest product, or of the
smallest pass. Rate, half and start of products are fitted together to all published products (`cnn.energy.fitting`).
What is multiplied and moved depends on the software (`cnn.energy.algorithms`). Operations run one after the other.

Energy of a stage, in joules: E = P_idle T + (P_busy - P_idle) (T_products + u T_passes + v T_starts). A device draws
what it draws in large products as long as it multiplies, whatever part of its rate it reaches: narrow products keep it
as busy as wide ones. How much of that it draws while it only moves data (u) or starts (v) is not known: u lies between
1/2 and 1, v between 0 and 1. The rates were measured under the device's power cap, so that it stretches no time; it
bounds the watts. The energy of PCIe itself is not known and not counted; both sides draw what a pass draws meanwhile.

Uncertainty: every parameter is drawn evenly between its bounds, every product is off by a factor of its own, drawn with
the standard deviation that the published products have about the law, and the whole step by one of its software.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnn.arithmetic import Sizes
from cnn.cost import Cost, Stage
from cnn.energy.algorithms import LIBRARIES, Library, Run, executed
from cnn.energy.devices import EXAMPLE, HALF_SIDE, PRODUCT_SPREAD, Device, Quantity
from cnn.energy.prediction import DRAWS, SEED, Prediction, Vector, added, draws_of, predicted
from cnn.errors import UsageError
from cnn.words import unknown

NARROW = 8
"""The side of a product below which no more of the rate is lost."""
MOVING, STARTING = (0.5, 1.0), (0.0, 1.0)
"""Between what shares of the busy power a device draws while it moves data, and while an operation starts."""


class Thresholds(NamedTuple):
    """MKL's automatic offload sends a product to the card where every side is longer than this."""

    m: int = 2048
    n: int = 2048
    k: int = 256

    def send(self, sizes: Sizes) -> bool:
        """Whether the product goes to the card. Measured with MKL 2018.0.0: 2049, 2049, 257 does, 2048 or 256 not."""
        return sizes.m > self.m and sizes.n > self.n and sizes.k > self.k


def predict(
    cost: Cost,
    device: Device,
    *,
    threads: int | None = None,
    host: Device | None = None,
    offload: Thresholds | None = None,
    library: str | Library = "im2col",
) -> Prediction:
    """A step on a device of the catalogue: on all of it or on `threads`, computed as `library` does.

    With a host, its idle power counts too. With `offload`, the step runs on the host, and those of its products that
    exceed the thresholds run on the device. Raises UsageError if device or host lacks a number that the time needs.
    """
    software = library if isinstance(library, Library) else library_named(library)
    card = _Parameters(device, None if offload else threads)
    if offload is not None:
        if host is None:
            raise UsageError("Offload needs a host that the step runs on; name one.")
        if software is not LIBRARIES["im2col"]:
            raise UsageError("Offload is predicted for im2col + GEMM only, as MKL offloads products.")
        missing = device.missing("pcie_latency_us", "pcie_gbs")
        if missing:
            raise UsageError(f"Nothing can be offloaded to {device.name}: {', '.join(missing)} unknown.")
    beside = None if host is None else _Parameters(host, threads if offload else None)
    main = beside if offload and beside else card
    parts = []
    for stage in cost.stages:
        sent, choices = [], executed(stage, cost.batch, software)
        if offload:
            sent = [each for each in choices[0] if each.sizes and offload.send(each.sizes)]
            choices = [[each for each in choices[0] if each not in sent]]
        seconds, dynamic = main.fastest(choices)
        for run in sent:
            time, energy = _sent(run, main, card)
            seconds, dynamic = seconds + time, added(dynamic, energy)
        parts.append((stage, device.name if sent else main.device.name, seconds, dynamic))
    parts = _off(parts, software.spread, main.device.key)
    idle = card.idle if beside is None else added(card.idle, beside.idle)
    remarks = tuple(card.remarks)
    if beside is not None:
        remarks = tuple(f"{each.device.name}: {remark}" for each in (card, beside) for remark in each.remarks)
    if any(where != main.device.name for _, where, _, _ in parts):
        remarks += ("the energy of PCIe itself is unknown and not counted",)
    used = {f"{device.key}.{name}": each for name, each in card.used.items()}
    if beside is not None:
        used |= {f"{beside.device.key}.{name}": each for name, each in beside.used.items()}
    name = f"{device.name} offloaded to by {host.name}" if host and offload else device.name
    return predicted(device.key, name, cost, threads, parts, idle, used, remarks)


def product_time(sizes: Sizes, device: Device) -> Vector:
    """Draws of the seconds of one product on a device, the best estimate first. Raises UsageError as `predict` does."""
    seconds, _ = _Parameters(device, None).run([Run(sizes.flops, sum(sizes.operands), sizes)])
    return seconds


def library_named(name: str) -> Library:
    """The software called `name`. Raises UsageError if there is none."""
    if name not in LIBRARIES:
        raise unknown("There is no algorithm", name, LIBRARIES)
    return LIBRARIES[name]


Part = tuple[Stage, str, Vector, Vector | None]


def _off(parts: list[Part], spread: float, key: str) -> list[Part]:
    """Parts with one factor for all: what the model leaves out of a step is common to its layers."""
    rng = np.random.default_rng([SEED, 2, sum(key.encode())])
    factor = np.exp(spread * np.concatenate([[0.0], rng.standard_normal(DRAWS)]))
    return [
        (stage, where, seconds * factor, None if dynamic is None else dynamic * factor)
        for stage, where, seconds, dynamic in parts
    ]


class _Parameters:
    """Draws of a device's parameters in SI units, and how long operations take with them."""

    def __init__(self, device: Device, threads: int | None) -> None:
        missing = device.missing("sgemm_gflops", "stream_gbs")
        if missing:
            raise UsageError(
                f"No time can be predicted for {device.name}: {', '.join(missing)} unknown; "
                f"add the numbers in a TOML file of your own (--devices), for example {EXAMPLE}."
            )
        self.device, self.used, self.remarks = device, dict[str, Quantity](), list[str]()
        self._rng = np.random.default_rng([SEED, sum(device.key.encode())])
        self._factors: dict[Sizes, Vector] = {}
        share, spread = self._share(threads)
        self.rate = self._draw("sgemm_gflops") * 1e9 * share
        self.bandwidth = self._draw("stream_gbs") * 1e9 * spread
        self.half = self._draw("half_side", HALF_SIDE[device.kind])
        self.off = self._draw("product_spread", PRODUCT_SPREAD)[0]
        known = device.launch_us or device.product_us
        self.launch = self._draw("launch_us") * 1e-6 if device.launch_us else np.zeros(1 + DRAWS)
        self.start = self._draw("product_us") * 1e-6 if device.product_us else self.launch
        if not known:
            self.remarks.append("the time to start an operation is unknown and not counted")
        self.latency = self._draw("pcie_latency_us") * 1e-6 if device.pcie_latency_us else None
        self.link = self._draw("pcie_gbs") * 1e9 if device.pcie_gbs else None
        self._set_power()

    def _draw(self, name: str, default: Quantity | None = None) -> Vector:
        quantity = getattr(self.device, name) or default
        assert quantity is not None
        self.used[name] = quantity
        return draws_of(quantity, self._rng)

    def _between(self, low: float, high: float) -> Vector:
        return np.concatenate([[(low + high) / 2], self._rng.uniform(low, high, DRAWS)])

    def _share(self, threads: int | None) -> tuple[float, Vector]:
        """The share of the rate that `threads` have, and of the bandwidth: between the same share and all of it."""
        if threads is None:
            return 1.0, np.ones(1 + DRAWS)
        if self.device.cores is None:
            raise UsageError(
                f"The speed of {self.device.name} with {threads} threads is unknown: its number of cores is not known."
            )
        self.used["cores"] = self.device.cores
        needed = self.device.cores.value
        if self.device.threads_per_core is not None:
            self.used["threads_per_core"] = self.device.threads_per_core
            needed *= self.device.threads_per_core.value
        share = min(1.0, threads / needed)
        return share, self._between(share, 1.0)

    def _set_power(self) -> None:
        """Watts when idle and above that when busy; `idle` is None, with a remark, if they are unknown."""
        self.idle: Vector | None = None
        device = self.device
        missing = device.missing("idle_watts", "busy_watts")
        if missing:
            self.remarks.append(f"no energy, as {' and '.join(missing)} are unknown")
            return
        self.idle, busy = self._draw("idle_watts"), self._draw("busy_watts")
        if device.cap_watts is not None:
            self.idle = np.minimum(self.idle, self._draw("cap_watts"))
            busy = np.minimum(busy, device.cap_watts.value)
        self.above = np.maximum(busy - self.idle, 0)
        self.moving, self.starting = self._between(*MOVING), self._between(*STARTING)
        if device.covers != "the device alone":
            self.remarks.append(f"watts of {device.covers}")

    def fastest(self, choices: Sequence[list[Run]]) -> tuple[Vector, Vector | None]:
        """Seconds, and joules above idle, of the runs that take least by the best estimates."""
        return min((self.run(each) for each in choices), key=lambda found: float(found[0][0]))

    def run(self, runs: list[Run]) -> tuple[Vector, Vector | None]:
        """Seconds, and joules above idle, of operations one after the other."""
        multiplied, moved, started = np.zeros(1 + DRAWS), np.zeros(1 + DRAWS), np.zeros(1 + DRAWS)
        for each in runs:
            passed = each.bytes / self.bandwidth
            if each.sizes is None:
                moved = moved + each.times * np.maximum(each.flops / self.rate, passed)
                started = started + each.times * self.launch
                continue
            lost = sum(1 / max(side, NARROW) for side in each.sizes)
            products = each.flops / (each.share * self.rate) * (1 + self.half * lost)
            factor = self._factor(each.sizes) * each.times
            multiplied = multiplied + factor * np.maximum(products, passed)
            started = started + factor * self.start
        seconds = multiplied + moved + started
        if self.idle is None:
            return seconds, None
        return seconds, self.above * (multiplied + self.moving * moved + self.starting * started)

    def _factor(self, sizes: Sizes) -> Vector:
        """By how much products of these sizes are off, the same wherever they occur."""
        if sizes not in self._factors:
            z = np.random.default_rng([SEED, sum(self.device.key.encode()), *sizes]).standard_normal(DRAWS)
            self._factors[sizes] = np.exp(self.off * np.concatenate([[0.0], z]))
        return self._factors[sizes]

    def copied(self, moved: float) -> Vector | None:
        """Joules above idle of a copy from or to memory."""
        return None if self.idle is None else self.above * self.moving * moved / self.bandwidth


def _sent(run: Run, host: _Parameters, card: _Parameters) -> tuple[Vector, Vector | None]:
    """Seconds and dynamic joules of a product on the card, its operands sent there and its result sent back."""
    assert run.sizes is not None
    assert card.latency is not None
    assert card.link is not None
    there, back = run.sizes.operands
    seconds, dynamic = card.run([run])
    moved = 2 * card.latency + (there + back) / card.link
    copies = added(host.copied(there + back), card.copied(there + back))
    return seconds + moved, added(dynamic, copies)
