"""The budget obeys request, affinity and cgroup quota; a limit reaches the libraries and is undone."""

import importlib.util
import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import numba
import pytest
from helpers.fresh_python import printed

import cnn.system.threads as threads
from cnn.cli import main
from cnn.errors import UsageError
from cnn.registry import create
from cnn.system import environment
from cnn.system.cache import cache_folder
from cnn.system.threads import (
    LoadedLibrary,
    ThreadBudget,
    affinity_count,
    budget,
    cgroup_quota,
    held_at_one,
    libraries,
    limit_threads,
    openmp_warning,
)

needs_mkl = pytest.mark.skipif(importlib.util.find_spec("mkl") is None, reason="mkl-service is not installed")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def version_1(root: Path, folder: str, quota: int, period: int = 100000) -> None:
    write(root / "sys/fs/cgroup" / folder / "cpu.cfs_quota_us", f"{quota}\n")
    write(root / "sys/fs/cgroup" / folder / "cpu.cfs_period_us", f"{period}\n")


def version_2(root: Path, folder: str, line: str) -> None:
    write(root / "sys/fs/cgroup" / folder / "cpu.max", line + "\n")


def own_group(root: Path, *lines: str) -> None:
    write(root / "proc/self/cgroup", "".join(line + "\n" for line in lines))


def test_version_2_in_the_own_group(tmp_path):
    own_group(tmp_path, "0::/user.slice/job")
    version_2(tmp_path, "user.slice/job", "250000 100000")
    assert cgroup_quota(tmp_path) == 2.5


def test_version_2_the_smallest_quota_on_the_way_up_holds(tmp_path):
    own_group(tmp_path, "0::/pod/container/job")
    version_2(tmp_path, "pod/container/job", "max 100000")
    version_2(tmp_path, "pod/container", "400000 100000")
    version_2(tmp_path, "pod", "75000 50000")
    assert cgroup_quota(tmp_path) == 1.5


def test_version_2_seen_from_inside_a_container(tmp_path):
    own_group(tmp_path, "0::/")
    version_2(tmp_path, "", "200000 100000")
    assert cgroup_quota(tmp_path) == 2


def test_version_2_max_is_no_limit(tmp_path):
    own_group(tmp_path, "0::/job")
    version_2(tmp_path, "job", "max 100000")
    assert cgroup_quota(tmp_path) is None


def test_another_group_does_not_count(tmp_path):
    own_group(tmp_path, "0::/job")
    version_2(tmp_path, "job", "max 100000")
    version_2(tmp_path, "neighbour", "100000 100000")
    assert cgroup_quota(tmp_path) is None


def test_a_path_outside_of_the_container_stops_at_its_top(tmp_path):
    own_group(tmp_path, "0::/../job")
    version_2(tmp_path, "", "300000 100000")
    write(tmp_path / "sys/fs/job/cpu.max", "100000 100000\n")
    assert cgroup_quota(tmp_path) == 3


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_version_1(tmp_path, mount):
    own_group(tmp_path, "12:cpuset:/docker/a", "4:cpu,cpuacct:/docker/a", "1:name=systemd:/docker/a")
    version_1(tmp_path, f"{mount}/docker/a", 150000)
    version_1(tmp_path, "cpuset/docker/a", 10000)
    assert cgroup_quota(tmp_path) == 1.5


def test_version_1_nested_with_an_unlimited_child(tmp_path):
    own_group(tmp_path, "4:cpu,cpuacct:/docker/a")
    version_1(tmp_path, "cpu,cpuacct/docker/a", -1)
    version_1(tmp_path, "cpu,cpuacct/docker", 600000)
    version_1(tmp_path, "cpu,cpuacct", 800000)
    assert cgroup_quota(tmp_path) == 6


def test_version_1_whose_path_is_not_mounted_in_the_container(tmp_path):
    own_group(tmp_path, "4:cpu,cpuacct:/docker/a")
    version_1(tmp_path, "cpu,cpuacct", 200000)
    assert cgroup_quota(tmp_path) == 2


def test_version_1_minus_1_is_no_limit(tmp_path):
    own_group(tmp_path, "4:cpu,cpuacct:/")
    version_1(tmp_path, "cpu,cpuacct", -1)
    assert cgroup_quota(tmp_path) is None


def test_version_2_mounted_beside_version_1(tmp_path):
    own_group(tmp_path, "4:memory:/", "0::/job")
    version_2(tmp_path, "unified/job", "200000 100000")
    assert cgroup_quota(tmp_path) == 2


@pytest.mark.parametrize("line", ["", "100000", "many 100000", "100000 0", "0 100000"])
def test_a_file_that_makes_no_sense_is_no_limit(tmp_path, line):
    own_group(tmp_path, "0::/job")
    version_2(tmp_path, "job", line)
    assert cgroup_quota(tmp_path) is None


def test_without_cgroups_there_is_no_limit(tmp_path):
    assert cgroup_quota(tmp_path) is None


def test_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert threads.affinity_count() == 3


def test_affinity_where_the_system_keeps_none(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.affinity_count() == 6


@pytest.fixture
def available(monkeypatch):
    """Sets what the process may use, with no variable set."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def set_available(affinity: int, quota: float | None) -> None:
        monkeypatch.setattr(threads, "affinity_count", lambda: affinity)
        monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)

    return set_available


@pytest.mark.parametrize(
    ("affinity", "quota", "requested", "count", "line"),
    [
        (2, None, 4, 2, "2 threads (of 4 requested: affinity 2, no cgroup quota)"),
        (8, 2.9, 4, 2, "2 threads (of 4 requested: affinity 8, cgroup quota 2.9 CPUs)"),
        (8, None, 3, 3, "3 threads (as requested: affinity 8, no cgroup quota)"),
        (8, None, None, 8, "8 threads (affinity 8, no cgroup quota)"),
        (8, 3.5, None, 3, "3 threads (affinity 8, cgroup quota 3.5 CPUs)"),
        (2, 16.0, None, 2, "2 threads (affinity 2, cgroup quota 16 CPUs)"),
        (8, 0.5, None, 1, "1 thread (affinity 8, cgroup quota 0.5 CPUs)"),
    ],
)
def test_budget_is_the_smallest_of_all(available, affinity, quota, requested, count, line):
    available(affinity, quota)
    got = budget(requested)
    assert got == ThreadBudget(affinity, quota, requested, count)
    assert got.describe() == line


def test_the_variable_is_a_request(available, monkeypatch):
    available(8, None)
    monkeypatch.setenv("CNN_NUM_THREADS", "3")
    assert budget() == ThreadBudget(8, None, 3, 3)


def test_the_caller_goes_before_the_variable(available, monkeypatch):
    available(8, None)
    monkeypatch.setenv("CNN_NUM_THREADS", "nonsense")
    assert budget(5).count == 5


@pytest.mark.parametrize("text", [" ", "0", "-1", "two", "1.5", "true", "٣", "9" * 5000])
def test_a_variable_that_is_no_count_is_an_error(available, monkeypatch, text):
    available(8, None)
    monkeypatch.setenv("CNN_NUM_THREADS", text)
    with pytest.raises(UsageError, match=rf"CNN_NUM_THREADS is '{text[:100]}.*; set it to a whole number"):
        budget()


@pytest.mark.parametrize("name", ["CNN_DETERMINISTIC", "CNN_ALGORITHM", "CNN_NUM_THREADS"])
def test_every_variable_refuses_what_it_does_not_know_and_an_empty_one_is_not_set(monkeypatch, name, capsys):
    monkeypatch.setenv(name, "yes")
    assert main(["summary", "lenet"]) == 2
    assert f"cnn: {name} is 'yes'; set it to" in capsys.readouterr().err
    monkeypatch.setenv(name, "")
    environment.check()


@pytest.mark.parametrize("text", ["3", "3,2", " 3 "])
def test_what_openmp_is_told_counts_where_nothing_else_is_asked_for(available, monkeypatch, text):
    available(8, None)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert budget().describe() == "3 threads (affinity 8, no cgroup quota, OMP_NUM_THREADS 3)"
    assert budget(5).describe() == "5 threads (as requested: affinity 8, no cgroup quota)"
    monkeypatch.setenv("CNN_NUM_THREADS", "4")
    assert budget().count == 4
    monkeypatch.delenv("CNN_NUM_THREADS")
    available(2, None)
    assert budget().count == 2
    for wrong in ("", "0", "many", "-1"):
        monkeypatch.setenv("OMP_NUM_THREADS", wrong)
        assert budget().count == 2


def test_the_pool_of_numba_is_a_limit(available, monkeypatch):
    available(8, None)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    assert budget(4).describe() == "3 threads (of 4 requested: affinity 8, no cgroup quota, NUMBA_NUM_THREADS 3)"
    assert budget().count == 3


BOUND = """
import os, subprocess, sys
import cnn
from numba import get_num_threads
from cnn.system.affinity import inherited
from cnn.system.threads import affinity_count

cnn.use_backend("openblas")
print(get_num_threads(), affinity_count())
child = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
with inherited():
    print(subprocess.check_output(child, text=True))
print(len(os.sched_getaffinity(0)))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system keeps no set of CPUs for a process")
def test_a_thread_that_openmp_has_bound_leaves_all_cpus():
    cpus = str(len(os.sched_getaffinity(0)))
    *found, bound = printed(BOUND, OMP_PROC_BIND="true", CNN_CACHE_DIR=str(cache_folder())).split()
    assert found == [cpus] * 3
    # The runtime did what it was told.
    assert bound == "1"


@pytest.mark.parametrize("name", ["OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"])
def test_variables_that_bind_threads_are_known(monkeypatch, name):
    monkeypatch.setenv(name, "0")
    before = threads.affinity_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {*range(999)}, raising=False)
    assert threads.affinity_count() == before


@pytest.mark.parametrize("requested", [0, -2])
def test_a_request_below_1_is_an_error(requested):
    with pytest.raises(UsageError, match=f"number of threads must be a whole number of at least 1, not {requested}"):
        budget(requested)


def run(script: str, **variables: str) -> None:
    """Runs `script` in a fresh process, without the variables that set pools beforehand; it must not fail."""
    unset = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MKL_THREADING_LAYER")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def counts() -> dict[str, int | None]:
    """The thread counts, by file, of every library that can have several threads and is not fixed at one."""
    fixed = ("sequential", "disabled")
    free = [each for each in libraries() if each.threading_layer not in fixed and each.filepath not in held_at_one()]
    return {found.filepath: found.threads for found in free}


@pytest.fixture
def before():
    """The counts of the libraries loaded now, which must include NumPy's OpenBLAS."""
    # The first limit starts the compiled kernels' pool if another test has imported them.
    with limit_threads(1):
        pass
    found = counts()
    if not any("openblas" in filepath for filepath in found):
        pytest.skip("NumPy runs on another BLAS than OpenBLAS, or on a sequential one")
    return found


def test_limit_sets_and_restores_every_library(before):
    with limit_threads(1):
        assert set(counts().values()) == {1}
    assert counts() == before


def test_limit_nests_up_and_down(before):
    with limit_threads(1):
        with limit_threads(2):
            assert set(counts().values()) == {2}
        assert set(counts().values()) == {1}
    assert counts() == before


def test_limit_restores_after_an_exception(before):
    with pytest.raises(ZeroDivisionError), limit_threads(1):
        raise ZeroDivisionError
    assert counts() == before


def test_limit_reaches_kernels_and_not_the_library_they_call():
    backend = create("openblas")
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    for count in sorted({1, affinity_count()}):
        with limit_threads(count):
            assert numba.get_num_threads() == count
            (own,) = [each for each in libraries() if each.filepath == backend.library.path]
            assert own.threads == 1
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS


@pytest.mark.parametrize("count", [0, -1])
def test_limit_below_1_is_an_error(count):
    with (
        pytest.raises(UsageError, match=f"limited to must be a whole number of at least 1, not {count}"),
        limit_threads(count),
    ):
        pass


@needs_mkl
@pytest.mark.parametrize("layer", ["INTEL", "GNU"])
def test_limit_reaches_mkl(layer):
    if layer == "GNU" and find_library("gomp") is None:
        pytest.skip("libgomp is not installed")
    run(
        """
import mkl
from cnn.system.threads import libraries, limit_threads
before = mkl.get_max_threads()
for count in (1, 2, 3):
    with limit_threads(count):
        assert mkl.get_max_threads() == count
        assert {library.threads for library in libraries()} == {count}
assert mkl.get_max_threads() == before
found = {library.api: library for library in libraries()}
assert found["mkl"].threading_layer == LAYER and found["mkl"].version
""".replace("LAYER", repr(layer.lower())),
        MKL_THREADING_LAYER=layer,
    )


@needs_mkl
def test_limit_does_not_wake_a_sequential_mkl():
    run(
        """
import mkl
from cnn.system.threads import limit_threads
with limit_threads(2):
    assert mkl.get_max_threads() == 1
""",
        MKL_THREADING_LAYER="SEQUENTIAL",
    )


@needs_mkl
def test_limit_does_not_reach_what_is_loaded_later():
    run(
        """
from cnn.system.threads import limit_threads
with limit_threads(1):
    import mkl
    assert mkl.get_max_threads() == 3
""",
        MKL_NUM_THREADS="3",
        MKL_DYNAMIC="FALSE",
    )


def test_libraries_says_what_numpy_runs_on(before):
    blas = next(library for library in libraries() if library.api == "openblas")
    assert Path(blas.filepath).is_file()
    assert blas.version
    assert blas.architecture
    assert blas.threads == before[blas.filepath] >= 1
    files = [library.filepath for library in libraries()]
    assert files == sorted(files)


def runtime(filepath: str) -> LoadedLibrary:
    return LoadedLibrary(filepath, "openmp", None, 2, None, None)


def test_one_openmp_runtime_is_no_warning():
    blas = LoadedLibrary("/lib/libopenblas.so", "openblas", "0.3", 2, "openmp", "Zen")
    assert openmp_warning([blas, runtime("/lib/libgomp.so.1")]) is None
    assert openmp_warning([]) is None


def test_two_openmp_runtimes_are_named():
    warning = openmp_warning([runtime("/usr/lib/libiomp5.so"), runtime("/lib/libgomp.so.1")])
    assert warning is not None
    assert warning.startswith("2 OpenMP runtimes are in this process (libgomp.so.1, libiomp5.so)")
