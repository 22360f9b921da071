"""Times training steps on the ranks of a launch: with their sums, and without sums on all ranks at the same time.

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
from cnn.distributed.job import job
from cnn.distributed.launch import speaks
from cnn.errors import CnnError
from cnn.measure.benchmark import random_batch
from cnn.model.modelfile import architecture_of
from cnn.optimizers import SGD
from cnn.schedules import Constant
from cnn.shard import Shard, part
from cnn.system.affinity import allowed_cpus
from cnn.system.threads import budget, limit_threads
from cnn.system.timing import now, series
from cnn.training.trainer import Callback, Trainer
from cnn.training.world import World

MARK = "cnn steps: "
STEPS = 4
"""Consecutive steps per round: if a rank is early or late in one of them, this evens out in the next."""
RATE = 1e-12
"""A learning rate that costs as much as any, but keeps the weights, and so the time of a step, the same."""
LONG, SHORT = 4 << 20, 1
"""Bytes of the messages that measure bandwidth and latency."""
TRIALS = 30
"""How many times a message is exchanged, and its bytes are added up."""


@dataclass(frozen=True)
class Request:
    """What to time: networks, each with the batches that all ranks share; threads per rank, None for all its CPUs."""

    nets: list[str]
    batches: list[int]
    rounds: int
    backend: str
    backend_options: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None


@dataclass(frozen=True)
class TimedSteps:
    """One network and batch: medians over the rounds of means over the ranks, in seconds per step.

    `layers` and `update` are from ranks that compute their parts at the same time without sums. `layers` has, by name,
    the time from the gradients of one layer to those of the next in the backward pass; the first entry also includes
    the forward pass. `update` is the time of the update. `seconds` is the time of a whole step, `communication` the
    part during which sums were in progress, `exposed` the part of that not hidden by computing. `rounds` are the
    seconds per step of each round.
    """

    net: str
    batch: int
    layers: dict[str, float]
    update: float
    seconds: float
    communication: float
    exposed: float
    rounds: list[float]


@dataclass(frozen=True)
class Timed:
    """The timed steps of a launch and what ran them, with the cost of messages and additions in seconds.

    `add` is the time to add up one byte. `latency` and `byte` are the time of an exchange between the first and the
    last rank and of each byte in it; None if there is only one rank.
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
    """Times what the command line requests."""
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
            _steps(name, batch, backend, world, request.rounds) for name in request.nets for batch in request.batches
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
    """Records the time after each step, and the communication so far."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float, float]] = []

    def on_batch(self, trainer: Trainer) -> None:
        """Reads the clock."""
        traffic = trainer.world.traffic
        self.marks.append((now(), traffic.seconds, traffic.exposed))


def _steps(network: str, batch: int, backend: Backend, world: World, rounds: int) -> TimedSteps:
    model = architecture_of(network).build(backend=backend)
    split = Split(*random_batch(model, (1 + STEPS) * batch))
    trainer = Trainer(model, split, optimizer=SGD(0.9), schedule=Constant(RATE), batch_size=batch, world=world)
    trainer.rehearse()
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
    of_layers, of_steps = (np.mean(world.gather(each), axis=0) for each in (parts, wholes))
    names = [model.network.nodes[place].name for place in model.network.backward_order]
    *layers, update = np.median(of_layers, axis=0).tolist()
    seconds, communication, exposed = np.median(of_steps, axis=0).tolist()
    by_name = dict(zip(names, layers, strict=True))
    return TimedSteps(network, batch, by_name, update, seconds, communication, exposed, of_steps[:, 0].tolist())


def _alone(trainer: Trainer, own: npt.NDArray[np.int64]) -> list[float]:
    """Times at the start of a step on the images `own`, after each layer's gradients and after the update."""
    model, split = trainer.model, trainer.train
    shard, model.context.shard = model.context.shard, Shard()
    marks = [now()]
    model.train_step(split.images, split.labels, own, after_layer=lambda place: marks.append(now()))
    trainer.optimizer.step(RATE)
    model.context.shard = shard
    return [*marks, now()]


def _exchange(world: Any) -> tuple[float, float]:
    """Seconds of the shortest exchange of messages and of each further byte, between the first and the last rank."""
    times = (0.0, 0.0)
    if world.rank in (0, world.size - 1):
        peer = world.size - 1 - world.rank
        out, back = np.zeros(LONG, np.uint8), np.zeros(LONG, np.uint8)
        exchange = world.communicator.Sendrecv
        # The source must be given: MPICH over TCP never receives a first message from an unspecified source.
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
