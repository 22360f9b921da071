"""What is timed, how often and in what order, with a clock that only the jobs advance."""

import pytest

from cnn.system.timing import in_turns, repeat, seconds_of, series, sustained


class Paced:
    """Jobs by name, each of which takes the next of its seconds, and how they ran."""

    def __init__(self, monkeypatch):
        self.now, self.ran = 0.0, []
        monkeypatch.setattr("cnn.system.timing.perf_counter", lambda: self.now)

    def job(self, name, *seconds):
        each = iter(seconds)

        def run():
            self.ran.append(name)
            self.now += next(each)

        return run


@pytest.fixture
def paced(monkeypatch):
    return Paced(monkeypatch)


def test_one_run_and_several_as_one(paced):
    assert seconds_of(paced.job("a", 3.0)) == 3
    assert seconds_of(lambda: repeat(paced.job("a", 1.0, 2.0, 4.0), 3)) == 7


def test_jobs_take_turns_after_warming_up_in_turns(paced):
    a, b = in_turns([paced.job("a", 9.0, 9.0, 3.0, 1.0, 2.0), paced.job("b", 9.0, 9.0, 4.0, 4.0, 8.0)], 3, warm_up=2)
    assert paced.ran == ["a", "b"] * 5
    assert (a, b) == ([3, 1, 2], [4, 4, 8])
    assert (a.least, a.median, b.least, b.median) == (1, 2, 4, 4)


def test_trials_go_on_until_all_together_took_so_long(paced):
    times = in_turns([paced.job("a", *[1.0] * 9), paced.job("b", *[2.0] * 9)], 2, seconds=10.0)
    # A turn of both takes 3 s: 9 s are too short, 12 s are not.
    assert times == [[1] * 4, [2] * 4]
    assert in_turns([paced.job("a", *[8.0] * 9)], 3, seconds=10.0) == [[8] * 3]


def test_a_series_leaves_out_the_first_run_and_an_even_one_has_a_median_between(paced):
    times = series(paced.job("a", 50.0, 3.0, 1.0, 4.0, 1.5), 4)
    assert (times.least, times.median) == (1, 2.25)


def test_runs_are_sustained_for_a_time_and_at_least_once(paced):
    assert sustained(paced.job("a", *[0.25] * 9), 1.0) == (4, 1.0)
    assert sustained(paced.job("a", *[0.4] * 9), 1.0) == (3, pytest.approx(1.2))
    assert sustained(paced.job("a", 5.0, 5.0), 0.0) == (1, 5)
