"""RAPL is read from powercap's files and from perf events: what is counted, wrap-around, and every refusal."""

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import cnn.energy.rapl as rapl
from cnn.energy.rapl import PerfEvents, Powercap
from cnn.energy.reader import MeterUnavailable
from cnn.system.timing import now

PACKAGE_RANGE, MEMORY_RANGE = 262143328850, 65712999613
"""max_energy_range_uj of a package and of memory on Xeon servers: 2**32 units of 61 and of 15.3 microjoules."""

CPU_CLOCK = 1, 0
"""PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK: nanoseconds of a CPU, which virtual machines count too."""


def zone(root, name, label, microjoules, limit=PACKAGE_RANGE):
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, value in {"name": label, "energy_uj": microjoules, "max_energy_range_uj": limit, "enabled": 1}.items():
        (folder / file).write_text(f"{value}\n")
    return folder


def spend(folder, microjoules):
    """Sets a zone's counter."""
    (folder / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def two_sockets(tmp_path):
    """The zones of a server with two Xeons as in Linux, plus psys and a second path to package-0."""
    (tmp_path / "sys/class/powercap/intel-rapl").mkdir(parents=True)
    return {
        "root": tmp_path,
        "package-0": zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000),
        "core 0": zone(tmp_path, "intel-rapl:0:0", "core", 500_000),
        "dram 0": zone(tmp_path, "intel-rapl:0:1", "dram", 7_000_000, MEMORY_RANGE),
        "package-1": zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000),
        "dram 1": zone(tmp_path, "intel-rapl:1:0", "dram", 8_000_000, MEMORY_RANGE),
        "psys": zone(tmp_path, "intel-rapl:2", "psys", 9_000_000),
        "mmio": zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000),
    }


def test_packages_and_memory_are_summed_and_nothing_twice(two_sockets):
    reader = Powercap(two_sockets["root"])
    assert reader.covers == "package-0, package-0 dram, package-1, package-1 dram"
    assert reader.joules() == 0
    spend(two_sockets["package-0"], 3_500_000)
    spend(two_sockets["mmio"], 3_500_000)
    spend(two_sockets["core 0"], 2_000_000)
    spend(two_sockets["psys"], 90_000_000)
    assert reader.joules() == 2.5
    spend(two_sockets["dram 0"], 7_250_000)
    spend(two_sockets["package-1"], 3_000_000)
    spend(two_sockets["dram 1"], 8_125_000)
    assert reader.joules() == 2.5 + 0.25 + 1 + 0.125


def test_dies_of_one_package_are_counted_each(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0-die-0", 0)
    second = zone(tmp_path, "intel-rapl:1", "package-0-die-1", 0)
    reader = Powercap(tmp_path)
    spend(first, 1_000_000)
    spend(second, 2_000_000)
    assert reader.joules() == 3


def test_a_counter_that_begins_again_goes_on_counting(tmp_path):
    folder = zone(tmp_path, "intel-rapl:0", "package-0", PACKAGE_RANGE - 4_000_000)
    reader = Powercap(tmp_path)
    spend(folder, 2_000_000)
    assert reader.joules() == 6
    # Half a range at a time, as the sampling thread sees it: three times round.
    for _ in range(3):
        spend(folder, PACKAGE_RANGE // 2)
        reader.sample()
        spend(folder, 0)
        reader.sample()
    assert reader.joules() == pytest.approx(6 + 3 * PACKAGE_RANGE / 1e6 - 2)


def test_a_machine_without_counters_says_so(tmp_path):
    with pytest.raises(MeterUnavailable, match=r"shows no processor's energy; few virtual machines .* modprobe"):
        Powercap(tmp_path)
    # What a container with a masked folder shows: links that lead nowhere.
    (tmp_path / "sys/class/powercap").mkdir(parents=True)
    (tmp_path / "sys/class/powercap/intel-rapl:0").symlink_to(tmp_path / "masked")
    with pytest.raises(MeterUnavailable, match="shows no processor's energy"):
        Powercap(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("energy_uj", "garbage\n", "energy_uj holds 'garbage', not a number"),
        ("energy_uj", "", "energy_uj holds '', not a number"),
        ("energy_uj", "-5\n", "energy_uj holds '-5', not a number"),
        ("energy_uj", f"{PACKAGE_RANGE + 1}\n", f"more than its range of {PACKAGE_RANGE}"),
        ("max_energy_range_uj", "\n", "max_energy_range_uj holds '', not a number"),
    ],
)
def test_what_is_no_reading_is_refused(tmp_path, file, text, words):
    (zone(tmp_path, "intel-rapl:0", "package-0", 1) / file).write_text(text)
    with pytest.raises(MeterUnavailable, match=words):
        Powercap(tmp_path)


def test_a_counter_that_vanishes_is_told(two_sockets):
    reader = Powercap(two_sockets["root"])
    (two_sockets["dram 1"] / "energy_uj").unlink()
    with pytest.raises(MeterUnavailable, match=r"intel-rapl:1:0/energy_uj cannot be read \(No such file"):
        reader.joules()


@pytest.fixture
def shared_folder():
    """A folder that every user may enter, as tmp_path is not."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


@contextmanager
def unprivileged():
    """The effective user cannot read root's files, like most users of pytest."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_counter_for_root_only_is_explained_with_its_cure(shared_folder):
    (zone(shared_folder, "intel-rapl:0", "package-0", 1) / "energy_uj").chmod(0 if os.geteuid() else 0o400)
    with (
        unprivileged(),
        pytest.raises(MeterUnavailable, match=r"not be read by this user: since CVE-2020-8694.*chmod a"),
    ):
        Powercap(shared_folder)


def pmu(root, *, kind=CPU_CLOCK[0], event=f"event={CPU_CLOCK[1]:#04x}", scale="1e-9", mask="0", names=("energy-pkg",)):
    """The files of the PMU `power`, by default on a counter that runs everywhere: one joule per second."""
    folder = root / "sys/bus/event_source/devices/power"
    (folder / "events").mkdir(parents=True)
    (folder / "type").write_text(f"{kind}\n")
    (folder / "cpumask").write_text(f"{mask}\n")
    for name in names:
        (folder / "events" / name).write_text(event)
        (folder / "events" / f"{name}.scale").write_text(scale)
        (folder / "events" / f"{name}.unit").write_text("Joules")
    return folder


def cpu_at(root, cpu, package, die=0):
    folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    folder.mkdir(parents=True)
    (folder / "physical_package_id").write_text(f"{package}\n")
    (folder / "die_id").write_text(f"{die}\n")


@pytest.fixture
def allowed(tmp_path):
    """Skips if the system does not allow a process-wide event."""
    pmu(tmp_path)
    try:
        PerfEvents(tmp_path).close()
    except MeterUnavailable as error:
        pytest.skip(str(error))
    shutil.rmtree(tmp_path / "sys")


def open_descriptors():
    """The files that this process has open, by number, with the events of perf among them."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def test_a_real_event_is_opened_and_scaled(allowed, tmp_path):
    pmu(tmp_path, names=("energy-pkg", "energy-ram"))
    held = open_descriptors()
    started = now()
    reader = PerfEvents(tmp_path)
    assert reader.covers == "energy-pkg, energy-ram of 1 package"
    before, opened = reader.joules(), now()
    time.sleep(0.2)
    after, asked = reader.joules(), now()
    # Two events of one joule per second each.
    assert 2 * 0.2 * 0.9 <= after - before <= 2 * (now() - started)
    assert after - before == pytest.approx(2 * (asked - opened), rel=0.2)
    assert len(open_descriptors() - held) == 2
    reader.close()
    assert open_descriptors() == held


@pytest.mark.parametrize(
    ("mask", "places", "expected"),
    [
        ("0", {0: (0, 0)}, [0]),
        ("0,8", {0: (0, 0), 8: (1, 0)}, [0, 8]),
        ("0,4,8,12", {0: (0, 0), 4: (0, 1), 8: (1, 0), 12: (1, 1)}, [0, 4, 8, 12]),
        ("0-3", {0: (0, 0), 1: (0, 0), 2: (1, 0), 3: (1, 0)}, [0, 2]),
        ("0-3", {0: (0, 0), 1: (0, 0), 2: (0, 1), 3: (0, 1)}, [0]),
    ],
    ids=["one package", "two packages", "two dies each", "every CPU named", "every CPU of two dies named"],
)
def test_every_counter_is_opened_once(monkeypatch, tmp_path, mask, places, expected):
    pmu(tmp_path, kind=9, event="event=0x02\n", scale="2.3283064365386962890625e-10\n", mask=mask)
    for cpu, (package, die) in places.items():
        cpu_at(tmp_path, cpu, package, die)
    opened = []
    monkeypatch.setattr(rapl, "_open", lambda kind, config, cpu, root: opened.append((kind, config, cpu)) or -cpu)
    PerfEvents(tmp_path)
    assert sorted(opened) == [(9, 2, cpu) for cpu in expected]


@pytest.mark.parametrize(
    ("changed", "text", "words"),
    [
        ("type", "x", "type holds 'x', not a number"),
        ("cpumask", "all", "cpumask holds 'all', not a list of CPUs"),
        ("cpumask", "", "cpumask holds '', not a list of CPUs"),
        ("events/energy-pkg", "umask", "describes no event"),
        ("events/energy-pkg.scale", "one", "describes no event"),
        # A type that no PMU has.
        ("type", "4000000000", "perf_event_open failed: No such file or directory|may not be read by this user"),
    ],
)
def test_a_pmu_that_makes_no_sense_is_refused(tmp_path, changed, text, words):
    (pmu(tmp_path) / changed).write_text(text)
    with pytest.raises(MeterUnavailable, match=words):
        PerfEvents(tmp_path)


def test_no_pmu_and_no_permission_are_explained(shared_folder):
    with pytest.raises(MeterUnavailable, match="has no event energy-pkg; few virtual machines"):
        PerfEvents(shared_folder)
    paranoid = shared_folder / "proc/sys/kernel/perf_event_paranoid"
    paranoid.parent.mkdir(parents=True)
    paranoid.write_text("2\n")
    pmu(shared_folder)
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) <= 0:
        pytest.skip("this system lets every user open events")
    with unprivileged(), pytest.raises(MeterUnavailable, match=r"\(perf_event_paranoid is 2\).*sysctl .*CAP_PERFMON"):
        PerfEvents(shared_folder)
