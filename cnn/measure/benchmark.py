"""The jobs that `cnn bench`, `cnn tune` and the files in bench/ time: layers, training steps and predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import numpy.typing as npt

from cnn.arrays import Buffers
from cnn.backend import Backend
from cnn.cost import count, layer_stages
from cnn.model.architecture import Architecture
from cnn.model.passes import SETTLED
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD
from cnn.precision import BFLOAT16, FLOAT32, dtype_of, shortened
from cnn.system.timing import Times, in_turns

STEP = "training step"
"""How the name of the job of a whole training step ends."""
STEADY, BUSY = 0.8, 0.1
"""A machine is busy if one run in twenty is below STEADY of the median rate, or other work takes more than BUSY."""


@dataclass(frozen=True)
class Job:
    """Something to time: what it is, the backend it runs on, the FLOP of its products and the images per run."""

    group: str
    backend: str
    run: Callable[[], object]
    flops: int
    images: int


def layer_jobs(architecture: Architecture, backend: Backend, batch: int) -> Iterator[Job]:
    """Every layer of the network forward and backward, each fed the output of the layers before it on random images."""
    model = architecture.build(backend=backend)
    rng = np.random.default_rng(0)
    x = model.load_images(rng.integers(0, 256, (batch, *model.input_shape), np.uint8))
    model.network.forward(x, training=True)
    for node in model.network.nodes:
        inputs = model.network.arrays.inputs(node)
        gradient = rng.standard_normal((batch, *node.output_shape)).astype(model.dtype)
        dy = backend.asarray(shortened(gradient) if node.place in model.network.stored else gradient)
        ahead, *back = (stage.gemm_flops for stage in layer_stages(node, batch))
        name = f"{model.name} {node.name}"
        yield Job(f"{name} forward", backend.name, partial(node.layer.forward, *inputs, training=True), ahead, batch)
        yield Job(f"{name} backward", backend.name, partial(node.layer.backward, dy), sum(back), batch)


def random_batch(model: Sequential, batch: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images and labels that a model takes, the same at every call."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *model.input_shape), np.uint8)
    return images, rng.integers(0, len(model.classes), batch)


def step_job(architecture: Architecture, backend: Backend, batch: int) -> Job:
    """A whole training step: batch in, forward, loss, backward, update."""
    model = architecture.build(backend=backend)
    images, labels = random_batch(model, batch)
    optimizer = SGD(0.9)
    optimizer.attach(backend, model.groups)

    def step() -> None:
        model.train_step(images, labels)
        # A rate of 0 costs as much as any other, and keeps the weights and with them the time of every step.
        optimizer.step(0.0)

    flops = count(model, batch, training=True).gemm_flops
    return Job(f"{model.name} {STEP}", backend.name, step, flops, batch)


def inference_job(architecture: Architecture, backend: Backend, batch: int) -> Job:
    """The probabilities of a batch of images."""
    model = architecture.build(backend=backend)
    images, _ = random_batch(model, batch)
    run = partial(model.predict, images, batch_size=batch)
    flops = count(model, batch, training=False).gemm_flops
    return Job(f"{model.name} inference", backend.name, run, flops, batch)


def gemm_flops_per_second(backend: Backend, precision: str = FLOAT32, side: int = 768) -> float:
    """The highest rate of a product of square matrices in a few runs: what a layer can hope for here.

    In bfloat16 it is that of the multiplication alone: the time that rounding and laying out the matrices takes, which
    a layer's algorithms do in other ways, is measured too and taken off. At most nine tenths are.
    """
    rng, dtype = np.random.default_rng(0), dtype_of(precision)
    backend = backend.in_precision(precision)
    a, b = (backend.asarray(rng.standard_normal((side, side)), dtype) for _ in range(2))
    out, scratch = backend.empty((side, side), dtype), Buffers(backend, dtype)
    users = [backend, backend.instruments.without_products()] if precision == BFLOAT16 else [backend]
    runs = [partial(each.product, a, b, out=out, scratch=scratch) for each in users]
    whole, *around = (times.least for times in in_turns(runs, 7, warm_up=2))
    return 2 * side**3 / max(whole - sum(around), 0.1 * whole)


def spread(times: Sequence[float]) -> tuple[float, float]:
    """Between which seconds the middle 90 % of the runs lie."""
    low, high = np.quantile(times, (0.05, 0.95))
    return float(low), float(high)


def busy(rates: Mapping[str, Sequence[float]], others: float | None) -> str | None:
    """The sentence to print if other work disturbed the runs, else None.

    `rates` are those of each name's runs, `others` is the share of the processors that other work took meanwhile.
    """
    signs = []
    if others is not None and others > BUSY:
        signs.append(f"other work took {others:.0%} of the processors")
    restless = [name for name, series in rates.items() if np.quantile(series, 0.05) < STEADY * median(series)]
    if restless:
        signs.append(f"{', '.join(restless)} fell below {STEADY:.0%} of the median rate")
    return f"The machine was busy: {', and '.join(signs)}; repeat when it is idle." if signs else None


def samples(jobs: Sequence[Job], rounds: int) -> list[Times]:
    """The seconds of each job in each of `rounds`, which take turns so that a busy machine affects all alike."""
    return in_turns([job.run for job in jobs], rounds, warm_up=SETTLED)
