"""The processes that `versus.py` times: this library, PyTorch and other peers, each waiting for its next call."""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

import cnn.system.threads as threads
from cnn import registry
from cnn.arrays import Buffers
from cnn.cost import count
from cnn.data.dataset import Dataset, Split
from cnn.data.preprocessing import Preprocessing
from cnn.layers import Dropout
from cnn.model.zoo import architecture
from cnn.onnx.export import export_onnx
from cnn.optimizers import SGD
from cnn.precision import FLOAT32
from cnn.system.timing import sustained

Floats = npt.NDArray[np.float32]

# Square products, and products of the networks' widest convolutions: pixels, filters, kernel elements.
PEAK_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 256, 2304), (4096, 500, 800))


@dataclass(frozen=True)
class Work:
    """What each side does: a network of the zoo, "train" or "infer", images per step, threads.

    `precision` is this library's, and that of the products whose peak is measured.
    """

    net: str
    mode: str
    batch: int
    threads: int
    precision: str = FLOAT32


@dataclass(frozen=True)
class Weights:
    """A parameter's gradient in this library's layout, and its value after two updates with that gradient."""

    gradient: Floats
    updated: Floats
    lr_multiplier: float
    decay_multiplier: float


@dataclass(frozen=True)
class Evidence:
    """A batch and everything that this library computes from it: a peer must reproduce it before it is timed.

    images (N, H, W, C) uint8, labels (N,) int64, the batch's mean loss; parameters and running statistics, and what
    training makes of the parameters, by name.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    preprocessing: Preprocessing
    values: dict[str, Floats]
    weights: dict[str, Weights]
    scores: Floats
    probabilities: Floats
    loss: float
    lr: float


class OurSide:
    """This library's model, step and products."""

    def __init__(self, work: Work, backend: str | None) -> None:
        self.work = work
        # The backend first, because a limit affects only the libraries that are loaded.
        self.backend = registry.choose(backend)[0]
        self._limit = ExitStack()
        self._limit.enter_context(threads.limit_threads(work.threads))
        chosen = replace(architecture(work.net), precision=work.precision)
        (classes,) = chosen.network.output_shape
        rng = np.random.default_rng(0)
        count = max(64, work.batch)
        split = Split(
            rng.integers(0, 256, (count, *chosen.input_shape), np.uint8), rng.integers(0, classes, count, np.int64)
        )
        data = Dataset("random", split, split, tuple(map(str, range(classes))))
        self.images, self.labels = split.images[: work.batch], split.labels[: work.batch]
        self.model = chosen.build(data=data, backend=self.backend, seed=1)
        self._mix_statistics(rng)
        self.classifier = self.model.for_inference()
        self.recipe = chosen.recipe
        self._attach()

    def describe(self) -> dict[str, Any]:
        """Backend, library, and FLOP of the products per image in the step of the mode."""
        flops = count(self.model, 1, training=self.work.mode == "train").gemm_flops
        return {"backend": self.backend.name, "library": str(self.backend.library), "flops": flops}

    def evidence(self) -> Evidence:
        """Computes the evidence, then restores the model and its optimizer."""
        lr = self.recipe.schedule.lr
        values = self.model.state()
        scores = self.backend.to_numpy(self.model.forward(self.model.load_images(self.images))).copy()
        probabilities = self.classifier.predict(self.images, batch_size=self.work.batch)
        with self._without_dropout():
            loss, _ = self.model.train_step(self.images, self.labels)
        gradients = [self.backend.to_numpy(each.gradient).copy() for each in self.model.parameters]
        # Only the second update depends on momentum.
        self.optimizer.step(lr)
        self.optimizer.step(lr)
        after = self.model.state()
        self.model.load_state(values)
        self._attach()
        weights = {
            p.name: Weights(gradient, after[p.name], p.lr_multiplier, p.decay_multiplier)
            for p, gradient in zip(self.model.parameters, gradients, strict=True)
        }
        mean = loss / self.work.batch
        return Evidence(
            *(self.images, self.labels, self.model.preprocessing, values, weights),
            *(scores, probabilities, mean, lr),
        )

    def exported(self) -> bytes:
        """The model as an ONNX file that takes pixels and gives probabilities."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(self.model, path, input="nhwc-uint8", fold=True)
            return path.read_bytes()

    def memory(self) -> int | None:
        """Bytes that this process has in memory at most while it does the work."""
        return peak_memory(self._train if self.work.mode == "train" else self._infer)

    def rate(self, seconds: float) -> float:
        """Images per second."""
        return self.work.batch * rate(self._train if self.work.mode == "train" else self._infer, seconds)

    def gemm(self, shape: tuple[int, int, int], seconds: float) -> float:
        """FLOP per second of the backend's product (M, K) @ (K, N) for shape (M, N, K) in the work's precision."""
        m, n, k = shape
        backend = self.model.backend
        a, b = (backend.asarray(np.ones(size, np.float32)) for size in ((m, k), (k, n)))
        out, scratch = backend.empty((m, n)), Buffers(backend)
        return 2 * m * n * k * rate(lambda: backend.product(a, b, out=out, scratch=scratch), seconds)

    def _train(self) -> None:
        self.model.train_step(self.images, self.labels)
        # A learning rate of 0 costs as much as any other and keeps the weights, and so the time per step, constant.
        self.optimizer.step(0.0)

    def _infer(self) -> None:
        self.classifier.predict(self.images, batch_size=self.work.batch)

    def _mix_statistics(self, rng: np.random.Generator) -> None:
        """Makes the running statistics numbers that an error would show."""
        state = self.model.state()
        for name in self.model.network.statistics:
            low, high = (0.5, 1.5) if name.endswith("variance") else (-0.1, 0.1)
            state[name] = rng.uniform(low, high, state[name].shape).astype(np.float32)
        self.model.load_state(state)

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        dropouts = [layer for layer in self.model.network.layers if isinstance(layer, Dropout)]
        rates = [layer.rate for layer in dropouts]
        for layer in dropouts:
            layer.rate = 0.0
        try:
            yield
        finally:
            for layer, rate in zip(dropouts, rates, strict=True):
                layer.rate = rate

    def _attach(self) -> None:
        """Attaches a new optimizer: at a rate of 0, an old velocity would shrink to slow subnormal numbers."""
        recipe = self.recipe.optimizer
        assert isinstance(recipe, SGD)
        self.optimizer = SGD(recipe.momentum, recipe.weight_decay, recipe.nesterov)
        self.optimizer.attach(self.backend, self.model.groups)


def peak_memory(call: Callable[[], object]) -> int | None:
    """The most bytes of memory that the process has had at once, over three calls; None where Linux does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # counts anew
        for _ in range(3):
            call()
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except OSError:
        return None
    return 1024 * int(line.split()[1])


def rate(call: Callable[[], object], seconds: float) -> float:
    """Calls per second over `seconds`, after a tenth of that to wake threads and fill caches; at least one each."""
    sustained(call, seconds / 10)
    calls, elapsed = sustained(call, seconds)
    return calls / elapsed


class WorkerError(RuntimeError):
    """What went wrong in a worker: `kind` is the exception's class, `text` its message, `details` the traceback."""

    def __init__(self, kind: str, text: str, details: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text, self.details = kind, text, details


class Worker:
    """A process that holds one object and calls its methods on request."""

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, arguments))
        self._process.start()
        other.close()

    def call(self, method: str, *arguments: object) -> Any:
        """The method's result. Raises WorkerError with its exception, or with the constructor's in the first call."""
        try:
            self._pipe.send((method, arguments))
            good, result = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            code = self._process.exitcode
            raise WorkerError("WorkerError", f"the process ended with code {code}", "") from error
        if not good:
            raise WorkerError(*result)
        return result

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def worker(make: Callable[..., object], *arguments: object) -> Iterator[Worker]:
    """A worker until the end of the block."""
    made = Worker(make, *arguments)
    try:
        yield made
    finally:
        made.close()


def _serve(pipe: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Answers calls until the other end closes. The pipe blocks, so an idle worker takes no processor."""
    side: object = None
    while True:
        try:
            method, values = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            side = make(*arguments) if side is None else side
            answer: tuple[bool, Any] = True, getattr(side, method)(*values)
        except Exception as error:
            answer = False, (type(error).__name__, str(error), traceback.format_exc())
        pipe.send(answer)
