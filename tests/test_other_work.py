"""The share of the processors that other work takes, from /proc files that the tests write."""

import os

import pytest

from cnn.measure.benchmark import busy
from cnn.measure.other_work import OtherWork

CPUS = sorted(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")


def counters(root, spent, processes):
    """`spent` processor seconds, on the last processor, and `processes`: parent and seconds by number."""
    zeros = [0] * 10
    ticks = [int(spent * TICK / 2), 0, 0, 999999, 88888, 0, 0, int(spent * TICK / 2), 7, 7]
    lines = [["cpu", *ticks], *([f"cpu{n}", *(ticks if n == CPUS[-1] else zeros)] for n in CPUS)]
    # A processor that this process may not use.
    lines.append([f"cpu{CPUS[-1] + 1}", *[10**9] * 10])
    (root / "stat").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines) + "intr 5\n")
    for number, (parent, seconds) in processes.items():
        (root / str(number)).mkdir(exist_ok=True)
        fields = ["S", parent, *[0] * 9, 0, int(seconds * TICK), 0, 0, 20]
        (root / str(number) / "stat").write_text(f"{number} (a) b) {' '.join(map(str, fields))}\n")


@pytest.mark.parametrize(("others", "share"), [(0.0, 0.0), (0.5, 0.5), (9.0, 1.0)])
def test_what_is_not_of_this_process_and_its_children_is_others(monkeypatch, tmp_path, others, share):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("cnn.system.timing.perf_counter", lambda: next(clock))
    us, child = os.getpid(), os.getpid() + 1
    counters(tmp_path, 100, {us: (1, 3), child: (us, 0), child + 1: (child, 5), 1: (0, 50)})
    with OtherWork(tmp_path) as watched:
        spent = others * 10 * len(CPUS)
        counters(tmp_path, 100 + 4 + spent, {us: (1, 4), child: (us, 1), child + 1: (child, 7), 1: (0, 50 + spent)})
    assert watched.share == pytest.approx(share, abs=0.01)


def test_without_counters_nothing_is_known(tmp_path):
    with OtherWork(tmp_path) as watched:
        pass
    assert watched.share is None
    assert busy({"a": [1.0, 1.0]}, None) is None


def test_a_busy_machine_is_told_by_either_sign():
    steady, restless = [10.0] * 20, [10.0] * 18 + [7.0] * 2
    assert busy({"a": steady}, 0.1) is None
    assert (
        busy({"a": steady}, 0.48)
        == "The machine was busy: other work took 48% of the processors; repeat when it is idle."
    )
    both = busy({"a": steady, "b": restless}, 0.48)
    assert both.endswith("48% of the processors, and b fell below 80% of the median rate; repeat when it is idle.")
