"""The training loop: epochs of shuffled batches, validation, early stopping, and stopping on request or error."""

import math
import zlib
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import numpy.typing as npt

from cnn.arrays import Array
from cnn.config import plain, require, settle
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Split
from cnn.data.mixup import Mix
from cnn.data.stored import blocks
from cnn.errors import Interrupted, NonFiniteError, UsageError
from cnn.meter import NO_ENERGY, Meter, Unmetered
from cnn.model.architecture import MOST_EPOCHS, check_mixup_and_clip
from cnn.model.sequential import Sequential, load_arrays
from cnn.optimizers import SGD, Multiplier, Optimizer, SlowWeights, multiplied
from cnn.schedules import Constant, Schedule
from cnn.system.timing import now
from cnn.training.checkpoint import read_checkpoint, write_checkpoint
from cnn.training.gradients import BatchGradients, clip
from cnn.training.position import Position
from cnn.training.rehearsal import rehearse
from cnn.training.replicas import Replicas
from cnn.training.results import EpochResult, History
from cnn.training.world import World

PAUSE = 0.05
"""Seconds between two looks of a run that waits."""
_OWN = {"_gradients", "_replicas"}
"""Attributes that a copy of a run makes anew."""


class Callback:
    """Called as a run proceeds; override the methods that you need."""

    def on_batch(self, trainer: "Trainer") -> None:
        """Called after each step."""

    def on_epoch(self, trainer: "Trainer", result: EpochResult) -> None:
        """Called after each epoch and its validation, when its checkpoint is written."""

    def on_end(self) -> None:
        """Called when the run has ended or failed."""


@dataclass
class Trainer:
    """A training run that can be stopped, saved, and continued to the same bytes.

    patience, if given, stops after that many epochs without a lower validation loss and restores the best weights.
    checkpoint, if given, is written after every epoch and every `checkpoint_every` steps. The meter measures the steps;
    whoever opened it closes it. The run changes the model, but not the optimizer: it uses a fresh one with the same
    settings, so that a recipe serves any number of runs. Raises UsageError for impossible settings.

    mixup is the parameter of the Beta distribution by which images are mixed (see `Mix.draw`), 0 for none; clip_norm
    the norm to which all gradients together are scaled down if it is larger (see `clip`).

    accumulate is the number of micro-batches that each batch is cut into, computed one after the other. A `world` of
    several processes divides each of them and sums the gradients, so that a run's numbers do not depend on the number
    of processes; all of them call the same methods. With `average_every`, each process takes steps on its own images,
    and the states are averaged after that many steps and after every epoch. Only the meter of local rank 0 counts on
    each host. A copy is a run of its own, with copies of the model and of the optimizer's state.
    """

    model: Sequential
    train: Split
    _: KW_ONLY
    validation: Split | None = None
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Constant)
    multipliers: list[Multiplier] = field(default_factory=list)
    slow_weights: SlowWeights | None = None
    batch_size: int = 64
    augmentation: Augmentation = field(default_factory=Augmentation)
    mixup: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    checkpoint: str | Path | None = None
    checkpoint_every: int | None = None
    meter: Meter = field(default_factory=lambda: Unmetered("the run was given no meter"))
    accumulate: int = 1
    average_every: int | None = None
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        require(
            isinstance(self.model, Sequential),
            f"A Trainer trains a cnn.Sequential, not a {type(self.model).__name__}.",
        )
        rate = plain(self.schedule)
        if isinstance(rate, int | float) and not isinstance(rate, bool):
            self.schedule = Constant(float(rate))
        settle(self)
        self.optimizer = Optimizer.from_config(self.optimizer)
        self.schedule = Schedule.from_config(self.schedule)
        self.multipliers = Multiplier.list_of(self.multipliers)
        if self.slow_weights is not None:
            self.slow_weights = SlowWeights.from_config(self.slow_weights)
        require(self.batch_size >= 1, f"The batch size must be at least 1, not {self.batch_size}.")
        require(self.patience is None or self.patience >= 1, f"patience must be at least 1, not {self.patience}.")
        require(
            self.checkpoint_every is None or self.checkpoint_every >= 1,
            f"checkpoint_every must be at least 1 step, not {self.checkpoint_every}.",
        )
        check_mixup_and_clip(self.mixup, self.clip_norm)
        require(self.accumulate >= 1, f"accumulate must be at least 1 micro-batch, not {self.accumulate}.")
        every = self.average_every
        require(every is None or every >= 1, f"average_every must be at least 1 step, not {every}.")
        require(
            every is None or self.checkpoint_every is None or self.checkpoint_every % every == 0,
            f"A checkpoint every {self.checkpoint_every} steps would fall between averages, which come every {every}; "
            "make checkpoint_every a multiple of average_every.",
        )
        if self.patience is not None and self.validation is None:
            raise UsageError("Early stopping needs a validation split; hold some training images out for it.")
        self.train = self.model.with_own_labels(self.train)
        self.model.get_to_know(self.train)
        if self.validation is not None:
            self.validation = self.model.with_own_labels(self.validation)
        self._attach()
        self._own_images = 0
        """How many images this process has trained on since the last average."""
        self.position = Position()
        self._steps = 0
        self._rates = self.schedule
        self.results: list[EpochResult] = []
        """The epochs done, also those before a resume."""
        self.order: npt.NDArray[np.int64] | None = None
        self.best: dict[str, npt.NDArray[Any]] | None = None
        self.steps_per_epoch = -(-len(self.train) // self.batch_size)
        self._rehearsed = False
        self._stop_reason: str | None = None
        self._stop_agreed = False

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name not in _OWN}
        to_numpy = self.model.backend.to_numpy
        state = {name: to_numpy(array) for name, array in self.optimizer.state.items()}
        slow = {name: to_numpy(array) for name, array in self.slow_state.items()}
        return kept | {"optimizer_state": (self.optimizer.time, state), "slow_state": slow}

    def __setstate__(self, state: dict[str, Any]) -> None:
        time, arrays = state.pop("optimizer_state")
        slow = state.pop("slow_state")
        vars(self).update(state)
        self._attach()
        self.optimizer.time = time
        load_arrays(self.model.backend, self.optimizer.state, arrays, "the optimizer")
        load_arrays(self.model.backend, self.slow_state, slow, "the slow weights")

    def _attach(self) -> None:
        """Makes everything that holds arrays of the model, and what a copy does not take over."""
        self.paused = False
        """Whether the run waits after its current step; see `pause`."""
        self.optimizer = self.optimizer.fresh()
        self.optimizer.attach(self.model.backend, multiplied(self.model.groups, self.multipliers), self.schedule.lr)
        if self.slow_weights is not None:
            self.slow_weights = self.slow_weights.fresh()
            arrays = {group.name: group.value for group in self.model.groups}
            self.slow_weights.attach(self.model.backend, arrays | self.model.network.statistics)
        alone = self.average_every is not None
        self._gradients = BatchGradients(self.model, self.world, self.accumulate, alone=alone)
        self._replicas = Replicas(self.model, self.optimizer, self.world, self.slow_state.values())

    @property
    def slow_state(self) -> dict[str, Array]:
        """The arrays of the slow weights by name."""
        return {} if self.slow_weights is None else self.slow_weights.state

    def settings(self) -> dict[str, Any]:
        """The settings that must be the same for the run to continue from a checkpoint."""
        scale, constants = self.model.preprocessing.to_state()
        return {
            "net": self.model.config(),
            "precision": self.model.precision,
            "optimizer": self.optimizer.config(),
            "schedule": self.schedule.config(),
            "multipliers": [asdict(each) for each in self.multipliers],
            "slow weights": None if self.slow_weights is None else self.slow_weights.config(),
            "batch size": self.batch_size,
            "number of micro-batches": self.accumulate,
            "number of steps between averages": self.average_every,
            "augmentation": self.augmentation.to_config(),
            "mixup": self.mixup,
            "largest norm": self.clip_norm,
            "preprocessing": scale | {name: zlib.crc32(array.tobytes()) for name, array in constants.items()},
            "training images": self._fingerprints[0],
            "validation images": self._fingerprints[1],
        }

    @cached_property
    def _fingerprints(self) -> tuple[str | None, str | None]:
        return fingerprint(self.train), fingerprint(self.validation)

    def resume(self) -> None:
        """Continues from the checkpoint. Raises FileFormatError or UsageError if it is not one of this run."""
        if self.checkpoint is None:
            raise UsageError("There is no checkpoint to resume from; give its path as checkpoint.")
        read_checkpoint(self, Path(self.checkpoint))

    def save(self) -> None:
        """Writes the checkpoint, if one was asked for; in a distributed run, rank 0 writes it."""
        if self.checkpoint is not None and self.world.rank == 0:
            write_checkpoint(self, Path(self.checkpoint))

    def request_stop(self, reason: str) -> None:
        """Asks the run to save and stop after the current step; may be called from a signal handler."""
        self._stop_reason = reason

    def pause(self) -> None:
        """Asks the run to wait after the current step, until `go_on` or `request_stop`; another thread may call it.

        Neither time nor energy counts meanwhile. Raises UsageError for a run of several processes.
        """
        require(self.world.size == 1, "A run of several processes cannot be paused; stop and resume it.")
        self.paused = True

    def go_on(self) -> None:
        """Ends a pause."""
        self.paused = False

    def rehearse(self, *evaluated: Split) -> None:
        """Has the backend time and choose its algorithms for every shape of the run, which `run` does otherwise.

        Neither the speed nor the energy of the run counts it. `evaluated` are splits that will be evaluated, too.
        """
        splits = [each for each in (self.validation, *evaluated) if each is not None]
        rehearse(self.model, self.train, self.batch_size, self.accumulate, self.world, splits)
        self._rehearsed = True

    def run(self, epochs: float, callbacks: Iterable[Callback] | Callback = ()) -> History:
        """Trains until `epochs` are done in total or patience runs out; returns the results of this call's epochs.

        A fraction of an epoch is a run of ceil(epochs * steps per epoch) steps, and ends with a result of its own. Such
        a run, and one whose schedule or slow weights depend on its number of steps, cannot be made longer: UsageError.

        Raises NonFiniteError when the loss is NaN or infinite, and Interrupted after `request_stop`.
        """
        self._plan(epochs)
        listeners, before = _listeners(callbacks), len(self.results)
        if not self._rehearsed and self.world.size == 1 and self.position.step < self._steps:
            self.rehearse()
        try:
            while (self.position.step < self._steps or self.position.batch) and not self.out_of_patience:
                result = self._epoch(listeners)
                self.results.append(result)
                self.save()  # first, as what a listener does may fail
                for listener in listeners:
                    listener.on_epoch(self, result)
        finally:
            for listener in listeners:
                listener.on_end()
        if self.patience is not None and self.best is not None:
            self.model.load_state(self.best)
        return History(self.results[before:])

    def _plan(self, epochs: float) -> None:
        """Finds the number of steps of the run. Raises UsageError if it began as a run of another number."""
        epochs, position = plain(epochs), self.position
        number = isinstance(epochs, int | float) and not isinstance(epochs, bool)
        require(
            number and 0 < epochs <= MOST_EPOCHS,
            f"The number of epochs must be a number above 0 and at most {MOST_EPOCHS:,}, not {epochs!r}.",
        )
        self._steps = max(1, math.ceil(round(epochs * self.steps_per_epoch, 6)))
        whole = self._steps % self.steps_per_epoch == 0
        if position.step and position.steps not in (0, self._steps):
            raise UsageError(
                f"The run was begun for {position.steps:,} steps, on which its numbers depend, and "
                f"{epochs:.7g} epochs are {self._steps:,}; go on with as many epochs as it was begun for."
            )
        if self.schedule.needs_steps or self.slow_weights is not None or not whole:
            position.steps = self._steps
        self._rates = self.schedule.over(self._steps)

    @property
    def _epoch_is_over(self) -> bool:
        return self.position.batch == self.steps_per_epoch or self.position.step == self._steps

    def _epoch(self, listeners: list[Callback]) -> EpochResult:
        if self.order is None:
            self.order = self.model.rng.permutation(len(self.train))
            self.position.energy = NO_ENERGY
        while not self._epoch_is_over:
            self._stretch(self.order, listeners)
            while self.paused and self._stop_reason is None:
                sleep(PAUSE)
            self._save_or_stop()
        return self._finish_epoch()

    def _stretch(self, order: npt.NDArray[np.int64], listeners: list[Callback]) -> None:
        """Takes steps until the epoch ends or the state must be saved, and measures their energy."""
        position = self.position
        seen, seconds = position.seen, position.seconds
        self.meter.start()
        while True:
            self._step(order)
            for listener in listeners:
                listener.on_batch(self)
            if self._epoch_is_over or self.paused or self._stop_is_due() or self._save_is_due():
                break
        images = (position.seen - seen) * self.world.local_size // self.world.size
        energy = self.meter.stop(images, position.seconds - seconds)
        hosts = self.world.gather(energy if self.world.local_rank == 0 else None)
        position.energy = sum((host for host in hosts if host is not None), position.energy)

    def _save_is_due(self) -> bool:
        return self.checkpoint_every is not None and self.position.step % self.checkpoint_every == 0

    def _stop_is_due(self) -> bool:
        """Whether to stop after this step: all processes must agree, and any averaging must be done."""
        asked = self._stop_agreed if self.world.size > 1 else self._stop_reason is not None
        return asked and self._is_settled()

    def _is_settled(self) -> bool:
        """Whether all processes have the same state after the last step."""
        position, every = self.position, self.average_every
        return every is None or position.step % every == 0 or self._epoch_is_over

    def _step(self, order: npt.NDArray[np.int64]) -> None:
        position = self.position
        started = now()
        chosen = order[position.batch * self.batch_size : (position.batch + 1) * self.batch_size]
        shape = (len(chosen), *self.model.input_shape)
        changes = self.augmentation.draw(shape, self.model.rng, chosen, position.epoch)
        mix = Mix.draw(self.mixup, len(chosen), self.model.rng) if self.mixup else None
        loss, correct, self._stop_agreed = self._gradients.compute(
            self.train, chosen, changes, self._stop_reason is not None, mix
        )
        rate = self._rates.rate(position.step)
        if not math.isfinite(loss):
            place = self._first_of_all(self.model.network.first_non_finite()) or "the loss"
            raise self._non_finite(f"The loss became {loss}", f", first in {place}", position.step + 1)
        if self.clip_norm is not None:
            clip(self.model, self.clip_norm)
        self.optimizer.step(rate, position.epoch)
        position.batch += 1
        position.step += 1
        if self.slow_weights is not None:
            self.slow_weights.after(position.step, self._steps)
            if position.step == self._steps:
                self.slow_weights.finish()
        self._own_images += self._gradients.own
        if self.average_every is not None and self._is_settled():
            self._replicas.average(self._own_images)
            self._own_images = 0
        position.loss += loss
        position.correct += correct
        position.seen += len(chosen)
        position.seconds += now() - started

    def _first_of_all(self, found: str | None) -> str | None:
        """The value of the first process whose value is not None, with its rank if there are several processes."""
        for rank, each in enumerate(self.world.gather(found)):
            if each is not None:
                return each if self.world.size == 1 else f"{each} on rank {rank}"
        return None

    def _non_finite(self, event: str, place: str, step: int) -> NonFiniteError:
        return NonFiniteError(
            f"{event} at step {step} (epoch {self.position.epoch + 1}){place}; lower the learning rate, now "
            f"{self._rates.rate(step - 1):g}. The last checkpoint is unchanged."
        )

    def _check_weights(self) -> None:
        """Raises NonFiniteError for NaN or infinity in the weights, which must not reach a checkpoint or a model."""
        arrays = self.model.arrays().items()
        found = next((name for name, array in arrays if not self.model.backend.all_finite(array)), None)
        name = self._first_of_all(found)
        if name is not None:
            raise self._non_finite(f"{name} became infinite or NaN", "", self.position.step)

    def _save_or_stop(self) -> None:
        if self._stop_is_due():
            self._check_weights()
            self.save()
            reason = next(each for each in self.world.gather(self._stop_reason) if each is not None)
            kept = f"its state is saved in {self.checkpoint}" if self.checkpoint else "nothing was saved"
            raise Interrupted(f"Stopped by {reason} at step {self.position.step}; {kept}.")
        if self._save_is_due():
            self._check_weights()
            self.save()

    def _finish_epoch(self) -> EpochResult:
        position = self.position
        self._replicas.copy_first()
        self._check_weights()
        position.epoch += 1
        val_loss = val_accuracy = None
        if self.validation:
            with nullcontext() if self.slow_weights is None else self.slow_weights.shown():
                val_loss, val_accuracy = self.model.evaluate(self.validation)
                self._remember(val_loss)
        energy = position.energy
        result = EpochResult(
            position.epoch,
            position.loss / position.seen,
            position.correct / position.seen,
            val_loss,
            val_accuracy,
            self._rates.rate(position.step - 1),
            position.seen / position.seconds,
            position.seconds,
            energy.joules,
            None if energy.joules is None else energy.joules / position.seen,
            energy.kind,
            energy.source,
        )
        position.batch = position.correct = position.seen = 0
        position.loss = position.seconds = 0.0
        self.order = None
        return result

    def _remember(self, val_loss: float) -> None:
        if val_loss < self.position.best_loss:
            self.position.best_loss, self.position.stale = val_loss, 0
            if self.patience is not None:
                self.best = self.model.state()
        else:
            self.position.stale += 1

    @property
    def out_of_patience(self) -> bool:
        """Whether the run stops, or has stopped, before its last epoch."""
        return self.patience is not None and self.position.stale >= self.patience

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights a run that ended now would keep."""
        best = self.position.best_epoch if self.patience is not None and self.best is not None else None
        return self.position.epoch if best is None else best


def _listeners(callbacks: Iterable[Callback] | Callback) -> list[Callback]:
    found = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for each in found:
        require(isinstance(each, Callback), f"callbacks must be a list of cnn.Callback objects, not {callbacks!r}.")
    return found


def fingerprint(split: Split | None) -> str | None:
    """The number of images and a checksum, to distinguish one split from another."""
    if split is None:
        return None
    checksum = 0
    for block in blocks(split.images):
        checksum = zlib.crc32(np.ascontiguousarray(block).data, checksum)
    for array in (split.labels, split.weights):
        checksum = checksum if array is None else zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return f"{len(split)} images, crc {checksum:08x}"
