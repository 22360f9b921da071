"""Any CBLAS library makes a backend; the algorithm of a convolution is measured once and kept."""

import ctypes
import errno
import json
import os
import re
import resource
import shutil
import time

import numpy as np
import pytest
from helpers.fresh_python import printed, python
from helpers.ready_backends import ready

from cnn.arrays import Buffers
from cnn.cblas import CblasBackend
from cnn.compiled.algorithms import Chooser
from cnn.compiled.convolution import Problem
from cnn.compiled.kernels import KERNELS
from cnn.compiled.preparing import prepare
from cnn.compiled.store import STORE, Store
from cnn.convolution import Convolution, Window
from cnn.errors import BackendUnavailable, UsageError
from cnn.model.zoo import architecture
from cnn.registry import construct, create
from cnn.system.cache import tell_once
from cnn.system.machine import this_machine
from cnn.system.threads import budget, limit_threads
from cnn.system.timing import now
from cnn.testing import CASES, check_backend

# The OpenBLAS inside NumPy: its file, names and sizes differ from those of the package's own backends.
THIRD = """
import ctypes
import numpy
from cnn import CblasBackend, Library
from cnn.system.threads import libraries

class Third(CblasBackend):
    name = "third"
    def __init__(self):
        path = next(each.filepath for each in libraries() if "openblas64" in each.filepath)
        super().__init__(path, symbol="scipy_cblas_{}gemm64_", integer=ctypes.c_int64)
        self.library = Library("NumPy's OpenBLAS", "", path)
"""


def test_another_blas_is_a_backend_in_under_20_lines():
    assert len(THIRD.splitlines()) < 20
    code = """
from cnn.testing import check_backend
backend = Third()
print(check_backend(backend))
"""
    if "openblas64" not in printed("import numpy; from cnn.system.threads import libraries; print(libraries())"):
        pytest.skip("NumPy was built with another BLAS than its own OpenBLAS")
    assert "runs within the contract" in printed(THIRD + code)


class TestMissing:
    class Named(CblasBackend):
        name = "named"

    def test_library(self):
        with pytest.raises(BackendUnavailable, match=r"'named' cannot load libabsent.so.*; install it"):
            self.Named("libabsent.so")

    def test_symbol(self):
        with pytest.raises(BackendUnavailable, match=r"'named' cannot use .*cblas_sgemm.*CBLAS interface"):
            self.Named(ctypes.CDLL(None)._name or "libc.so.6")


class TestTile:
    @pytest.mark.parametrize("name", ["mkl", "openblas"])
    @pytest.mark.parametrize("size", [1, 3000, 1 << 24])
    def test_any_size_gives_results_within_the_contract(self, name, size):
        ready(name)
        cases = [case for case in CASES if case.operation.startswith("conv2d") and not case.only_float32]
        check_backend(create(name, tile_bytes=size), cases)

    def test_columns_are_made_a_tile_at_a_time(self):
        convolution = Convolution(Window((40, 40), (3, 3)), 4, 16)
        x, w = np.ones((8, 40, 40, 4), np.float32), np.ones((3, 3, 4, 16), np.float32)
        out, row = np.empty((8, 38, 38, 16), np.float32), 38 * 36
        made = {}
        for size in (1, 2 * 4 * row + 5, 1 << 24):
            backend = create("openblas", tile_bytes=size)
            scratch = Buffers(backend)
            with limit_threads(1):
                backend.conv2d(x, w, None, convolution, None, out, scratch)
            assert (out == 36).all()
            made[size] = scratch.nbytes() // (4 * row)
        # A row of outputs at least, and all 8 images at most.
        assert list(made.values()) == [1, 2, 8 * 38]

    def test_no_size_is_an_error(self):
        with pytest.raises(UsageError, match="tile_bytes is 0; give at least 1"):
            create("openblas", tile_bytes=0)

    def test_times_of_algorithms_are_those_of_the_tile(self, tmp_path, monkeypatch):
        monkeypatch.delenv("CNN_ALGORITHM")
        monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path))
        convolution = Convolution(Window((8, 8), (3, 3)), 4, 4)
        x, w, out = (np.ones(shape, np.float32) for shape in ((1, 8, 8, 4), (3, 3, 4, 4), (1, 6, 6, 4)))
        for options in ({}, {"tile_bytes": 4096}):
            backend = construct("openblas", **options)
            backend.conv2d(x, w, None, convolution, None, out, Buffers(backend))
        owners = json.loads((tmp_path / "algorithms.json").read_text())
        assert [len(times) for times in owners.values()] == [1, 1]


class TestProblem:
    def test_stored_times_are_found_by_this_text(self):
        window = Window((12, 10), (3, 5), (2, 1), (1, 0, 2, 2))
        problem = Problem("forward", Convolution(window, 20, 50), images=64, threads=2)
        expected = "forward, 50 filters 3x5 on 64x12x10x20, padding (1, 0, 2, 2), stride (2, 1), 2 threads"
        assert str(problem) == expected

    def test_dilation_and_groups_are_named(self):
        window = Window((12, 10), (3, 3), dilation=(2, 1))
        problem = Problem("data gradient", Convolution(window, 20, 50, groups=5), images=1, threads=1)
        assert "stride (1, 1), dilation (2, 1), 5 groups, 1 thread" in str(problem)


@pytest.mark.parametrize("name", ["mkl", "openblas"])
class TestTraining:
    @pytest.fixture(autouse=True)
    def on(self, name):
        ready(name)

    def test_memory_is_taken_in_the_first_steps_only(self, name):
        """A page fault brings 4 KiB; a step works on 8 MiB."""
        model = architecture("lenet").build(backend=name)
        images, labels = np.zeros((64, *model.input_shape), np.uint8), np.zeros(64, np.int64)
        for _ in range(3):
            model.train_step(images, labels)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            model.train_step(images, labels)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 200

    def test_threads_change_results_by_rounding_only(self, name):
        results = []
        for count in sorted({1, 2, budget().count}):
            model = architecture("cifar10_quick").build(backend=name, seed=3)
            images = np.random.default_rng(0).integers(0, 256, (8, *model.input_shape), np.uint8)
            with limit_threads(count):
                model.train_step(images, np.arange(8))
            results.append([parameter.gradient.copy() for parameter in model.parameters])
        for others in results[1:]:
            for one, other in zip(results[0], others, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(one).max())


class TestChooser:
    """Candidates that sleep, so that it is known which is the fastest."""

    @staticmethod
    def candidates(calls, **seconds):
        def run(name, duration):
            calls.append(name)
            time.sleep(duration)

        return {name: lambda n=name, d=duration: run(n, d) for name, duration in seconds.items()}

    @pytest.fixture(autouse=True)
    def no_algorithm_named(self, monkeypatch):
        monkeypatch.delenv("CNN_ALGORITHM")

    def test_the_fastest_is_measured_once_and_remembered(self, tmp_path):
        calls = []
        candidates = self.candidates(calls, im2col=0.02, winograd2=0.001, winograd4=0.03)
        assert Chooser("b", tmp_path).choose("shape", candidates, "im2col") == "winograd2"
        assert set(calls) == {"im2col", "winograd2", "winograd4"}
        calls.clear()
        again = Chooser("b", tmp_path)
        assert again.choose("shape", candidates, "im2col") == "winograd2"
        assert calls == []
        assert set(again.times()["shape"]) == set(candidates)

    def test_backends_do_not_share_their_times(self, tmp_path):
        Chooser("one", tmp_path).choose("shape", self.candidates([], im2col=0.0, winograd2=0.005), "im2col")
        assert Chooser("other", tmp_path).times() == {}

    def test_what_others_measured_meanwhile_is_kept(self, tmp_path):
        first, second = Chooser("b", tmp_path), Chooser("b", tmp_path)
        first.times(), second.times()
        first.choose("one", self.candidates([], im2col=0.0, winograd2=0.005), "im2col")
        second.choose("two", self.candidates([], im2col=0.0, winograd2=0.005), "im2col")
        assert set(Chooser("b", tmp_path).times()) == {"one", "two"}

    @pytest.mark.parametrize(("images", "measures"), [(33, False), (127, False), (64, False), (32, True), (128, True)])
    def test_less_than_twice_as_many_images_take_the_same(self, tmp_path, images, measures):
        alike, calls = re.compile("([0-9]+)x8 images, stride 2"), []
        candidates = self.candidates(calls, im2col=0.01, winograd2=0.0)
        chooser = Chooser("b", tmp_path)
        chooser.choose("64x8 images, stride 2", candidates, "im2col", alike)
        calls.clear()
        assert chooser.choose(f"{images}x8 images, stride 2", candidates, "im2col", alike) == "winograd2"
        assert bool(calls) == measures
        source, times = chooser.measured(f"{images}x8 images, stride 2")
        assert source == f"{images if measures else 64}x8 images, stride 2"
        assert times.keys() == candidates.keys()
        calls.clear()
        chooser.choose("64x9 images, stride 2", candidates, "im2col", re.compile("([0-9]+)x9 images, stride 2"))
        assert calls

    def test_a_problem_is_like_itself_with_any_number_of_images(self):
        convolution = Convolution(Window((8, 8), (3, 3)), 4, 5)
        one, other = (Problem("forward", convolution, images, 2) for images in (7, 64))
        assert one.alike == other.alike
        assert [one.alike.fullmatch(str(each))[1] for each in (one, other)] == ["7", "64"]
        assert not one.alike.fullmatch(str(one._replace(threads=3)))

    def test_one_candidate_needs_no_clock(self, tmp_path):
        calls = []
        assert Chooser("b", tmp_path).choose("shape", self.candidates(calls, im2col=0.0), "im2col") == "im2col"
        assert calls == []

    def test_deterministic_takes_the_default_unmeasured(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CNN_DETERMINISTIC", "1")
        calls = []
        candidates = self.candidates(calls, im2col=0.0, winograd4=0.0)
        assert Chooser("b", tmp_path).choose("shape", candidates, "im2col") == "im2col"
        assert calls == []

    @pytest.mark.parametrize(("value", "expected"), [("winograd4", "winograd4"), ("winograd2", "im2col")])
    def test_a_named_algorithm_is_used_where_it_applies(self, tmp_path, monkeypatch, value, expected):
        chooser, candidates = Chooser("b", tmp_path), self.candidates([], im2col=0.0, winograd4=0.0)
        chooser.choose("s", candidates, "im2col")
        monkeypatch.setenv("CNN_ALGORITHM", value)
        assert chooser.choose("s", candidates, "im2col") == expected
        assert chooser.measured("s") == ("s", {})

    def test_an_unknown_algorithm_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CNN_ALGORITHM", "fft")
        with pytest.raises(UsageError, match="CNN_ALGORITHM is 'fft'; set it to auto, im2col"):
            Chooser("b", tmp_path).choose("s", self.candidates([], im2col=0.0), "im2col")

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"b": 3}', '{"b": {"shape": []}}', '{"b": {"s": {"d": "x"}}}'])
    def test_a_damaged_file_is_measured_anew(self, tmp_path, content, capsys):
        (tmp_path / "algorithms.json").write_text(content)
        tell_once.cache_clear()
        candidates = self.candidates([], im2col=0.01, winograd2=0.0)
        assert Chooser("b", tmp_path).choose("shape", candidates, "im2col") == "winograd2"
        assert "algorithms.json is damaged" in capsys.readouterr().err

    def test_times_that_another_user_may_have_written_are_not_used(self, tmp_path, capsys):
        path = tmp_path / "algorithms.json"
        candidates = self.candidates([], im2col=0.01, winograd2=0.0)
        owner = f"b on {this_machine().cpu}"
        path.write_text(json.dumps({owner: {"shape": {"im2col": 1.0, "winograd2": 2.0}}}))
        path.chmod(0o666)
        tell_once.cache_clear()
        assert Chooser("b", tmp_path).choose("shape", candidates, "im2col") == "winograd2"
        assert f"algorithms are timed anew: other users can write {path}; forbid it" in capsys.readouterr().err
        assert json.loads(path.read_text())[owner]["shape"]["im2col"] == 1.0

    def test_a_folder_that_cannot_be_written_costs_only_the_memory(self, tmp_path):
        (tmp_path / "file").touch()
        candidates = self.candidates([], im2col=0.01, winograd2=0.0)
        assert Chooser("b", tmp_path / "file").choose("shape", candidates, "im2col") == "winograd2"


def files_of(kernel, folder):
    """The files of a kernel's machine code in a cache."""
    function = kernel.compiled.py_func
    found = list(folder.rglob(f"{function.__module__.removeprefix('cnn.compiled.')}.{function.__name__}-*"))
    assert found
    return found


@pytest.fixture
def copied(tmp_path):
    """A cache of its own that has every kernel."""
    prepare()
    shutil.copytree(STORE.folder, tmp_path / "kernels" / STORE.wanted.name)
    return tmp_path


def said(cache):
    """What a process prints that needs all kernels."""
    # Numba's own cache fails where it may write neither beside the sources nor in a home; here it never may.
    own = {"NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    result = python("import cnn, cnn.compiled.stream; cnn.use_backend('openblas')", CNN_CACHE_DIR=str(cache), **own)
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_kernels_are_compiled_once_and_damaged_ones_again(copied):
    assert said(copied) == ""
    # Two processes compile, one from each end.
    (file,) = files_of(KERNELS[0], copied)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (last,) = files_of(KERNELS[-1], copied)
    last.unlink()
    assert said(copied) == f"compiling kernels for this CPU, once: {file} is damaged\n"
    assert said(copied) == ""


def test_kernels_that_others_may_have_written_are_not_run(copied):
    (file,) = files_of(KERNELS[0], copied)
    folder = copied / "kernels"
    folder.chmod(0o777)
    store = Store()
    store.wanted = file.parent
    assert store.read(file.name) is None
    assert store.trouble.startswith(f"other users can write {folder}; forbid it")
    folder.chmod(0o755)
    assert store.read(file.name)
    file.chmod(0o664)
    assert store.read(file.name) is None


class TestStore:
    @pytest.fixture
    def store(self, tmp_path):
        store = Store()
        store.wanted = tmp_path / "new" / "kernels"
        return store

    def test_what_is_written_is_read(self, store):
        store.write("a", b"code")
        assert store.read("a") == b"code"
        assert (store.folder, store.trouble, store.damaged) == (store.wanted, None, None)

    @pytest.mark.parametrize("size", [0, 5, 36])
    def test_a_file_that_was_cut_off_is_dropped(self, store, size):
        store.write("a", b"code")
        path = store.wanted / "a"
        path.write_bytes(path.read_bytes()[:size])
        assert store.read("a") is None if size < 36 else store.read("a") == b"code"
        assert path.exists() == (size == 36)

    def test_a_file_of_another_name_is_not_taken(self, store):
        store.write("a", b"code")
        (store.wanted / "a").rename(store.wanted / "b")
        assert store.read("b") is None

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
    def test_what_cannot_be_kept_goes_elsewhere_and_is_said(self, store, monkeypatch, number):
        def refuse(file):
            if file:
                monkeypatch.undo()
                raise OSError(number, os.strerror(number))

        store.write("hot", b"old")
        monkeypatch.setattr(os, "fsync", refuse)
        store.write("a", b"code")
        assert store.folder != store.wanted
        assert store.trouble.startswith(f"nothing can be kept in {store.wanted} ({os.strerror(number)}); set CNN_CACHE")
        # What could only be read is still used.
        assert (store.read("a"), store.read("hot")) == (b"code", b"old")

    def test_a_folder_of_another_user_is_refused(self, store, monkeypatch):
        store.write("a", b"code")
        uid = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
        # Root is trusted.
        trusted = uid == 0
        assert (store.read("a") is not None) == trusted
        assert trusted or "belongs to another user; set CNN_CACHE_DIR" in store.trouble

    def test_what_the_cache_makes_can_be_written_by_nobody_else(self, store):
        before = os.umask(0)
        try:
            store.write("a", b"code")
        finally:
            os.umask(before)
        assert store.read("a") == b"code"


def test_the_time_in_kernels_is_part_of_a_step():
    model = architecture("lenet").build(backend="openblas")
    images, labels = np.zeros((64, *model.input_shape), np.uint8), np.zeros(64, np.int64)
    model.train_step(images, labels)
    with model.backend.instruments.timed_kernels() as stopwatch:
        started = now()
        model.train_step(images, labels)
        elapsed = now() - started
    assert 0 < stopwatch.seconds < elapsed
