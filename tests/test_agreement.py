"""Each layer of each network of the zoo agrees with the reference backend, forward and backward, within a bound.

Every layer is given the input and the gradient that the reference's own network has there, so that a layer answers for
its own rounding only. The bounds are those of `cnn.testing`, propagated through the layer: the error of a sum reaches
the activation, and the error of the activation reaches its gradient.
"""

import numpy as np
import pytest
from helpers.broken_backends import HalfPrecision, planted
from helpers.ready_backends import ALL, ready

from cnn import registry
from cnn.arrays import Buffers
from cnn.layers import AvgPool2D, BatchNorm, Conv2D, Flatten, Linear, LocalResponseNorm, MaxPool2D
from cnn.layers.activation import Activation
from cnn.layers.weighted import Weighted
from cnn.model.zoo import SMALL, architecture

BATCH = 2
EPS = 2.0**-23
HOST = registry.create("numpy")


def compared(name):
    """Whether a network is a chain without batch normalisation, which the contract compares by itself."""
    nodes = architecture(name).network.nodes
    return all(node.inputs == (node.place - 1,) and not isinstance(node.layer, BatchNorm) for node in nodes)


CHAINS = [name for name in SMALL if compared(name)]


@pytest.fixture(scope="module", params=CHAINS)
def reference_run(request):
    """(network name, (input, output, dy, dx, parameter gradients) of each layer) by the reference."""
    model = architecture(request.param).build(backend="reference", seed=1)
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (BATCH, *model.input_shape), np.uint8)
    x, steps = model.load_images(images), []
    for layer in model.layers:
        # Larger than the published ones (some of 0.0001), with biases: otherwise only zeros would reach the end.
        for parameter in layer.parameters:
            size = 1.5 / np.sqrt(np.prod(parameter.value.shape[:-1])) if parameter.value.ndim > 1 else 0.1
            parameter.value[...] = size * rng.standard_normal(parameter.value.shape)
        y = layer.forward(x, training=True)
        steps.append({"x": x.copy(), "y": y.copy()})
        x = y
    dy = np.empty_like(x)
    model.loss.evaluate(model.backend, x, rng.integers(0, 10, BATCH), dy)
    for layer, step in zip(reversed(model.layers), reversed(steps), strict=True):
        dx = layer.backward(dy)
        gradients = [parameter.gradient.copy() for parameter in layer.parameters]
        step |= {"dy": dy.copy(), "dx": dx.copy(), "gradients": gradients, "values": layer.parameters}
        dy = dx
    return request.param, steps


@pytest.mark.parametrize("name", [name for name in ALL if name != "reference"])
def test_every_layer_agrees_with_the_reference(reference_run, name):
    backend = ready(name)
    agree(*reference_run, backend)


def test_half_precision_is_found_in_every_net(reference_run):
    with pytest.raises(AssertionError, match=r"\.(conv|linear)1 (y|dw): .* at most"):
        agree(*reference_run, planted(HalfPrecision, "numpy"))


def agree(net, steps, backend):
    """Fails unless every layer of the network, on the backend, gives the reference's results within its bound."""
    model = architecture(net).build(backend=backend)
    for layer, step in zip(model.layers, steps, strict=True):
        for parameter, given in zip(layer.parameters, step["values"], strict=True):
            backend.copy(given.value, parameter.value)
        y = backend.to_numpy(layer.forward(backend.asarray(step["x"]), training=True))
        dx = backend.to_numpy(layer.backward(backend.asarray(step["dy"])))
        gradients = [backend.to_numpy(parameter.gradient) for parameter in layer.parameters]
        bounds = BOUNDS[type(layer)](layer, step)
        expected = (step["y"], step["dx"], *step["gradients"])
        for what, got, right, bound in zip(
            ("y", "dx", "dw", "db"), (y, dx, *gradients), expected, bounds, strict=False
        ):
            error = np.abs(got.astype(np.float64) - right)
            # The reference rounds its result to float32 too.
            allowed = bound + EPS * np.abs(right)
            assert (error <= allowed).all(), f"{net}.{layer.name} {what}: {error.max()} at most {allowed.max()}"
            assert np.abs(right).max() > 0, f"{net}.{layer.name} {what} is all zeros: nothing was compared"


def weighted_bounds(layer, step):
    """The bounds on y, dx, dw and db of act(x * w + b), as described at the top."""
    x, dy, y, w = (np.abs(each.astype(np.float64)) for each in (step["x"], step["dy"], step["y"], layer.w.value))
    b = np.abs(layer.b.value.astype(np.float64)) if layer.b else None
    terms = int(np.prod(w.shape[:-1]))
    dz = EPS * (terms + 3) * forward(layer, x, w, b)
    dy_error = np.zeros_like(y)
    if layer.activation is None:
        y_error = dz
    elif layer.activation == "relu":
        # Where the sum may have either sign, the gradient may be all or nothing.
        y_error, dy_error = dz, np.where(y <= dz, dy, 0)
    else:
        y_error = dz + 8 * EPS * y
        dy_error = dy * (2 * y_error + 4 * EPS)
    rows = y.size // y.shape[-1]
    dx_error = data_gradient(layer, dy_error, w) + EPS * (w.size // w.shape[-2] + 2) * data_gradient(layer, dy, w)
    dw_error = weight_gradient(layer, x, dy_error) + EPS * (rows + 2) * weight_gradient(layer, x, dy)
    axes = tuple(range(y.ndim - 1))
    db_error = dy_error.sum(axis=axes) + EPS * (rows + 2) * dy.sum(axis=axes)
    return y_error, dx_error, dw_error, db_error


def forward(layer, x, w, b):
    """x * w + b in float64."""
    out = np.empty((len(x), *layer.output_shape))
    if isinstance(layer, Linear):
        np.matmul(x, w, out=out)
    else:
        HOST.conv2d(x, w, None, layer.convolution, None, out, Buffers(HOST))
    return out if b is None else out + b


def data_gradient(layer, dy, w):
    """The gradient of x in float64."""
    if isinstance(layer, Linear):
        return dy @ w.T
    out = np.empty((len(dy), *layer.input_shape))
    HOST.conv2d_data_gradient(dy, w, layer.convolution, out, Buffers(HOST))
    return out


def weight_gradient(layer, x, dy):
    """The gradient of w in float64."""
    if isinstance(layer, Linear):
        return x.T @ dy
    out = np.empty(layer.w.value.shape)
    HOST.conv2d_weight_gradient(x, dy, layer.convolution, out, Buffers(HOST))
    return out


def exact_bounds(layer, step):
    """Copies and selections."""
    return np.zeros(step["y"].shape), np.zeros(step["x"].shape)


def max_pool_bounds(layer, step):
    """y is selected; a pixel that wins several windows sums their gradients, R*S of them at most."""
    x, dy = step["x"].astype(np.float64), np.abs(step["dy"].astype(np.float64))
    winners, dx = np.empty(dy.shape, np.uint8), np.empty(x.shape)
    HOST.max_pool2d(x, layer.window, np.empty(dy.shape), winners, Buffers(HOST))
    HOST.max_pool2d_gradient(dy, winners, layer.window, dx, Buffers(HOST))
    return np.zeros(dy.shape), EPS * (layer.window.taps + 2) * dx


def avg_pool_bounds(layer, step):
    """Two sums of at most R*S terms, each divided."""
    x, dy = np.abs(step["x"].astype(np.float64)), np.abs(step["dy"].astype(np.float64))
    y, dx = np.empty(dy.shape), np.empty(x.shape)
    HOST.avg_pool2d(x, layer.window, y)
    HOST.avg_pool2d_gradient(dy, layer.window, dx, Buffers(HOST))
    return EPS * (layer.window.taps + 3) * y, EPS * (layer.window.taps + 3) * dx


def activation_bounds(layer, step):
    """The function's own rounding, and its gradient's."""
    return 8 * EPS * np.abs(step["y"]), 20 * EPS * np.abs(step["dy"])


def lrn_bounds(layer, step):
    """A relative error in the scale, then in its powers; the gradient is a difference of two parts."""
    terms = layer.size if layer.region == "across" else layer.size**2
    x, y, dy = (step[each].astype(np.float64) for each in ("x", "y", "dy"))
    scale = (np.divide(np.abs(x), np.abs(y), out=np.ones_like(x), where=y != 0)) ** (1 / layer.beta)
    ratio = np.abs(dy * y) / scale
    spread = np.empty_like(x)
    HOST.avg_pool2d_gradient(ratio, layer._window, spread, Buffers(HOST))
    parts = np.abs(dy) * scale**-layer.beta + 2 * layer.alpha * layer.beta * np.abs(x) * spread
    return EPS * (terms + 14) * np.abs(y), EPS * (3 * terms + 30) * parts


BOUNDS = {
    Conv2D: weighted_bounds,
    Linear: weighted_bounds,
    Flatten: exact_bounds,
    MaxPool2D: max_pool_bounds,
    AvgPool2D: avg_pool_bounds,
    LocalResponseNorm: lrn_bounds,
    **dict.fromkeys(Activation.__subclasses__(), activation_bounds),
}


def test_every_layer_of_the_zoo_has_a_bound():
    kinds = {type(layer) for name in CHAINS for layer in architecture(name).network.layers}
    assert kinds <= set(BOUNDS)
    assert all(BOUNDS[kind] is weighted_bounds for kind in kinds if issubclass(kind, Weighted))
