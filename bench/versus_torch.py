"""The networks of the zoo in PyTorch, with this library's weights and numbers, for `versus.py`.

PyTorch is imported when a TorchSide is created, not with this module, so that it need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from versus_workers import Evidence, Floats, Weights, Work, peak_memory, rate

from cnn.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from cnn.model.zoo import architecture
from cnn.optimizers import SGD
from cnn.precision import BFLOAT16, FLOAT32

if TYPE_CHECKING:
    import torch
    from versus_nets import Layout

ROUNDING = 1e-3


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be off: of the largest score, loss or update, and of a gradient's norm."""

    numbers: float
    gradients: float


TOLERANCES = {FLOAT32: Tolerance(1e-3, 5e-2), BFLOAT16: Tolerance(0.1, 0.9)}
"""In bfloat16 PyTorch also rounds what layers hand on. The scores of 20 layers were 0.9 % off, and probabilities, which
depend on them exponentially, 6 %. The gradients of single layers with batch normalisation were up to 74 % off; one that
is missing is off by 100 %, and an unrelated one by more.
"""


class Disagreement(AssertionError):
    """A peer computes other numbers, so that comparing the speed would be meaningless."""


@dataclass(frozen=True)
class Setting:
    """A way to run PyTorch; bfloat16 is by autocast."""

    channels_last: bool
    compiled: bool
    precision: str = FLOAT32


_WAYS = {
    "NCHW": Setting(channels_last=False, compiled=False),
    "channels_last": Setting(channels_last=True, compiled=False),
    "compiled NCHW": Setting(channels_last=False, compiled=True),
    "compiled channels_last": Setting(channels_last=True, compiled=True),
}
SETTINGS = _WAYS | {f"{BFLOAT16} {name}": replace(each, precision=BFLOAT16) for name, each in _WAYS.items()}


class TorchSide:
    """PyTorch's models, one per setting, and its products."""

    def __init__(self, work: Work) -> None:
        import torch

        torch.set_num_threads(work.threads)
        self.work = work
        self.peers: dict[str, Peer] = {}

    def version(self) -> str:
        """PyTorch's version."""
        import torch

        version: str = torch.__version__
        return version.partition("+")[0]

    def add(self, setting: str, evidence: Evidence) -> None:
        """Builds the setting's model, compiles it if asked, and raises Disagreement unless its numbers are `evidence`.

        The check covers everything that `rate` times.
        """
        peer = Peer(self.work, evidence, SETTINGS[setting])
        peer.check(evidence)
        self.peers[setting] = peer

    def memory(self, setting: str, evidence: Evidence) -> int | None:
        """Bytes that this process has in memory at most while it does the work in one setting."""
        peer = Peer(self.work, evidence, SETTINGS[setting])
        peer.reset()
        return peak_memory(peer.train if self.work.mode == "train" else peer.infer)

    def rate(self, setting: str, seconds: float) -> float:
        """Images per second."""
        peer = self.peers[setting]
        return self.work.batch * rate(peer.train if self.work.mode == "train" else peer.infer, seconds)

    def gemm(self, shape: tuple[int, int, int], seconds: float) -> float:
        """FLOP per second of torch.mm of (M, K) and (K, N) for shape (M, N, K) in the work's precision."""
        import torch

        m, n, k = shape
        kind = torch.bfloat16 if self.work.precision == BFLOAT16 else torch.float32
        a, b, out = (torch.ones(size, dtype=kind) for size in ((m, k), (k, n), (m, n)))
        with torch.inference_mode():
            return 2 * m * n * k * rate(lambda: torch.mm(a, b, out=out), seconds)


class Peer:
    """One network in one setting: its training step and its prediction."""

    def __init__(self, work: Work, evidence: Evidence, setting: Setting) -> None:
        import torch
        from versus_nets import Graph, masks

        chosen = architecture(work.net)
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        self.training = work.mode == "train"
        self.rounds, self.tolerance = setting.precision == BFLOAT16, TOLERANCES[setting.precision]
        self.images = torch.from_numpy(evidence.images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        self.labels = torch.from_numpy(evidence.labels)
        self.preprocessing = evidence.preprocessing
        self.mean, self.std = _constant(evidence.preprocessing.mean), _constant(evidence.preprocessing.std)
        self.loss = chosen.recipe.loss
        self.lr = evidence.lr
        self.model = Graph(chosen.network, evidence.values)
        self.model = self.model.to(memory_format=layout).train(self.training)
        self.parameters = list(self.model.weights(chosen.network))
        self.masks = list(masks(chosen.network, self.model))
        assert isinstance(chosen.recipe.optimizer, SGD)
        self.optimizer = torch.optim.SGD(
            list(self._groups(evidence.weights, chosen.recipe.optimizer.weight_decay)),
            momentum=chosen.recipe.optimizer.momentum,
            nesterov=chosen.recipe.optimizer.nesterov,
            fused=True,
        )
        self.batch_loss: Callable[[], torch.Tensor] = self._batch_loss
        self.probabilities: Callable[[], torch.Tensor] = self._probabilities
        if setting.compiled:
            self._compile()

    def train(self) -> float:
        """One step from pixels to updated weights; returns the loss."""
        loss = self._gradients()
        self.optimizer.step()
        value: float = loss.item()
        return value

    def infer(self) -> Floats:
        """Probabilities (N, K) from pixels."""
        import torch

        with torch.inference_mode():
            probabilities: Floats = self.probabilities().numpy()
            return probabilities

    def check(self, evidence: Evidence) -> None:
        """Raises Disagreement unless the scores and the results of the mode agree with the evidence."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            self._same("the scores", self._scores().numpy(), evidence.scores)
        self.model.train(self.training)
        if not self.training:
            self._same("the probabilities", self.infer(), evidence.probabilities)
            return
        # Neither side can draw the other's random numbers.
        self.model.drop(False)
        self._same("the loss", np.float32(self._gradients().item()), np.float32(evidence.loss))
        longest = max(float(np.linalg.norm(each.gradient)) for each in evidence.weights.values())
        for name, parameter, layout in self.parameters:
            expected = layout(evidence.weights[name].gradient)
            off = self.tolerance.gradients
            same_direction(f"the gradient of {name}", parameter.grad.numpy(), expected, off, ROUNDING * longest)
            parameter.grad.copy_(torch.from_numpy(expected))
        self.optimizer.step()
        self.optimizer.step()
        for name, parameter, layout in self.parameters:
            own, before = evidence.weights[name], evidence.values[name]
            update = parameter.detach().numpy() - layout(before)
            rounding = 1e-6 * float(np.abs(before).max())
            # It is computed in float32 from the gradient of the evidence.
            off = TOLERANCES[FLOAT32].numbers
            same(f"the update of {name}", update, layout(own.updated - before), off, rounding)
        with torch.no_grad():
            for name, parameter, layout in self.parameters:
                parameter.copy_(torch.from_numpy(layout(evidence.values[name])))
        self.reset()
        self.model.drop(True)

    def _same(self, what: str, theirs: Floats | np.float32, ours: Floats | np.float32) -> None:
        same(what, theirs, ours, self.tolerance.numbers)

    def reset(self) -> None:
        """Trains at a rate of 0 from now on, so that every step is the same work, as on the other side."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0

    def _compile(self) -> None:
        import torch
        import torch._inductor.config

        # One process compiles, because others would still run during the timing.
        torch._inductor.config.compile_threads = 1
        self.batch_loss = torch.compile(self._batch_loss)
        self.probabilities = torch.compile(self._probabilities, options={"freezing": True})

    def _groups(self, weights: Mapping[str, Weights], decay: float) -> Iterator[dict[str, Any]]:
        """The parameters of each pair of multipliers, in as few groups as possible, because each group costs a call."""

        def multipliers(parameter: tuple[str, Any, Layout]) -> tuple[float, float]:
            own = weights[parameter[0]]
            return own.lr_multiplier, own.decay_multiplier

        for (lr, weight_decay), group in groupby(sorted(self.parameters, key=multipliers), multipliers):
            yield {
                "params": [parameter for _, parameter, _ in group],
                "lr": self.lr * lr,
                "weight_decay": decay * weight_decay,
            }

    def _gradients(self) -> torch.Tensor:
        """Computes the gradients from pixels and returns the mean loss."""
        self.optimizer.zero_grad()
        loss = self.batch_loss()
        loss.backward()
        for parameter, mask in self.masks:
            parameter.grad.mul_(mask)
        return loss

    def _scores(self) -> Any:
        import torch

        x = self.images.float().mul_(self.preprocessing.scale)
        if self.mean is not None:
            x = x.sub_(self.mean)
        if self.std is not None:
            x = x.div_(self.std)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.rounds):
            return self.model(x).float()

    def _batch_loss(self) -> torch.Tensor:
        from torch.nn import functional

        scores = self._scores()
        if isinstance(self.loss, SoftmaxCrossEntropy):
            return functional.cross_entropy(scores, self.labels)
        low, high = _limits(self.loss)
        target = scores.new_full(scores.shape, low).scatter_(1, self.labels[:, None], high)
        return functional.mse_loss(scores, target)

    def _probabilities(self) -> torch.Tensor:
        scores = self._scores()
        if isinstance(self.loss, SoftmaxCrossEntropy):
            return scores.softmax(1)
        low, high = _limits(self.loss)
        shift = (high - scores.amax(1, keepdim=True)).clamp_min(0)
        shifted = (scores + (shift - low)).clamp_min(0)
        return shifted / shifted.sum(1, keepdim=True)


def same(
    what: str, theirs: Floats | np.float32, ours: Floats | np.float32, tolerance: float, rounding: float = 0.0
) -> None:
    """Raises Disagreement if an element differs by more than `tolerance` of the largest of ours, plus `rounding`."""
    worst, largest = float(np.abs(theirs - ours).max()), float(np.abs(ours).max())
    _require(what, theirs.shape == ours.shape and worst <= tolerance * largest + rounding, worst, largest)


def same_direction(what: str, theirs: Floats, ours: Floats, tolerance: float, least: float = 0.0) -> None:
    """Raises Disagreement unless the norm of the difference is at most `tolerance` of the norm of ours.

    Or of `least`, if that is more: the gradient of a factor that the next normalisation removes is rounding alone.

    Where rounding changes the side of a ReLU or the position of a maximum, a gradient changes by the contribution of
    one pixel, which is not an error. The deepest networks gather some 3 % of that.
    """
    off, length = float(np.linalg.norm(theirs - ours)), float(np.linalg.norm(ours))
    near = off <= tolerance * max(length, least)
    _require(what, theirs.shape == ours.shape and near, off, length)


def _require(what: str, good: bool, off: float, of: float) -> None:
    if not good:
        raise Disagreement(f"The value of {what} is off by {off:.3g} of this library's {of:.3g}")


def _constant(value: Floats | None) -> torch.Tensor | None:
    """(C,) or (H, W, C) as (1, C, 1, 1) or (1, C, H, W)."""
    import torch

    if value is None:
        return None
    image = value if value.ndim == 3 else value[None, None]
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


def _limits(loss: Loss) -> tuple[float, float]:
    """(low, high) of the targets."""
    assert isinstance(loss, MeanSquaredError)
    return loss.low, loss.high
