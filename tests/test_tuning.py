"""The tuner's choices when the speed of each setting is known, with a clock that only the jobs advance."""

import weakref
from contextlib import contextmanager
from itertools import count, pairwise

import numpy as np
import pytest

from cnn.errors import CnnError, Interrupted, UsageError
from cnn.measure import tuning
from cnn.measure.benchmark import Job
from cnn.measure.speedup import LUCK, Speedup, median_interval
from cnn.measure.tuning import Setting, Tuner

START = Setting(1, 10, {"tile": 4, "mode": None})


class Clock:
    """A clock, and jobs that take as long as their setting says, more or less by some noise."""

    def __init__(self, seconds, noise=0.0, seed=0):
        self.now, self.seconds, self.noise = 0.0, seconds, noise
        self.rng = np.random.default_rng(seed)
        self.made, self.alive = [], weakref.WeakSet()
        self.most_alive = self.threads = 0

    @contextmanager
    def limit(self, threads):
        self.threads = threads
        yield
        self.threads = 0

    def job(self, setting):
        class Run:
            def __call__(self):
                assert clock.threads == setting.threads
                clock.now += clock.seconds(setting) * np.exp(clock.noise * clock.rng.standard_normal())

        clock, run = self, Run()
        self.made.append(setting)
        self.alive.add(run)
        self.most_alive = max(self.most_alive, len(self.alive))
        return Job("fake", "fake", run, 0, setting.batch_size)


@pytest.fixture
def tuner(monkeypatch):
    """Makes a tuner and its clock from what a run of a setting takes."""

    def make(seconds, candidates, noise=0.0, seed=0, **settings):
        clock = Clock(seconds, noise, seed)
        monkeypatch.setattr("cnn.system.timing.perf_counter", lambda: clock.now)
        monkeypatch.setattr(tuning, "limit_threads", clock.limit)
        return Tuner(clock.job, START, candidates, **settings), clock

    return make


def tile_cost(setting):
    return 0.03 * (1 + abs(setting.options["tile"] - 16) / 16)


def test_the_fastest_of_many_is_found(tuner):
    run, clock = tuner(tile_cost, {"tile": [1, 2, 4, 8, 16, 32, 64]})
    gain = run.run()
    assert run.setting == START.changed("tile", 16)
    [finding] = run.findings
    assert (finding.name, finding.before, finding.value) == ("tile", 4, 16)
    # 10 images in 0.03 * 1.75 and 0.03 s.
    assert gain.before == pytest.approx(10 / 0.0525)
    assert gain.after == pytest.approx(10 / 0.03)
    assert gain.ratio == gain.low == gain.high == pytest.approx(1.75)
    assert {trial.value: trial.ratio for trial in finding.trials} == {
        value: pytest.approx(tile_cost(START) / tile_cost(START.changed("tile", value)))
        for value in (1, 2, 8, 16, 32, 64)
    }
    # The slow ones are not measured as often as the fast ones.
    tried = [setting.options["tile"] for setting in clock.made]
    assert [tried.count(value) for value in (64, 1, 2, 8, 16)] == sorted(tried.count(v) for v in (64, 1, 2, 8, 16))
    assert tried.count(64) == tuning.SCREENING


def test_nothing_changes_where_nothing_is_faster(tuner):
    run, _ = tuner(lambda setting: 0.03, {"tile": [1, 2, 4], "threads": [1, 2], "mode": [None, "a"]})
    assert run.run() is None
    assert run.setting == START
    assert [finding.name for finding in run.findings] == ["tile", "threads", "mode"]
    assert all(finding.comparison.ratio == 1 for finding in run.findings)


def test_what_cannot_be_chosen_is_not_measured(tuner):
    run, clock = tuner(lambda setting: 0.03, {"threads": [1], "batch_size": [10]})
    assert run.run() is None
    assert (run.findings, clock.made) == ([], [])


def test_images_count_not_batches(tuner):
    # Twice the time for four times the images.
    run, _ = tuner(lambda setting: 0.01 * setting.batch_size**0.5, {"batch_size": [10, 40]})
    assert run.run().ratio == pytest.approx(2)
    assert run.setting.batch_size == 40


def test_a_choice_is_searched_again_after_another_one_changed(tuner):
    # `mode` gains nothing unless the tile is 16; with "a" a tile of 32 is the best.
    def seconds(setting):
        best = 32 if setting.options["mode"] == "a" else 16
        gain = 0.5 if setting.options["mode"] == "a" and setting.options["tile"] >= 16 else 1.0
        return gain * 0.03 * (1 + abs(setting.options["tile"] - best) / 32)

    run, _ = tuner(seconds, {"mode": [None, "a"], "tile": [4, 8, 16, 32]})
    gain = run.run()
    assert dict(run.setting.options) == {"mode": "a", "tile": 32}
    assert [finding.name for finding in run.findings] == ["mode", "tile", "mode", "tile"]
    assert gain.ratio == pytest.approx(seconds(START) / seconds(run.setting))
    # Each starts from the previous result.
    tiles = [finding for finding in run.findings if finding.name == "tile"]
    assert all(earlier.value == later.before for earlier, later in pairwise(tiles))


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_noise_alone_changes_hardly_anything(tuner, noise):
    changes = 0
    for seed in range(400):
        run, _ = tuner(lambda setting: 0.09, {"tile": [1, 2, 4, 8, 16]}, noise, seed)
        run.run()
        changes += run.setting != START
    # LUCK allows 10 on average; more than 20 are two in a thousand.
    assert changes <= 20


def test_a_gain_above_the_noise_is_found(tuner):
    found = 0
    for seed in range(20):
        run, _ = tuner(tile_cost, {"tile": [4, 8, 16]}, 0.1, seed)
        run.run()
        found += run.setting.options["tile"] == 16
    assert found >= 19


def test_a_machine_that_gets_slower_and_slower_changes_nothing(tuner):
    for factor in (0.97, 1.03):
        calls = count()
        run, _ = tuner(lambda setting, c=calls, f=factor: 0.09 * f ** (next(c) / 10), {"tile": [2, 4, 8]})
        assert run.run() is None


def test_a_value_that_cannot_run_is_left_out_with_its_reason(tuner):
    def seconds(setting):
        if setting.options["tile"] == 8:
            raise CnnError("there is no tile of 8 here")
        if setting.options["tile"] == 32:
            raise MemoryError
        return tile_cost(setting)

    run, _ = tuner(seconds, {"tile": [4, 8, 16, 32]})
    run.run()
    assert run.setting.options["tile"] == 16
    reasons = {trial.value: trial.reason for trial in run.findings[0].trials}
    assert reasons == {8: "there is no tile of 8 here", 16: None, 32: "there is not enough memory"}


def test_a_value_that_dropped_out_is_not_faster_than_the_one_chosen_though_the_machine_was_busy(tuner):
    turns = count()

    def seconds(setting):
        # At first the value in force meets a busy machine: every other value looks several times as fast.
        hurt = 5 if next(turns) < 200 and setting.options["tile"] == 4 else 1
        return tile_cost(setting) * hurt

    run, _ = tuner(seconds, {"tile": [1, 2, 4, 8, 16]})
    run.run()
    [finding] = run.findings
    trials = {trial.value: trial for trial in finding.trials}
    assert finding.value == 16
    for value in (1, 2, 8):
        expected = (
            finding.comparison.ratio * tile_cost(START.changed("tile", 16)) / tile_cost(START.changed("tile", value))
        )
        assert trials[value].ratio == pytest.approx(expected)
        assert trials[value].images_per_second == pytest.approx(expected * finding.comparison.before)


def test_where_no_other_value_can_run_it_stays(tuner):
    def seconds(setting):
        if setting.options["tile"] != 4:
            raise CnnError("no")
        return 0.03

    run, _ = tuner(seconds, {"tile": [4, 8, 16, 32]})
    assert run.run() is None
    assert run.findings[0].comparison is None
    assert run.findings[0].value == 4


def test_a_start_that_cannot_run_is_an_error(tuner):
    def seconds(setting):
        raise CnnError("it cannot run")

    run, _ = tuner(seconds, {"tile": [4, 8]})
    with pytest.raises(CnnError, match="it cannot run"):
        run.run()


def test_at_most_two_are_held_at_a_time(tuner):
    run, clock = tuner(tile_cost, {"tile": [1, 2, 4, 8, 16, 32]})
    run.run()
    assert clock.most_alive <= 2
    assert len(clock.made) > 30


def test_compared_they_are_built_anew_every_few_rounds(tuner):
    run, clock = tuner(tile_cost, {"tile": [4, 8]}, rounds=15)
    run.run()
    assert clock.made.count(START) == tuning.SCREENING + 4


def test_a_stop_is_not_taken_for_a_value_that_cannot_run(tuner):
    def seconds(setting):
        if clock.made.count(START) == tuning.SCREENING:
            run.request_stop("a test")
        return 0.03

    run, clock = tuner(seconds, {"tile": [4, 8]})
    with pytest.raises(Interrupted, match="Stopped by a test"):
        run.run()
    assert run.findings == []


def test_stopped_it_keeps_what_it_found(tuner):
    run, clock = tuner(tile_cost, {"tile": [4, 16], "mode": [None, "a"]})

    def stop(finding):
        run.request_stop("a test")

    with pytest.raises(Interrupted, match="Stopped by a test"):
        run.run(stop)
    assert run.setting == START.changed("tile", 16)
    assert [finding.name for finding in run.findings] == ["tile"]
    assert all(setting.options["mode"] is None for setting in clock.made)


def test_few_rounds_are_refused(tuner):
    with pytest.raises(UsageError, match="5 rounds cannot tell a gain from noise; give at least 6"):
        tuner(tile_cost, {}, rounds=5)


@pytest.mark.parametrize(("rounds", "outside"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (25, 8)])
def test_interval_is_that_of_the_table_of_the_sign_test(rounds, outside):
    values = list(np.random.default_rng(0).permutation(rounds))
    assert median_interval(values) == (outside - 1, rounds - outside)


@pytest.mark.parametrize("rounds", [6, 15])
def test_interval_holds_the_median_as_often_as_it_says(rounds):
    rng = np.random.default_rng(1)
    draws = rng.exponential(size=(4000, rounds))
    held = [low <= np.log(2) <= high for low, high in map(median_interval, draws)]
    assert np.mean(held) >= 1 - 2 * LUCK - 0.01


def test_faster_means_above_the_noise():
    mostly = Speedup.of([(1.2, 1.0)] * 12 + [(1.0, 1.1)] * 3)
    assert mostly.ratio == pytest.approx(1.2)
    assert mostly.faster
    assert not Speedup.of([(1.2, 1.0)] * 11 + [(1.0, 1.1)] * 4).faster
