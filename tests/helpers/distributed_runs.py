"""Programs that the tests of distributed training run under mpiexec, or in one process for comparison."""

import json
import os
import signal
import sys
import zlib
from pathlib import Path

import numpy as np

from cnn.cli import main
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Split
from cnn.distributed.job import job
from cnn.distributed.launch import speaks
from cnn.errors import CnnError
from cnn.layers import AvgPool2D, BatchNorm, Branches, Conv2D, Dropout, Flatten, Linear, MaxPool2D
from cnn.model.sequential import Sequential
from cnn.optimizers import EMA, SGD, Lookahead
from cnn.precision import within
from cnn.schedules import Step, Triangular
from cnn.training.trainer import Callback, Trainer

IMAGES, BATCH, HELD, EPOCHS = 50, 16, 100, 2
"""Batches of 16, 16, 16 and 2: uneven parts for three ranks; with three or more, some have no image of the last."""


def split(count, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, count))


def trainer(world, backend="numpy", *, plain=False, branched=False, **settings):
    """A run with all layers that use random numbers or the whole batch, or a `plain` one without them."""
    mixing = [] if plain else [BatchNorm(), Dropout(0.25)]
    pooling = Branches([MaxPool2D(2)], [AvgPool2D(2)]) if branched else MaxPool2D(2)
    layers = [Conv2D(4, 3, activation="relu"), *mixing, pooling, Flatten(), Linear(3)]
    model = Sequential(layers, (8, 8, 1), backend=backend, seed=3)
    defaults = {
        "validation": split(HELD, seed=1),
        "optimizer": SGD(0.9, 5e-4),
        "schedule": Step(0.02, 6),
        "batch_size": BATCH,
        "augmentation": Augmentation(True, 1),
    }
    return Trainer(model, split(IMAGES), world=world, **(defaults | settings))


def checksum(run):
    state = [array for _, array in sorted(run.model.state().items())]
    return zlib.crc32(b"".join(array.tobytes() for array in state))


def outcome(world, run, epochs=EPOCHS, callbacks=()):
    """The numbers of a run, its final weights, and their checksum on every rank."""
    results = run.run(epochs, callbacks)
    curve = [[r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy] for r in results]
    weights = np.concatenate([array.ravel() for _, array in sorted(run.model.state().items())])
    return {"curve": curve, "weights": weights.tolist(), "checksums": world.gather(checksum(run))}


def seen(world):
    """The images that each rank trained on in an epoch."""
    run, own = trainer(world), []
    step = run.model.train_step

    def record(images, labels, order, changes, *, weight, **others):
        own.extend(order.tolist() if weight else [])
        return step(images, labels, order, changes, weight=weight, **others)

    run.model.train_step = record
    run.run(1)
    return world.gather(own)


class Nudge(Callback):
    """Changes a weight of one rank by one bit after each batch, as another kind of processor would."""

    def on_batch(self, trainer):
        if trainer.world.rank == trainer.world.size - 1:
            trainer.model.parameters[0].value[0, 0, 0, 0] *= 1 + 2**-23


def numbers(world, backends):
    """Everything that must be the same on any number of ranks, by name."""
    found = {backend: outcome(world, trainer(world, backend)) for backend in backends}
    found["branches"] = outcome(world, trainer(world, backends[-1], branched=True))
    found["accumulated"] = outcome(world, trainer(world, accumulate=3))
    found["averaged each step"] = outcome(world, trainer(world, plain=True, average_every=1))
    found["plain"] = outcome(world, trainer(world, plain=True))
    with within("bfloat16"):
        found["in bfloat16"] = outcome(world, trainer(world, backends[-1]))
    return found | exactly(world)


def exactly(world):
    """Runs with all that is drawn or kept beside the weights, in float64: roundings hide no other draw."""
    everything = Augmentation(True, 1, 0.5, "reflect", True, cutout=2, rotate=9, brightness=0.2, contrast=0.2)
    found = {}
    with within("float64"):
        rich = {"augmentation": everything, "mixup": 0.4, "clip_norm": 0.5}
        schedule = Triangular(0.05, 0.23, 0.2, 0.07)
        run = trainer(world, slow_weights=Lookahead(3, 0.8, 3.0), schedule=schedule, accumulate=2, **rich)
        found["rich, float64"] = outcome(world, run, 1.6)
        reflected = Augmentation(True, 1, border="reflect", alternate=True)
        run = trainer(world, slow_weights=EMA(0.9), augmentation=reflected)
        found["reflected, float64"] = outcome(world, run)
    return found


def others(world):
    """What depends on the number of ranks."""
    run = trainer(world)
    traffic = world.traffic.bytes
    found = {"nudged": outcome(world, run, callbacks=[Nudge()])}
    found["traffic"] = [world.traffic.bytes - traffic, world.traffic.seconds, world.traffic.exposed]
    found["gradient bytes"] = sum(group.gradient.nbytes for group in run.model.groups)
    found["averaged"] = outcome(world, trainer(world, average_every=3))
    found["seen"] = seen(world)
    found["cpus"] = world.gather(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [])
    return found


class Fault(Callback):
    """Causes the fault of its name on one rank after a step."""

    def __init__(self, name, rank, step):
        self.name, self.rank, self.step = name, rank, step

    def on_batch(self, trainer):
        if (trainer.world.rank, trainer.position.step) != (self.rank, self.step):
            return
        if self.name == "exception":
            raise RuntimeError("a planted error")
        if self.name == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.name == "stop":
            trainer.request_stop("a test")
        if self.name in ("nan", "infinity"):
            trainer.model.parameters[0].value.fill(float(self.name))


def train(world, checkpoint, fault):
    """Trains, from the checkpoint if there is one; rank 1 has the fault after step 5.

    It saves at every step, which checks the weights. With "nan" it saves less often, so that the loss is NaN first.
    """
    run = trainer(world, checkpoint=checkpoint, checkpoint_every=2 if fault == "nan" else 1)
    if world.from_first(Path(checkpoint).exists):
        run.resume()
    return {"from": run.position.step, **outcome(world, run, callbacks=[Fault(fault, 1, 5)])}


def program(command, *arguments):
    """Prints the result of a command on all ranks, or the error, as `cnn` does; with `leave`, rank 1 ends alone."""
    try:
        with job() as world:
            if command == "leave" and world.rank:
                sys.exit(3)
            if command == "leave":
                world.gather(None)
            found = numbers(world, arguments) | others(world) if command == "numbers" else train(world, *arguments)
            if world.rank == 0:
                print(json.dumps(found))
    except CnnError as error:
        if speaks():
            print(f"cnn: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    if sys.argv[1] == "cnn":
        sys.exit(main(sys.argv[2:]))
    program(*sys.argv[1:])
