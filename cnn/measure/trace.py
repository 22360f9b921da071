"""One step as a trace: phases, layers, kernels and threads on one clock, for Perfetto or chrome://tracing."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cnn.backend import Backend
from cnn.instruments import Instruments, private
from cnn.measure.benchmark import random_batch
from cnn.model.architecture import Architecture
from cnn.model.passes import SETTLED
from cnn.optimizers import SGD
from cnn.system.timing import now

TRIES = 10
"""Steps of which the least disturbed is kept."""
PHASES, LAYERS, KERNELS, THREADS = 1, 2, 3, 10
"""Tracks; those of threads count on."""


@dataclass(frozen=True)
class Slice:
    """Something that lasts: its track, name, begin and end in seconds of the clock, and what else is known."""

    track: int
    name: str
    begin: float
    end: float
    known: dict[str, Any] = field(default_factory=dict)


@dataclass
class StepTrace:
    """The slices of one step; `threads` are the names of the threads' tracks, or `without_threads` says why not."""

    slices: list[Slice]
    threads: dict[int, str]
    without_threads: str | None

    @property
    def step(self) -> Slice:
        """The whole step."""
        return next(each for each in self.slices if each.name == "step")

    def seconds(self, track: int) -> float:
        """The sum of a track's slices, without the whole step."""
        return sum(each.end - each.begin for each in self.slices if each.track == track and each.name != "step")

    def to_dict(self, about: dict[str, Any]) -> dict[str, Any]:
        """The trace in Chrome's Trace Event Format (JSON object format); microseconds from the step's begin."""
        zero = self.step.begin
        names = {PHASES: "phases", LAYERS: "layers", KERNELS: "kernels"} | self.threads
        events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "cnn"}}]
        for track, name in names.items():
            events.append({"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": name}})
            events.append(
                {"ph": "M", "pid": 1, "tid": track, "name": "thread_sort_index", "args": {"sort_index": track}}
            )
        for each in sorted(self.slices, key=lambda one: (one.track, one.begin, -one.end)):
            times = {"ts": (each.begin - zero) * 1e6, "dur": (each.end - each.begin) * 1e6}
            events.append({"ph": "X", "pid": 1, "tid": each.track, "name": each.name, **times, "args": each.known})
        note = self.without_threads or "a thread's slice is its processor time within the layer, from the layer's begin"
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about | {"threads_are": note}}


class _Unrecorded(Instruments):
    """Lets every layer be called in each pass, so that each kernel is seen."""


def trace_step(architecture: Architecture, backend: Backend, batch: int, *, training: bool) -> StepTrace:
    """A step on random images after some to warm up, each layer and kernel called from Python.

    Of TRIES steps it is the one that spent the least time outside its layers: other work held it up least.

    Between kernels there is therefore more of Python than in a step of a training run, which repeats recordings.
    """
    plain = private(backend)
    type(plain).instruments = property(_Unrecorded)  # type: ignore[assignment,method-assign]
    model = architecture.build(backend=plain)
    images, labels = random_batch(model, batch)
    optimizer = SGD(0.9)
    optimizer.attach(plain, model.groups)
    traces = []
    for number in range(SETTLED + TRIES):
        watch = _Watch()

        def observe(place: int, direction: str, run: Callable[[], None], watch: _Watch = watch) -> None:
            with watch.layer(model.network.nodes[place].name, direction):
                run()

        model.network.observer = observe
        try:
            with watch.kernels():
                begin = now()
                if training:
                    model.train_step(images, labels)
                    with watch.layer("update", ""):
                        optimizer.step(0.0)
                else:
                    model.predict(images, batch_size=batch)
                end = now()
        finally:
            model.network.observer = None
        if number >= SETTLED:
            traces.append(watch.finished(begin, end, training))
    return min(traces, key=lambda trace: trace.step.end - trace.step.begin - trace.seconds(LAYERS))


class _Watch:
    """Collects the slices of one step."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self._clocks, self.without = _thread_clocks()

    @contextmanager
    def layer(self, name: str, direction: str) -> Iterator[None]:
        """A layer's part of the step."""
        before = [read() for read in self._clocks.values()]
        begin = now()
        yield
        end = now()
        self.slices.append(Slice(LAYERS, f"{name} {direction}".rstrip(), begin, end, {"direction": direction}))
        for place, (read, earlier) in enumerate(zip(self._clocks.values(), before, strict=True)):
            busy = read() - earlier
            if busy > 0:
                share = min(1.0, busy / (end - begin))
                known = {"busy": round(share, 3)}
                self.slices.append(Slice(THREADS + place, name, begin, begin + share * (end - begin), known))

    def kernels(self) -> AbstractContextManager[None]:
        """Within the block each kernel's call is a slice."""
        try:
            from cnn.compiled.kernels import Native, watched
        except ImportError:  # without Numba there are no kernels
            return nullcontext()

        def run(native: Native, arguments: tuple[Any, ...]) -> Any:
            begin = now()
            result = native.compiled(*arguments)
            name = getattr(getattr(native.compiled, "py_func", None), "__name__", "kernel").strip("_")
            self.slices.append(Slice(KERNELS, name, begin, now()))
            return result

        return watched(run)

    def finished(self, begin: float, end: float, training: bool) -> StepTrace:
        """The trace, with the phases and what lies before, between and after the layers."""
        layers = [each for each in self.slices if each.track == LAYERS]
        forward = [each for each in layers if each.known["direction"] == "forward"]
        backward = [each for each in layers if each.known["direction"] == "backward"]
        parts = [("input", begin, forward[0].begin), ("forward", forward[0].begin, forward[-1].end)]
        if training:
            update = layers[-1]
            first = backward[0].begin if backward else update.begin
            parts += [
                ("loss", forward[-1].end, first),
                ("backward", first, update.begin),
                ("update", update.begin, end),
            ]
        else:
            parts.append(("probabilities", forward[-1].end, end))
        slices = [Slice(PHASES, "step", begin, end), *(Slice(PHASES, *part) for part in parts)]
        between = [part for part in parts if part[0] in ("input", "loss", "probabilities")]
        slices += [Slice(LAYERS, *part) for part in between]
        threads = {THREADS + place: f"thread {thread}" for place, thread in enumerate(self._clocks)}
        return StepTrace([*slices, *self.slices], threads, self.without)


def _thread_clocks() -> tuple[dict[int, Callable[[], float]], str | None]:
    """A reader of the processor seconds of each thread of this process, or why there is none.

    Linux makes the number of a thread's clock from that of the thread (include/linux/posix-timers.h).
    """
    try:
        threads = sorted(map(int, os.listdir("/proc/self/task")))
        found: dict[int, Callable[[], float]] = {
            thread: partial(time.clock_gettime, ~thread << 3 | 6) for thread in threads
        }
        for read in found.values():
            read()
    except (OSError, AttributeError, ValueError) as error:
        return {}, f"threads are not shown, as this system does not tell their times ({error})"
    return found, None
