"""Time, energy and power of a step on a device: a first-order roofline in time and in energy, with intervals.

Time of an operation of W FLOP and Q bytes, in seconds (Williams, Waterman and Patterson 2009; Choi, Dukhan, Liu and
Vuduc, IPDPS 2014, eq. 1): T = launch + max(W / (rate e), Q / bandwidth). `rate` is the best SGEMM measured, `bandwidth`
that of STREAM. A product (M, K) @ (K, N) reaches e = 1 / (1 + half (1/M + 1/N + 1/K)) of the rate: each side loses
half of it at `half`, as vectors do at Hockney's n_1/2; `half` is fitted to SGEMM points. Other operations have e = 1.
Operations follow one another, nothing overlaps.

Energy of a stage, in joules (Choi et al. 2014, eq. 2): E = W eps_flop + Q eps_mem + P_idle T. eps_flop is what a large
product draws above idle over its rate. Where eps_mem is unknown it lies between nothing and all of that power over the
bandwidth. Under a power cap the dynamic part takes at least its energy over (P_cap - P_idle) (eq. 3). No figure is
known for the energy of a byte over PCIe itself; it is charged eps_mem on both sides, and both sides idle meanwhile.

Uncertainty: every parameter is drawn evenly between its bounds, all independently, in DRAWS draws of a fixed seed; an
interval is the middle 90 % of the results, its value that of the best estimates.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cnn.cost import Cost, Operation, Sizes, Stage
from cnn.energy.calibration import Calibration
from cnn.energy.devices import Device, Quantity
from cnn.energy.interval import Interval
from cnn.energy.tasks import tasks, work_of
from cnn.errors import UsageError

DRAWS, SEED = 400, 7

Vector = npt.NDArray[np.float64]


class Thresholds(NamedTuple):
    """MKL's automatic offload sends a product to the card where every side is longer than this."""

    m: int = 2048
    n: int = 2048
    k: int = 256

    def send(self, sizes: Sizes) -> bool:
        """Whether the product goes to the card. Measured with MKL 2018.0.0: 2049, 2049, 257 does, 2048 or 256 not."""
        return sizes.m > self.m and sizes.n > self.n and sizes.k > self.k


class Draws(NamedTuple):
    """All draws of a stage's seconds, and of its joules where they are known; the first is the best estimate."""

    seconds: Vector
    joules: Vector | None


@dataclass(frozen=True)
class StagePrediction:
    """One stage: seconds, joules and watts (None where unknown), and where its products run."""

    stage: Stage
    where: str
    seconds: Interval
    joules: Interval | None
    watts: Interval | None
    draws: Draws = field(repr=False, compare=False)


@dataclass(frozen=True)
class Prediction:
    """A step on a device. `used` are the numbers it rests on; `indicative` says that some are unverified.

    `idle` are draws of the watts when nothing runs, None where unknown.
    """

    device: str
    name: str
    cost: Cost
    threads: int | None
    stages: tuple[StagePrediction, ...]
    seconds: Interval
    images_per_second: Interval
    joules: Interval | None
    watts: Interval | None
    joules_per_image: Interval | None
    images_per_joule: Interval | None
    used: dict[str, Quantity]
    remarks: tuple[str, ...]
    idle: Vector | None = field(repr=False, compare=False)

    @property
    def unverified(self) -> list[str]:
        """Names of the numbers that were never verified."""
        return [name for name, each in self.used.items() if each.confidence == "unverified"]

    @property
    def indicative(self) -> bool:
        """Whether the prediction rests on a number that is unverified."""
        return bool(self.unverified)


def predict(
    cost: Cost,
    device: Device,
    *,
    threads: int | None = None,
    host: Device | None = None,
    offload: Thresholds | None = None,
) -> Prediction:
    """A step on a device of the catalogue: on all of it or on `threads`.

    With a host, its idle power counts too. With `offload`, the step runs on the host, and the products that these
    thresholds send, on the device. Raises UsageError where the device or host lacks a number that time needs.
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
            seconds, dynamic = seconds + time, _sum(dynamic, energy)
        parts.append((stage, device.name if sent else main.device.name, seconds, dynamic))
    idle = card.idle if beside is None else _sum(card.idle, beside.idle)
    remarks = tuple(card.remarks)
    if beside is not None:
        remarks = tuple(f"{each.device.name}: {remark}" for each in (card, beside) for remark in each.remarks)
    if any(where != main.device.name for _, where, _, _ in parts):
        remarks += ("the energy of PCIe itself is unknown and not counted",)
    used = {f"{device.key}.{name}": each for name, each in card.used.items()}
    if beside is not None:
        used |= {f"{beside.device.key}.{name}": each for name, each in beside.used.items()}
    name = f"{device.name} offloaded to by {host.name}" if host and offload else device.name
    return _prediction(device.key, name, cost, threads, parts, idle, used, remarks)


def draws_of(quantity: Quantity, rng: np.random.Generator) -> Vector:
    """The value, then numbers drawn evenly between the bounds."""
    return np.concatenate([[quantity.value], rng.uniform(quantity.low, quantity.high, DRAWS)])


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
            self.remarks.append("what starting an operation takes is unknown and not counted")
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
        """The share of the rate that so many threads have, and of the bandwidth: from that share to all of it."""
        if threads is None:
            return 1.0, np.ones(1 + DRAWS)
        if self.device.cores is None:
            raise UsageError(f"How {self.device.name} does with {threads} threads is unknown, as its cores are.")
        self.used["cores"] = self.device.cores
        needed = self.device.cores.value
        if self.device.threads_per_core is not None:
            self.used["threads_per_core"] = self.device.threads_per_core
            needed *= self.device.threads_per_core.value
        share = min(1.0, threads / needed)
        return share, self._between((share + 1) / 2, share, 1.0)

    def _set_power(self, rate: Vector, bandwidth: Vector) -> None:
        """Joules a FLOP and a byte, watts idle and most watts, or None with a remark where no watts are known."""
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
            seconds, dynamic = seconds + time + self.launch, _sum(dynamic, energy)
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
    copies = _sum(host.spent(0, there + back), card.spent(0, there + back))
    return seconds + moved, _sum(dynamic, copies)


def _sum(a: Vector | None, b: Vector | None) -> Vector | None:
    """a + b, unknown where either is."""
    return None if a is None or b is None else a + b


def predict_calibrated(cost: Cost, calibration: Calibration) -> Prediction:
    """A step on this machine as it was calibrated: each task by the law of its kind, with the law's own deviation.

    A kind without a law runs at the triad's bandwidth. The stages of a task share its time by their work.
    """
    rng = np.random.default_rng(SEED)
    normal: dict[str, Vector] = {}
    power = None
    if calibration.idle_watts is not None and calibration.busy_watts is not None:
        power = (calibration.idle_watts, calibration.busy_watts)
    uncalibrated, seconds = set[str](), {stage: np.zeros(1 + DRAWS) for stage in cost.stages}
    for task in tasks(cost):
        law = calibration.laws.get(task.law)
        if law is None:
            uncalibrated.add(task.law)
            for stage in task.stages:
                moved = stage.bytes / calibration.triad_rate
                seconds[stage] = seconds[stage] + calibration.call_seconds * len(stage.operations) + moved
            continue
        # One deviation for all tasks of a law: much of what is wrong in it is wrong for all.
        z = normal.setdefault(task.law, np.concatenate([[0.0], rng.standard_normal(DRAWS)]))
        time, deviation = law.seconds(task.sizes, task.work)
        drawn = time * np.exp(deviation * z)
        for stage in task.stages:
            seconds[stage] = seconds[stage] + drawn * (work_of(stage) / sum(map(work_of, task.stages)))
    parts = []
    for stage in cost.stages:
        dynamic = None
        if power is not None:
            # Direct and Winograd convolution do other FLOP than those counted: no more than busy is drawn.
            busy = max(stage.flops / calibration.sgemm_rate, stage.bytes / calibration.triad_rate)
            dynamic = (power[1] - power[0]) * np.minimum(busy, seconds[stage])
        parts.append((stage, calibration.backend, seconds[stage], dynamic))
    idle = None if power is None else np.full(1 + DRAWS, power[0])
    source = f"cnn calibrate, {calibration.backend} at {calibration.threads}, {calibration.date}, {calibration.cpu}"
    numbers = {
        "sgemm_gflops": calibration.sgemm_rate / 1e9,
        "stream_gbs": calibration.triad_rate / 1e9,
        "half_side": calibration.half,
        "call_us": calibration.call_seconds * 1e6,
    }
    used = {f"this machine.{name}": Quantity.of(number, "measured", source) for name, number in numbers.items()}
    remarks: tuple[str, ...] = ()
    if uncalibrated:
        remarks = (f"not calibrated, taken at the triad's rate: {', '.join(sorted(uncalibrated))}",)
    name = f"{calibration.cpu}, {calibration.backend}"
    if power is None:
        remarks += ("no energy, as the machine's watts are unknown; give them to cnn calibrate",)
    return _prediction("this machine", name, cost, calibration.threads, parts, idle, used, remarks)


def _prediction(
    key: str,
    name: str,
    cost: Cost,
    threads: int | None,
    parts: list[tuple[Stage, str, Vector, Vector | None]],
    idle: Vector | None,
    used: dict[str, Quantity],
    remarks: tuple[str, ...],
) -> Prediction:
    """Intervals of the stages and of their sums."""
    stages = []
    total, energy = np.zeros(1 + DRAWS), None if idle is None else np.zeros(1 + DRAWS)
    for stage, where, seconds, dynamic in parts:
        joules = None if idle is None else _sum(dynamic, idle * seconds)
        total, energy = total + seconds, _sum(energy, joules)
        known = joules is not None and bool(seconds[0])
        stages.append(
            StagePrediction(
                stage,
                where,
                Interval.of(seconds),
                None if joules is None else Interval.of(joules),
                Interval.of(joules / seconds) if known and joules is not None else None,
                Draws(seconds, joules),
            )
        )
    return Prediction(
        device=key,
        name=name,
        cost=cost,
        threads=threads,
        stages=tuple(stages),
        seconds=Interval.of(total),
        images_per_second=Interval.of(cost.batch / total),
        joules=None if energy is None else Interval.of(energy),
        watts=None if energy is None else Interval.of(energy / total),
        joules_per_image=None if energy is None else Interval.of(energy / cost.batch),
        images_per_joule=None if energy is None else Interval.of(cost.batch / energy),
        used=used,
        remarks=remarks,
        idle=idle,
    )
