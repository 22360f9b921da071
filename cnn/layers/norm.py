"""Normalisation layers."""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from cnn.arithmetic import Footprint, Work, elementwise
from cnn.arrays import Array, Shape
from cnn.config import require
from cnn.convolution import Window
from cnn.initializers import Gaussian, Initializer, Ones, Zeros
from cnn.layers.layer import Layer, Lives, Parameter, Stores, image_shape

FOLDED_WEIGHTS, FOLDED_BIAS = "folded weights", "folded bias"
"""Names of buffers."""

MOST_SIZE = 1024
"""Neighbours that a response may be normalised by."""


@dataclass(eq=False)
class BatchNorm(Layer):
    """Normalises each channel over the batch and its pixels, then scales and shifts it (Ioffe & Szegedy 2015).

    Inference uses running means: running = momentum * running + (1 - momentum) * batch. Both use the biased variance.
    There it becomes part of the convolution or the product before it, where that is less work than a pass of its own.
    Without `scale` or `shift` this factor is 1, or this term 0, and not trained. activation is None or "relu". A frozen
    one uses the running means in training, too.
    """

    momentum: float = 0.9
    """The part of the running means that a step keeps."""
    epsilon: float = 1e-5
    """Added to the variance."""
    scale: bool = True
    shift: bool = True
    activation: str | None = None
    scales: Initializer = field(default_factory=Ones)
    """The initialiser of the factors; Zeros for the last one of a residual block, which then starts as its shortcut
    (Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1)."""

    def __post_init__(self) -> None:
        self.scales = Initializer.from_config(self.scales)
        require(
            isinstance(self.scales, Ones | Zeros | Gaussian),
            f"scales must be Ones, Zeros or Gaussian, as a factor has no fan-in, not {type(self.scales).__name__}.",
        )
        require(
            self.scale or self.scales == Ones(),
            f"Factors that are not trained are 1, not {type(self.scales).__name__}.",
        )
        require(0 <= self.momentum < 1, f"momentum must be at least 0 and below 1, not {self.momentum}.")
        require(self.epsilon > 0, f"epsilon must be above 0, not {self.epsilon}.")
        require(
            self.activation in (None, "relu"),
            f"BatchNorm applies relu or no activation, not {self.activation!r}; put another one after it as a layer.",
        )

    @property
    def repeatable(self) -> bool:
        # Processes that share a batch share its statistics.
        return not self.context.shard.divided

    lives = Lives(keeps_input=True, in_place=True)
    stores = Stores(True, True)

    def shape_after(self, input_shape: Shape) -> Shape:
        return input_shape

    def parameter_count(self, input_shape: Shape) -> int:
        return (self.scale + self.shift) * input_shape[-1]

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        x = batch * prod(input_shape)
        # Mean and variance take one pass each.
        statistics = [elementwise(4 * x, 2 * x)] if training else []
        # The gradients of gamma and beta come first.
        backward = [elementwise(4 * x, 2 * x), elementwise(5 * x, 3 * x)]
        return Work([*statistics, elementwise(2 * x, 2 * x)], data_gradient=backward)

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        if training and self.frozen and self.activation:
            return Footprint(scratch={"frozen y": prod(input_shape), "frozen dz": prod(input_shape)})
        return Footprint(scratch={"normal": prod(input_shape)} if training and not self.frozen else {})

    def create(self) -> None:
        shape = self.input_shape[-1:]
        self.gamma = self._factors("gamma", self.scales, trained=self.scale)
        self.beta = self._factors("beta", Zeros(), trained=self.shift)
        mean = self.backend.zeros(shape, self.context.dtype)
        variance = self.backend.asarray(np.ones(shape), self.context.dtype)
        self._running = (mean, variance)
        self._zeros = self.backend.zeros(shape, self.context.dtype)
        self.statistics = {f"{self.name}.running_mean": mean, f"{self.name}.running_variance": variance}

    def forward(self, x: Array, *, training: bool) -> Array:
        self._x = x
        mean, variance = self._running
        if training and not self.frozen:
            channels = self.input_shape[-1:]
            mean, variance = self.buffers.get("mean", channels), self.buffers.get("variance", channels)
            self.backend.batch_statistics(x, mean, variance)
            self.context.shard.merge_moments(mean, variance)
            for running, batch in zip(self._running, (mean, variance), strict=True):
                self.backend.running_mean(running, batch, momentum=self.momentum)
        y = self.output_buffer(len(x))
        factors, relu = (self.gamma.value, self.beta.value), self.activation == "relu"
        self.backend.batch_norm(x, mean, variance, *factors, y, epsilon=self.epsilon, relu=relu)
        return y

    def folded_into(self, w: Array, bias: Array | None) -> tuple[Array, Array]:
        """Weights (..., C) and a bias (C,) for the layer before it, whose output is then normalised as at inference."""
        mean, variance = self._running
        gamma, beta, zeros = self.gamma.value, self.beta.value, self._zeros
        old, scratch = zeros if bias is None else bias, self.context.scratch

        def scale(out: Array) -> None:
            self.backend.batch_norm(w, zeros, variance, gamma, zeros, out, epsilon=self.epsilon)

        def shift(out: Array) -> None:
            self.backend.batch_norm(old, mean, variance, gamma, beta, out, epsilon=self.epsilon)

        return (
            scratch.made_of(w, FOLDED_WEIGHTS, w.shape, None, scale),
            scratch.made_of(w, FOLDED_BIAS, w.shape[-1:], None, shift),
        )

    def reserve_folded(self, shape: Shape) -> None:
        """Makes space for folded weights of that shape and a bias, which all layers share, so that it never moves."""
        self.context.scratch.get(FOLDED_WEIGHTS, shape)
        self.context.scratch.get(FOLDED_BIAS, shape[-1:])

    def backward(self, dy: Array) -> Array:
        if self.frozen:
            return self._backward_frozen(dy)
        channels = self.input_shape[-1:]
        mean, variance = self.buffers.get("mean", channels), self.buffers.get("variance", channels)
        arrays = (self._x, dy, mean, variance, self.gamma.value, self.beta.value)
        sums, relu = (self.gamma.gradient, self.beta.gradient), self.activation == "relu"
        self.backend.batch_norm_sums(*arrays, *sums, self.context.scratch, epsilon=self.epsilon, relu=relu)
        shard = self.context.shard
        dgamma, dbeta = shard.summed(*sums)
        rows = shard.whole(len(dy)) * prod(self.input_shape[:-1])
        dx = self.input_gradient_buffer(len(dy))
        self.backend.batch_norm_gradient(*arrays, dgamma, dbeta, dx, epsilon=self.epsilon, rows=rows, relu=relu)
        return dx

    def _backward_frozen(self, dy: Array) -> Array:
        """The gradient of x where mean and variance do not depend on it: dz * gamma / sqrt(variance + epsilon)."""
        mean, variance = self._running
        dx = self.input_gradient_buffer(len(dy))
        if self.activation == "relu":
            y, dz = self.temporary("frozen y", dy), self.temporary("frozen dz", dy)
            factors = (self.gamma.value, self.beta.value)
            self.backend.batch_norm(self._x, mean, variance, *factors, y, epsilon=self.epsilon, relu=True)
            self.backend.activation_gradient("relu", y, dy, dz)
            dy = dz
        zeros = self._zeros
        self.backend.batch_norm(dy, zeros, variance, self.gamma.value, zeros, dx, epsilon=self.epsilon, relu=False)
        return dx

    def _factors(self, name: str, start: Initializer, *, trained: bool) -> Parameter:
        """A parameter (C,), or an array that nobody trains in its place."""
        shape = self.input_shape[-1:]
        if trained:
            return self.add_parameter(name, shape, start, (1.0, 0.0))
        value = self.backend.asarray(start.draw(shape, self.context.rng), self.context.dtype)
        return Parameter(name, value, self.backend.zeros(shape, self.context.dtype))


@dataclass(eq=False)
class LocalResponseNorm(Layer):
    """x / (k + alpha * mean of x**2 over a neighbourhood) ** beta, as in cuda-convnet and Caffe.

    The neighbourhood is `size` channels, or with region="within" a size x size square of the same channel.
    """

    repeatable = True

    size: int = 5
    alpha: float = 1e-4
    """The factor of the mean of squares."""
    beta: float = 0.75
    """The power."""
    k: float = 1.0
    """Added to the mean of squares."""
    region: str = "across"
    """"across" channels or "within" each."""

    def __post_init__(self) -> None:
        require(1 <= self.size <= MOST_SIZE, f"size must be at least 1 and at most {MOST_SIZE:,}, not {self.size}.")
        require(
            self.k > 0 and self.alpha >= 0,
            f"k ({self.k}) must be above 0 and alpha ({self.alpha}) at least 0.",
        )
        require(self.region in ("across", "within"), f'region must be "across" or "within", not {self.region!r}.')
        require(self.region == "across" or self.size % 2 == 1, f"A square needs an odd size, not {self.size}.")

    lives = Lives(keeps_input=True, keeps_output=True)

    def shape_after(self, input_shape: Shape) -> Shape:
        image_shape(self, input_shape)
        return input_shape

    @property
    def kind(self) -> str:
        return f"{super().kind} {self.region}"

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        x, size = batch * prod(input_shape), self.size if self.region == "across" else self.size**2
        forward = [elementwise((size + 3) * x, 2 * x), elementwise(2 * x, 3 * x)]
        return Work(forward, data_gradient=[elementwise((size + 7) * x, 5 * x)])

    def memory(self, input_shape: Shape, *, training: bool) -> Footprint:
        x = prod(input_shape)
        return Footprint(x, {"squares": x, "spread": x} if training else {"squares": x})

    def create(self) -> None:
        height, width, _ = self.input_shape
        reach = self.size // 2
        within = Window((height, width), (self.size, self.size), padding=(reach, reach, reach, reach))
        self._window = within if self.region == "within" else None

    def forward(self, x: Array, *, training: bool) -> Array:
        self._x, self._y = x, self.output_buffer(len(x))
        self._scale = self.buffers.get("scale", x.shape)
        scratch = self.context.scratch
        self.backend.lrn_scale(x, self._scale, scratch, size=self.size, window=self._window, alpha=self.alpha, k=self.k)
        self.backend.lrn(x, self._scale, self._y, beta=self.beta)
        return self._y

    def backward(self, dy: Array) -> Array:
        dx = self.input_gradient_buffer(len(dy))
        self.backend.lrn_gradient(
            self._x,
            self._y,
            dy,
            self._scale,
            dx,
            self.context.scratch,
            size=self.size,
            window=self._window,
            alpha=self.alpha,
            beta=self.beta,
        )
        return dx
