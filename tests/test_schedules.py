"""Learning-rate schedules: their closed forms at the steps where they change."""

from math import cos, pi

import pytest

from cnn.errors import UsageError
from cnn.schedules import (
    Constant,
    Cosine,
    Exponential,
    FractionStep,
    Inv,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    Triangular,
    Warmup,
)

SCHEDULES = [
    (Constant(0.3), {0: 0.3, 10**6: 0.3}),
    (Step(1.0, 10, 0.5), {0: 1, 9: 1, 10: 0.5, 19: 0.5, 20: 0.25, 35: 0.125}),
    (MultiStep(1.0, (4, 6)), {0: 1, 3: 1, 4: 0.1, 5: 0.1, 6: 0.01, 1000: 0.01}),
    (MultiStep(2.0, ()), {0: 2, 99: 2}),
    # (1 + 1e-4 * 10,000) ** -0.75 is 2 ** -0.75: Caffe's LeNet ends at 0.0059460.
    (Inv(0.01), {0: 0.01, 10_000: 0.0059460355750136}),
    (Inv(1.0, 1.0, 2.0), {1: 0.25, 3: 0.0625}),
    (Exponential(8.0, 0.5), {0: 8, 1: 4, 5: 0.25}),
    (Cosine(2.0, 8), {0: 2, 2: 1 + 2**-0.5, 4: 1, 6: 1 - 2**-0.5, 8: 0, 9: 0}),
    (Cosine(1.0, 12, 4, 0.2), {0: 0.25, 1: 0.5, 3: 1, 4: 1, 8: 0.6, 12: 0.2, 50: 0.2}),
    (Warmup(Constant(0.8), 4, 0.5), {0: 0.5, 1: 0.6, 3: 0.8, 4: 0.8, 100: 0.8}),
    (Warmup(Step(1.0, 2, 0.5), 4), {0: 0.25, 1: 0.5, 2: 0.375, 3: 0.5, 4: 0.25}),
    (Cosine(1.0, 5, 1), {0: 1, 1: 1, 2: (1 + cos(pi / 4)) / 2}),
]


WHOLE = [
    # The peak is at int(0.23 * 100) = 23: a rise by 0.8 in 23 steps, then a fall by 0.93 in 77.
    (Triangular(2.0, 0.23, 0.2, 0.07), {0: 0.4, 23: 2, 100: 0.14, 10: 2 * (0.2 + 8 / 23), 24: 2 * (1 - 0.93 / 77)}),
    (Triangular(1.0, 0.0), {0: 1, 50: 0.5, 100: 0}),
    (OneCycle(2.0, 0.4, 0.5, 0.1), {0: 1, 20: 1.5, 40: 2, 70: 1.1, 100: 0.2}),
    (Polynomial(3.0, 2.0), {0: 3, 50: 0.75, 100: 0}),
    (FractionStep(1.0, (0.5, 0.75)), {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
    (Warmup(Polynomial(1.0), 4), {0: 0.25, 2: 0.735, 50: 0.5}),
]


@pytest.mark.parametrize(("schedule", "rates"), WHOLE, ids=str)
def test_rates_over_a_run_of_a_hundred_steps(schedule, rates):
    bound = schedule.over(100)
    assert {step: bound.rate(step) for step in rates} == pytest.approx(rates, rel=1e-12, abs=1e-15)
    assert schedule.needs_steps
    assert Schedule.from_config(schedule.config()) == schedule
    assert schedule.at(2 * schedule.lr).over(100).rate(30) == pytest.approx(2 * bound.rate(30))
    with pytest.raises(UsageError, match=r"call `over\(steps\)` first"):
        schedule.rate(0)


@pytest.mark.parametrize(("schedule", "rates"), SCHEDULES, ids=str)
def test_rates_are_those_of_the_closed_form(schedule, rates):
    assert {step: schedule.rate(step) for step in rates} == pytest.approx(rates, rel=1e-12, abs=1e-15)
    assert all(type(schedule.rate(step)) is float for step in rates)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in SCHEDULES], ids=str)
def test_a_configuration_makes_the_same_schedule(schedule):
    assert Schedule.from_config(schedule.config()) == schedule


def test_another_rate_is_another_multiple_of_the_same_schedule():
    schedule = Warmup(Step(1.0, 2, 0.5), 4)
    assert [schedule.at(3.0).rate(step) for step in range(5)] == [3 * schedule.rate(step) for step in range(5)]
    assert schedule.at(3.0).lr == 3


def test_a_list_of_milestones_is_as_good_as_a_tuple():
    assert MultiStep(1.0, [4, 6]) == MultiStep(1.0, (4, 6))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Constant(0.0), "learning rate .* not 0.0"),
        (lambda: Constant(float("nan")), "learning rate .* not nan"),
        (lambda: Inv(float("inf")), "learning rate .* not inf"),
        (lambda: Inv(1.0, gamma=-1.0), "gamma .* not -1.0"),
        (lambda: Inv(1.0, power=-1.0), "power .* not -1.0"),
        (lambda: Warmup(Constant(), 0), "steps .* not 0"),
        (lambda: Warmup(Constant(), 5, 1.5), "start .* not 1.5"),
        (lambda: Step(1.0, 0), "every .* not 0"),
        (lambda: Step(1.0, 5, -0.1), "gamma .* not -0.1"),
        (lambda: MultiStep(1.0, (5, 4)), r"milestones .* not \(5, 4\)"),
        (lambda: MultiStep(1.0, (5, 5)), r"milestones .* not \(5, 5\)"),
        (lambda: MultiStep(1.0, (0, 5)), r"milestones .* not \(0, 5\)"),
        (lambda: MultiStep(1.0, (5,), float("inf")), "gamma .* not inf"),
        (lambda: Exponential(1.0, -2.0), "gamma .* not -2.0"),
        (lambda: Cosine(1.0, 5, 5), r"warmup \(5\) .* steps \(5\)"),
        (lambda: Cosine(1.0, 5, -1), r"warmup \(-1\)"),
        (lambda: Cosine(1.0, 5, floor=2.0), r"floor \(2.0\) .* lr \(1.0\)"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_value(make, expected):
    with pytest.raises(UsageError, match=expected):
        make()
