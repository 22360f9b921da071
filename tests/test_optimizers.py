"""Optimizers: two steps of each worked by hand, and what multipliers and decay add to the gradient."""

import numpy as np
import pytest

from cnn.errors import UsageError
from cnn.layers import BatchNorm, Flatten, Linear, Parameter
from cnn.model.sequential import Sequential
from cnn.optimizers import EMA, SGD, Adam, AdamW, Lookahead, Multiplier, Optimizer, RMSprop, multiplied
from cnn.registry import create


def steps(optimizer, gradients, rates, *, start=1.0, multipliers=(1.0, 1.0)):
    """The weight after each step from `start` with the given gradients and learning rates."""
    backend = create("numpy")
    parameter = Parameter("w", backend.asarray([start], np.float64), backend.zeros((1,), np.float64), *multipliers)
    optimizer.attach(backend, [parameter])
    path = []
    for gradient, rate in zip(gradients, rates, strict=True):
        parameter.gradient[:] = gradient
        optimizer.step(rate)
        assert parameter.gradient == [gradient]
        path.append(float(parameter.value[0]))
    return path


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(0.0), [0.8, 0.9]),
        # v = 2, then 0.5 * 2 - 1 = 0, each times 0.1; with Nesterov 0.1 * (0.5 * 2 + 2), then 0.1 * (0.5 * 0 - 1).
        (SGD(0.5, lr_outside=True), [0.8, 0.8]),
        (SGD(0.5, nesterov=True, lr_outside=True), [0.7, 0.8]),
        # The weight shrinks by a tenth of lr, apart from a step of Adam without memory, 0.1 times the sign.
        (AdamW(0.0, 0.0, 1e-12, weight_decay=0.1), [0.89, 0.9811]),
        # v = 0.2, then 0.5 * 0.2 - 0.1 = 0.
        (SGD(0.5), [0.8, 0.8]),
        # Steps 0.5 * 0.2 + 0.2 = 0.3, then 0.5 * 0 - 0.1 = -0.1.
        (SGD(0.5, nesterov=True), [0.7, 0.8]),
        # Gradients 2 + 0.1 * 1 and -1 + 0.1 * 0.79.
        (SGD(0.0, weight_decay=0.1), [0.79, 0.8821]),
        # s = 0.25 * 4 = 1, then 0.75 + 0.25 = 1: the steps are 0.1 * 2 / 1 and 0.1 * -1 / 1.
        (RMSprop(0.75, 1e-12), [0.8, 0.9]),
    ],
    ids=str,
)
def test_two_steps_worked_by_hand(optimizer, expected):
    assert steps(optimizer, [2.0, -1.0], [0.1, 0.1]) == pytest.approx(expected, rel=1e-9)


def test_the_learning_rate_is_part_of_the_velocity_as_in_caffe():
    # v = 1 * 2; then v = 0.5 * 2 + 0.1 * 2 = 1.2: the lower rate does not shrink the rest of the first step.
    assert steps(SGD(0.5), [2.0, 2.0], [1.0, 0.1]) == pytest.approx([-1.0, -2.2])


def test_momentum_under_a_constant_gradient_is_the_geometric_series():
    path = steps(SGD(0.9), [1.0] * 5, [0.1] * 5, start=0.0)
    assert path == pytest.approx([-0.1 * sum((1 - 0.9**k) / 0.1 for k in range(1, n + 1)) for n in range(1, 6)])


def test_rmsprop_follows_the_closed_form_for_a_constant_gradient():
    # s after n steps is (1 - rho ** n) g ** 2.
    path = steps(RMSprop(0.9, 1e-12), [3.0] * 4, [0.01] * 4, start=0.0)
    assert path == pytest.approx([-0.01 * sum((1 - 0.9**k) ** -0.5 for k in range(1, n + 1)) for n in range(1, 5)])


@pytest.mark.parametrize("gradient", [1e-3, 1.0, -50.0])
def test_adams_bias_correction_makes_every_step_under_a_constant_gradient_the_learning_rate(gradient):
    path = steps(Adam(epsilon=1e-12), [gradient] * 6, [0.01] * 6, start=0.0)
    assert path == pytest.approx([-0.01 * np.sign(gradient) * n for n in range(1, 7)], rel=1e-6)


def test_adams_second_step_worked_by_hand():
    # m = 0.5 * 0.5 * 4 + 0.5 * 2 = 2, over 1 - 0.25: 8/3. v = 0.75 * 0.25 * 16 + 0.25 * 4 = 4, over 1 - 0.5625: 64/7.
    path = steps(Adam(0.5, 0.75, 1e-12), [4.0, 2.0], [0.1, 0.1])
    assert path == pytest.approx([0.9, 0.9 - 0.1 * (8 / 3) / (64 / 7) ** 0.5])


def test_adams_epsilon_stands_outside_the_root():
    assert steps(Adam(epsilon=1.0), [1.0], [0.1]) == pytest.approx([0.95])


@pytest.mark.parametrize("optimizer", [SGD(0.0, 0.1), RMSprop(0.75, 1e-12, 0.1), Adam(epsilon=1e-12, weight_decay=0.1)])
def test_decay_is_the_weight_added_to_the_gradient(optimizer):
    plain = Optimizer.from_config({**optimizer.config(), "weight_decay": 0.0})
    assert steps(optimizer, [2.0], [0.1], start=3.0) == pytest.approx(steps(plain, [2.3], [0.1], start=3.0))
    # Without a gradient, decay alone pulls the weight towards zero.
    assert steps(optimizer, [0.0], [0.1], start=3.0)[0] < 3


def test_multipliers_scale_the_rate_and_the_decay():
    # lr 0.2, gradient 2 + 0.3 * 1.
    assert steps(SGD(0.0, 0.1), [2.0], [0.1], multipliers=(2.0, 3.0)) == pytest.approx([1 - 0.2 * 2.3])
    assert steps(SGD(0.0, 0.1), [0.0], [0.1], multipliers=(1.0, 0.0)) == [1.0]
    assert steps(SGD(0.9, 0.1), [2.0, 3.0], [0.1, 0.1], multipliers=(0.0, 1.0)) == [1.0, 1.0]


def test_attach_starts_afresh_and_keeps_one_state_a_parameter():
    backend, optimizer = create("numpy"), Adam()
    parameters = [
        Parameter(name, backend.zeros(shape), backend.asarray(np.ones(shape, np.float32)))
        for name, shape in (("a", (2, 3)), ("b", (4,)))
    ]
    optimizer.attach(backend, parameters)
    optimizer.step(0.1)
    assert {name: array.shape for name, array in optimizer.state.items()} == {
        "a.first": (2, 3),
        "a.second": (2, 3),
        "b.first": (4,),
        "b.second": (4,),
    }
    assert optimizer.time == 1
    assert optimizer.state["a.first"].any()
    optimizer.attach(backend, parameters)
    assert optimizer.time == 0
    assert not any(array.any() for array in optimizer.state.values())


@pytest.mark.parametrize("optimizer", [SGD(nesterov=True), RMSprop(), Adam()], ids=str)
def test_a_float32_parameter_stays_float32_and_takes_no_memory_after_the_first_step(optimizer, monkeypatch):
    backend = create("numpy")
    parameter = Parameter("w", backend.asarray(np.ones(5, np.float32)), backend.asarray(np.ones(5, np.float32)))
    optimizer.attach(backend, [parameter])
    optimizer.step(0.1)
    monkeypatch.setattr(type(backend), "empty", lambda *_: pytest.fail("memory was taken"))
    optimizer.step(0.1)
    assert parameter.value.dtype == np.float32
    assert all(array.dtype == np.float32 for array in optimizer.state.values())


@pytest.mark.parametrize("optimizer", [SGD(0.5, 0.1, True), RMSprop(0.5, 1e-3, 0.2), Adam(0.5, 0.6, 1e-4, 0.3), SGD()])
def test_a_configuration_makes_the_same_optimizer(optimizer):
    table = optimizer.config()
    assert Optimizer.from_config(table).config() == table
    assert type(Optimizer.from_config(table)) is type(optimizer)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: SGD(1.0), "momentum"),
        (lambda: SGD(weight_decay=-1.0), "weight_decay"),
        (lambda: SGD(weight_decay=float("nan")), "weight_decay"),
        (lambda: RMSprop(rho=-0.1), "rho"),
        (lambda: RMSprop(epsilon=0.0), "epsilon"),
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=2.0), "beta2"),
        (lambda: Adam(epsilon=-1.0), "epsilon"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(make, expected):
    with pytest.raises(UsageError, match=expected):
        make()


def test_a_rate_outside_the_velocity_changes_past_steps_too():
    # v = 2 and 0.5 * 2 + 0 = 1, at rates of 0.1 and 0.2; inside, v = 0.2 and 0.1.
    assert steps(SGD(0.5, lr_outside=True), [2, 0], [0.1, 0.2]) == pytest.approx([0.8, 0.6])
    assert steps(SGD(0.5), [2, 0], [0.1, 0.2]) == pytest.approx([0.8, 0.7])


def test_decoupled_decay_follows_the_schedule_but_neither_the_base_rate_nor_multipliers():
    backend = create("numpy")
    for base, multiplier in ((0.1, 1.0), (4.0, 1.0), (0.1, 64.0)):
        parameter = Parameter("w", backend.asarray([1.0], np.float64), backend.zeros((1,), np.float64), multiplier, 0.5)
        optimizer = SGD(0.0, weight_decay=0.2, decoupled=True)
        optimizer.attach(backend, [parameter], base)
        optimizer.step(base)
        assert parameter.value[0] == pytest.approx(0.9)
        optimizer.step(base / 2)
        assert parameter.value[0] == pytest.approx(0.9 * 0.95)


def normed():
    return Sequential([Flatten(), Linear(3), BatchNorm(), Linear(2)], (2, 2, 1), backend="numpy")


def test_patterns_cut_groups_where_multipliers_differ():
    model = normed()
    found = multiplied(model.groups, [Multiplier("batchnorm*", 64.0, epochs=3), Multiplier("*.beta", decay=0.5)])
    of = {name: each for each in found for name, array in model.arrays().items() if np.shares_memory(array, each.value)}
    plain = {part.name: group for group in model.groups for part, _ in group.parts}
    for name, group in plain.items():
        norm = name.startswith("batchnorm")
        assert of[name].lr_multiplier == (64 if norm else group.lr_multiplier)
        assert of[name].decay_multiplier == (0.5 if name.endswith(".beta") else group.decay_multiplier)
        assert of[name].epochs == (3 if norm else np.inf)
    assert sum(each.value.size for each in found) == sum(group.value.size for group in model.groups)
    assert len({each.name for each in found}) == len(found)
    with pytest.raises(UsageError, match="no trained parameter named 'norm"):
        multiplied(model.groups, [Multiplier("norm*")])


def test_a_parameter_freezes_after_its_epochs():
    backend = create("numpy")
    parameter = Parameter("w", backend.asarray([1.0], np.float64), backend.asarray([1.0], np.float64), epochs=2)
    optimizer = SGD(0.9)
    optimizer.attach(backend, [parameter])
    values = []
    for epoch in range(4):
        optimizer.step(0.1, epoch)
        values.append(float(parameter.value[0]))
    assert values == pytest.approx([0.9, 0.71, 0.71, 0.71])


def following(slow, values, steps):
    backend = create("numpy")
    fast = backend.asarray([0.0], np.float64)
    slow.attach(backend, {"w": fast})
    path = []
    for step, value in enumerate(values, 1):
        fast[:] += value
        slow.after(step, steps)
        path.append((float(fast[0]), float(slow.state["w"][0])))
    return path


def test_slow_weights_worked_by_hand():
    # Every second step the slow weight goes half the way, and the fast one back to it.
    assert following(Lookahead(2, 0.5), [1, 1, 2, 2], 4) == [(1, 0), (1, 1), (3, 1), (3, 3)]
    # It keeps 0.5 * (1/2)^2 = 1/8 of itself in the middle of the run.
    assert following(Lookahead(2, 0.5, 2.0), [1, 1], 4)[1] == (1.75, 1.75)
    assert following(EMA(0.75), [1, 1], 2) == [(1, 0.25), (2, 0.6875)]


def test_the_average_is_shown_only_for_a_while():
    slow = EMA(0.5)
    following(slow, [1], 1)
    fast = slow._fast["w"]
    with slow.shown():
        assert fast[0] == 0.5
    assert fast[0] == 1
    slow.finish()
    assert fast[0] == 0.5
