"""Times training steps on the ranks of a launch: with their sums, and each rank by itself at the same time.

    mpiexec -n N python -m cnn.distributed.steps REQUEST

is what `cnn bench --ranks` starts; REQUEST is JSON. Rank 0 prints MARK and a `Timed` as JSON on a line of its own.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn import registry
from cnn.backend import Backend
from cnn.data.dataset import Split
from cnn.distributed.affinity import allowed_cpus
from cnn.distributed.job import job
from cnn.distributed.launch import speaks
from cnn.distributed.rehearsal import rehearse
from cnn.errors import CnnError
from cnn.measure.benchmark import random_batch
from cnn.model.zoo import architecture
from cnn.optimizers import SGD
from cnn.schedules import Constant
from cnn.shard import Shard, part
from cnn.system.threads import budget, limit_threads
from cnn.system.timing import now, series
from cnn.training.trainer import Callback, Trainer
from cnn.training.world import World

MARK = "cnn steps: "
STEPS = 4
"""Steps in a row that are a round: what one rank is early or late by in one of them is gone in the next."""
RATE = 1e-12
"""A rate that costs as much as any and keeps the weights, and with them the time of every step, as they are."""
LONG, SHORT = 4 << 20, 1
"""Bytes of the messages that bandwidth and latency are measured with."""
TRIALS = 30
"""Times that a message is exchanged, and that its bytes are added up."""


@dataclass(frozen=True)
class Request:
    """What to time: networks, each with the batches that all ranks share; threads of a rank, None for its CPUs."""

    nets: list[str]
    batches: list[int]
    rounds: int
    backend: str
    backend_options: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None


@dataclass(frozen=True)
class TimedSteps:
    """One network and batch: medians over the rounds of means over the ranks, in seconds a step.

    `layers` are what each layer and all before it took since the layer behind it in the backward pass, by name, and
    `update` the update, of ranks that compute their parts at the same time and sum nothing. `seconds` are those of
    whole steps, `communication` those in which sums were under way, `exposed` those of them spent on nothing else.
    """

    net: str
    batch: int
    layers: dict[str, float]
    update: float
    seconds: float
    communication: float
    exposed: float


@dataclass(frozen=True)
class Timed:
    """The steps of a launch, what ran them, and what it takes to send a message and to add up a byte, in seconds.

    latency and byte are of an exchange between the first and the last rank, None where there is one rank only.
    """

    ranks: int
    hosts: int
    threads: int
    library: str
    world: dict[str, str]
    add: float
    latency: float | None
    byte: float | None
    steps: list[TimedSteps]


def main() -> int:
    """Times what is asked for on the command line."""
    try:
        with job() as world:
            timed = _timed(Request(**json.loads(sys.argv[1])), world)
            if world.rank == 0:
                print(MARK + json.dumps(asdict(timed)), flush=True)
    except CnnError as error:
        if speaks():
            print(f"cnn: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _timed(request: Request, world: World) -> Timed:
    backend = registry.create(request.backend, **request.backend_options)
    threads = budget(request.threads, world.local_size).count
    with limit_threads(threads):
        latency, byte = _exchange(world) if world.size > 1 else (None, None)
        steps = [
            _steps(net, batch, backend, world, request.rounds) for net in request.nets for batch in request.batches
        ]
        return Timed(
            ranks=world.size,
            hosts=sum(1 for local in world.gather(world.local_rank) if local == 0),
            threads=threads,
            library=str(backend.library),
            world=world.describe(threads, sorted(allowed_cpus() or ())),
            add=_addition() / LONG,
            latency=latency,
            byte=byte,
            steps=steps,
        )


class _Clock(Callback):
    """The time after each step, and what communication took until then."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float, float]] = []

    def on_batch(self, trainer: Trainer) -> None:
        """Reads the clock."""
        traffic = trainer.world.traffic
        self.marks.append((now(), traffic.seconds, traffic.exposed))


def _steps(net: str, batch: int, backend: Backend, world: World, rounds: int) -> TimedSteps:
    model = architecture(net).build(backend=backend)
    split = Split(*random_batch(model, (1 + STEPS) * batch))
    trainer = Trainer(model, split, optimizer=SGD(0.9), schedule=Constant(RATE), batch_size=batch, world=world)
    rehearse(trainer, [])
    own = np.arange(*part(world.rank, world.size, 0, batch))
    parts, wholes = [], []
    for number in range(1, 2 + rounds):
        world.gather(None)
        marks = [_alone(trainer, own) for _ in range(STEPS)]
        clock = _Clock()
        trainer.run(number, [clock])
        if number > 1:
            parts.append(np.diff(marks).mean(axis=0))
            wholes.append(np.subtract(clock.marks[-1], clock.marks[0]) / STEPS)
    of_layers, of_steps = (np.median(np.mean(world.gather(each), axis=0), axis=0).tolist() for each in (parts, wholes))
    names = [model.network.nodes[place].name for place in model.network.backward_order]
    return TimedSteps(net, batch, dict(zip(names, of_layers[:-1], strict=True)), of_layers[-1], *of_steps)


def _alone(trainer: Trainer, own: npt.NDArray[np.int64]) -> list[float]:
    """The time at the start of a step on `own` images, after each layer's gradients and after the update."""
    model, split = trainer.model, trainer.train
    shard, model.context.shard = model.context.shard, Shard()
    marks = [now()]
    model.train_step(split.images, split.labels, own, after_layer=lambda place: marks.append(now()))
    trainer.optimizer.step(RATE)
    model.context.shard = shard
    return [*marks, now()]


def _exchange(world: Any) -> tuple[float, float]:
    """Seconds of the shortest exchange of messages and of a byte more, between the first and the last rank."""
    times = (0.0, 0.0)
    if world.rank in (0, world.size - 1):
        peer = world.size - 1 - world.rank
        out, back = np.zeros(LONG, np.uint8), np.zeros(LONG, np.uint8)
        exchange = world.communicator.Sendrecv
        # From the peer by name: of a first message from anybody, MPICH over TCP never hears.
        short = partial(exchange, out[:SHORT], peer, recvbuf=back[:SHORT], source=peer)
        long = partial(exchange, out, peer, recvbuf=back, source=peer)
        latency = series(short, TRIALS).median
        times = latency, (series(long, TRIALS).median - latency) / LONG
    found: tuple[float, float] = world.gather(times)[0]
    return found


def _addition() -> float:
    """Seconds to add up LONG bytes."""
    a, b = np.ones(LONG // 4, np.float32), np.ones(LONG // 4, np.float32)
    return series(partial(np.add, a, b, out=b), TRIALS).median


if __name__ == "__main__":
    sys.exit(main())
