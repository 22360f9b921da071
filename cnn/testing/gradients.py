"""Compares backward passes with differences of forward passes, in float64."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cnn import registry
from cnn.arrays import Array, Shape
from cnn.backend import Backend
from cnn.errors import UsageError
from cnn.layers import Context, Layer
from cnn.model.sequential import Sequential
from cnn.testing.comparison import ContractViolation

STEP = 1e-5
"""h of (f(x + h) - f(x - h)) / 2h. The error is h**2 / 6 of the third derivative, 2e-11 of it, plus the rounding of f
over h, 2e-11 of f. The step that keeps both small is about the cube root of epsilon."""

TOLERANCE = 1e-6
"""Allowed of an array's largest gradient: far above the error of the difference, far below that of a wrong formula."""

Host = npt.NDArray[Any]


def check_gradients(
    subject: Layer | Sequential,
    input_shape: Shape | None = None,
    *,
    backend: Backend | str | None = None,
    batch: int = 2,
    elements: int = 60,
    seed: int = 0,
) -> float:
    """Checks `backward` for the inputs and every parameter, and `backward_parameters` or the model's own pass.

    A layer is built here, for inputs (batch, *input_shape) on `backend`; a model must be built in float64, and the
    function is its loss. All parameters are given new random values; weights that a connection table holds at zero
    stay there. Of each array at most `elements` are checked, chosen at random. Inputs are distinct, evenly spaced, much
    further apart than the step, and not near zero: no window has a tie, and no relu of the input a kink within a step.
    Returns the largest error relative to its bound. Raises ContractViolation with the numbers that exceed it.
    """
    rng = np.random.default_rng(seed)
    if isinstance(subject, Sequential):
        if subject.dtype != np.float64:
            raise UsageError(f"Gradients are checked in float64; build {subject.name} with dtype=numpy.float64.")
        model = _ModelUnderTest(subject, batch, rng)
        return _check(model, rng, elements)
    if input_shape is None:
        raise UsageError(f"Give the shape of one input of {type(subject).__name__}, without N.")
    chosen = backend if isinstance(backend, Backend) else registry.choose(backend)[0]
    return _check(_LayerUnderTest(subject, input_shape, chosen, batch, rng), rng, elements)


class _UnderTest:
    """A function from one input and some parameters to a number."""

    name: str
    backend: Backend
    x: Host
    rng: np.random.Generator

    def parameters(self) -> dict[str, tuple[Array, Array]]:
        """Value and gradient of each parameter, by name."""
        raise NotImplementedError

    def value(self) -> float:
        """The function, in training."""
        raise NotImplementedError

    def input_gradient(self) -> Host:
        """The gradient of x by the backward pass; also computes the gradients of the parameters."""
        raise NotImplementedError

    def compute_parameter_gradients(self) -> None:
        """Computes only the gradients of the parameters."""
        raise NotImplementedError

    def repeatable(self, function: Callable[[], Any]) -> Any:
        """The function's result, with the random generator (for dropout) restored afterwards."""
        state = self.rng.bit_generator.state
        result = function()
        self.rng.bit_generator.state = state
        return result


class _LayerUnderTest(_UnderTest):
    """The sum of a layer's outputs, each multiplied by a fixed random number."""

    def __init__(self, layer: Layer, shape: Shape, backend: Backend, batch: int, rng: np.random.Generator) -> None:
        # Its own generator, which only forward passes advance: dropout must drop the same elements each time.
        self.layer, self.backend, self.rng = layer, backend, np.random.default_rng(rng.integers(2**32))
        layer.name = layer.name or type(layer).__name__.lower()
        self.name = f"{type(layer).__name__} on {backend.name}"
        layer.build(shape, context=Context(backend, np.float64, self.rng))
        self.x = spaced((batch, *shape), rng)
        self.weights = rng.standard_normal((batch, *layer.output_shape))
        _randomize(backend, [parameter.value for parameter in layer.parameters], rng)

    def parameters(self) -> dict[str, tuple[Array, Array]]:
        return {each.name: (each.value, each.gradient) for each in self.layer.parameters}

    def value(self) -> float:
        y = self.layer.forward(self.backend.asarray(self.x), training=True)
        return float(np.sum(self.backend.to_numpy(y) * self.weights))

    def input_gradient(self) -> Host:
        self.value()
        return self.backend.to_numpy(cast(Array, self.layer.backward(self.backend.asarray(self.weights))))

    def compute_parameter_gradients(self) -> None:
        self.value()
        self.layer.backward_parameters(self.backend.asarray(self.weights))


class _ModelUnderTest(_UnderTest):
    """A model's mean loss on random labels."""

    def __init__(self, model: Sequential, batch: int, rng: np.random.Generator) -> None:
        self.model, self.backend, self.rng, self.name = model, model.backend, model.rng, model.name
        self.x = spaced((batch, *model.input_shape), rng)
        self.labels = self.backend.asarray(rng.integers(0, len(model.classes), batch))
        self.score_gradients = self.backend.empty((batch, len(model.classes)), np.float64)
        _randomize(self.backend, [parameter.value for parameter in model.parameters], rng)

    def parameters(self) -> dict[str, tuple[Array, Array]]:
        return {each.name: (each.value, each.gradient) for each in self.model.parameters}

    def value(self) -> float:
        scores = self.model.forward(self.backend.asarray(self.x), training=True)
        total, _ = self.model.loss.evaluate(self.backend, scores, self.labels, self.score_gradients)
        return total / len(self.x)

    def input_gradient(self) -> Host:
        self.value()
        return self.backend.to_numpy(self.model.network.input_gradient(self.score_gradients))

    def compute_parameter_gradients(self) -> None:
        self.value()
        self.model.backward(self.score_gradients)


def _check(subject: _UnderTest, rng: np.random.Generator, elements: int) -> float:
    dx = subject.repeatable(subject.input_gradient)
    parameters = subject.parameters()
    gradients = {name: subject.backend.to_numpy(gradient) for name, (_, gradient) in parameters.items()}
    for _, gradient in parameters.values():
        subject.backend.copy(np.full(gradient.shape, np.nan), gradient)
    subject.repeatable(subject.compute_parameter_gradients)
    for name, (_, gradient) in parameters.items():
        if not np.array_equal(subject.backend.to_numpy(gradient), gradients[name]):
            raise ContractViolation(
                f"{subject.name}: the gradient of {name} changes if the gradient of x is not computed."
            )

    def store_x(host: Host) -> None:
        subject.x = host

    worst = _compare(subject, "x", subject.x.copy(), dx, store_x, rng, elements)
    for name, (array, _) in parameters.items():

        def store(host: Host, array: Array = array) -> None:
            subject.backend.copy(host, array)

        value = subject.backend.to_numpy(array)
        worst = max(worst, _compare(subject, name, value, gradients[name], store, rng, elements))
    return worst


def _compare(
    subject: _UnderTest,
    name: str,
    start: Host,
    analytic: Host,
    store: Callable[[Host], None],
    rng: np.random.Generator,
    elements: int,
) -> float:
    """The largest error of `analytic`, the gradient at `start`, relative to its bound; `store` sets the array.

    The difference itself is rounded to a few epsilon of the function over the step, which is allowed in addition.
    """
    rounding = 64 * np.finfo(np.float64).eps * max(1.0, abs(subject.repeatable(subject.value))) / STEP
    allowed = TOLERANCE * float(np.abs(analytic).max()) + rounding
    worst = 0.0
    if analytic[start == 0].any():
        raise ContractViolation(f"{subject.name}: {name} has elements held at zero whose gradient is not zero.")
    for flat in rng.permutation(np.flatnonzero(start))[:elements]:
        at = np.unravel_index(int(flat), start.shape)
        values = []
        for step in (STEP, -STEP):
            moved = start.copy()
            moved[at] += step
            store(moved)
            values.append(subject.repeatable(subject.value))
        numeric = (values[0] - values[1]) / (2 * STEP)
        error = abs(numeric - float(analytic[at]))
        if not error <= allowed:
            place = ", ".join(str(int(i)) for i in at)
            raise ContractViolation(
                f"{subject.name}: the gradient of {name}[{place}] is {analytic[at]:.9g}, "
                f"differences give {numeric:.9g} (allowed {allowed:.3g})."
            )
        worst = max(worst, error / allowed)
    store(start)
    return worst


def spaced(shape: Shape, rng: np.random.Generator) -> Host:
    """Numbers from -1 to 1 in random order, evenly spaced, so all distinct and none closer to 0 than half a space."""
    count = int(np.prod(shape))
    order = rng.permutation(2 * ((count + 1) // 2))[:count]
    return (2 * (order + 0.5) / (2 * ((count + 1) // 2)) - 1).reshape(shape)


def _randomize(backend: Backend, arrays: list[Array], rng: np.random.Generator) -> None:
    """Moves parameters randomly around their values, because a bias or shift of zero would hide errors.

    Zeros among other numbers stay: a connection table holds them and their gradient at zero.
    """
    for array in arrays:
        value = backend.to_numpy(array)
        moves = (value != 0) | (not value.any())
        backend.copy(value + moves * 0.3 * rng.standard_normal(array.shape), array)
