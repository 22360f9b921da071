"""Time, energy and power of a step on a device: a first-order roofline in time and in energy, with intervals.

Time of an operation of W FLOP and Q bytes, in seconds (Williams, Waterman and Patterson 2009; Choi, Dukhan, Liu and
Vuduc, IPDPS 2014, eq. 1): T = launch + max(W / (rate e), Q / bandwidth). `rate` is the best SGEMM measured, `bandwidth`
is STREAM's. A product (M, K) @ (K, N) reaches e = 1 / (1 + half (1/M + 1/N + 1/K)) of the rate: each side loses
half of it at `half`, as vectors do at Hockney's n_1/2; `half` is fitted to SGEMM points. Other operations have e = 1.
Operations run one after the other; nothing overlaps.

Energy of a stage, in joules (Choi et al. 2014, eq. 2): E = W eps_flop + Q eps_mem + P_idle T. eps_flop is what a large
product draws above idle over its rate. Where eps_mem is unknown, it lies between 0 and all of that power over the
bandwidth. Under a power cap the dynamic part takes at least its energy over (P_cap - P_idle) (eq. 3). No figure is
known for the energy of a byte over PCIe itself; it is charged eps_mem on both sides, and both sides idle meanwhile.

Uncertainty: every parameter is drawn evenly between its bounds.
"""

from typing import NamedTuple

import numpy as np

from cnn.arithmetic import Operation, Sizes
from cnn.cost import Cost
from cnn.energy.devices import Device, Quantity
from cnn.energy.prediction import DRAWS, SEED, Prediction, Vector, added, draws_of, predicted
from cnn.errors import UsageError


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
) -> Prediction:
    """A step on a device of the catalogue: on all of it or on `threads`.

    With a host, its idle power counts too. With `offload`, the step runs on the host, and those of its products that
    exceed the thresholds run on the device. Raises UsageError if device or host lacks a number that the time needs.
    """
    card = _Parameters(device, None if offload else threads)
    if offload is not None:
        if host is None:
            raise UsageError("Offload needs a host that the step runs on; name one.")
        missing = device.missing("pcie_latency_us", "pcie_gbs")
        if missing:
            raise UsageError(f"Nothing can be offloaded to {device.name}: {', '.join(missing)} unknown.")
    beside = None if host is None else _Parameters(host, threads if offload else None)
    main = beside if offload and beside else card
    parts = []
    for stage in cost.stages:
        sent = [each for each in stage.operations if offload and each.sizes and offload.send(each.sizes)]
        kept = [each for each in stage.operations if each not in sent]
        seconds, dynamic = main.run(kept)
        for operation in sent:
            time, energy = _sent(operation, main, card)
            seconds, dynamic = seconds + time, added(dynamic, energy)
        parts.append((stage, device.name if sent else main.device.name, seconds, dynamic))
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


class _Parameters:
    """Draws of a device's parameters in SI units, and how long operations take with them."""

    def __init__(self, device: Device, threads: int | None) -> None:
        missing = device.missing("sgemm_gflops", "stream_gbs", "half_side")
        if missing:
            raise UsageError(
                f"No time can be predicted for {device.name}: {', '.join(missing)} unknown; "
                "add the numbers in a TOML file of your own (--devices)."
            )
        self.device, self.used, self.remarks = device, dict[str, Quantity](), list[str]()
        self._rng = np.random.default_rng([SEED, sum(device.key.encode())])
        share, spread = self._share(threads)
        rate, bandwidth = self._draw("sgemm_gflops") * 1e9, self._draw("stream_gbs") * 1e9
        self.rate, self.bandwidth = rate * share, bandwidth * spread
        self.half = self._draw("half_side")
        self.launch = self._draw("launch_us") * 1e-6 if device.launch_us else np.zeros(1 + DRAWS)
        if not device.launch_us:
            self.remarks.append("the time to start an operation is unknown and not counted")
        self.latency = self._draw("pcie_latency_us") * 1e-6 if device.pcie_latency_us else None
        self.link = self._draw("pcie_gbs") * 1e9 if device.pcie_gbs else None
        self._set_power(rate, bandwidth)

    def _draw(self, name: str) -> Vector:
        quantity: Quantity = getattr(self.device, name)
        self.used[name] = quantity
        return draws_of(quantity, self._rng)

    def _between(self, value: float, low: float | Vector, high: float) -> Vector:
        return np.concatenate([[value], self._rng.uniform(low, high, DRAWS)])

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
        return share, self._between((share + 1) / 2, share, 1.0)

    def _set_power(self, rate: Vector, bandwidth: Vector) -> None:
        """Joules per FLOP and per byte, idle and maximum watts; `idle` is None, with a remark, if watts are unknown."""
        self.idle: Vector | None = None
        device = self.device
        missing = device.missing("idle_watts", "busy_watts")
        if missing:
            self.remarks.append(f"no energy, as {' and '.join(missing)} are unknown")
            return
        self.idle = self._draw("idle_watts")
        above = np.maximum(self._draw("busy_watts") - self.idle, 0)
        self.flop = above / (self._draw("busy_gflops") * 1e9 if device.busy_gflops else rate)
        if device.memory_pj_per_byte is not None:
            self.byte = self._draw("memory_pj_per_byte") * 1e-12
        else:
            self.byte = self._between(0.5, 0.0, 1.0) * above / bandwidth
        self.room = np.full(1 + DRAWS, np.inf)
        if device.cap_watts is not None:
            self.room = np.maximum(self._draw("cap_watts") - self.idle, 1e-3)
        if device.covers != "the device alone":
            self.remarks.append(f"watts of {device.covers}")

    def run(self, operations: list[Operation]) -> tuple[Vector, Vector | None]:
        """Seconds, and joules above idle, of operations one after the other."""
        seconds, dynamic = np.zeros(1 + DRAWS), self.spent(0, 0)
        for operation in operations:
            lost = sum(1 / side for side in operation.sizes) if operation.sizes else 0.0
            products = operation.flops / self.rate * (1 + self.half * lost)
            time = np.maximum(products, operation.bytes / self.bandwidth)
            energy = self.spent(operation.flops, operation.bytes)
            if energy is not None:
                time = np.maximum(time, energy / self.room)
            seconds, dynamic = seconds + time + self.launch, added(dynamic, energy)
        return seconds, dynamic

    def spent(self, flops: int, moved: int) -> Vector | None:
        """Joules above idle."""
        return None if self.idle is None else flops * self.flop + moved * self.byte


def _sent(operation: Operation, host: _Parameters, card: _Parameters) -> tuple[Vector, Vector | None]:
    """Seconds and dynamic joules of a product on the card, its operands sent there and its result sent back."""
    assert operation.sizes is not None
    assert card.latency is not None
    assert card.link is not None
    there, back = operation.sizes.operands
    seconds, dynamic = card.run([operation])
    moved = 2 * card.latency + (there + back) / card.link
    copies = added(host.spent(0, there + back), card.spent(0, there + back))
    return seconds + moved, added(dynamic, copies)
