"""The old MKL is found where it is configured, and downloaded completely and checked, or not at all."""

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers import stand_in_card

from cnn.cli import main
from cnn.errors import BackendUnavailable, CnnError

mkl_root, mkl_download = stand_in_card.beside_backend("_mkl_root"), stand_in_card.beside_backend("_mkl_download")
FILES, WHEELS, fetch_mkl = mkl_download.FILES, mkl_download.WHEELS, mkl_download.fetch_mkl
find_library, find_openmp = mkl_root.find_library, mkl_root.find_openmp

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the wheels are for Linux")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no configured root."""
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CNN_MKL_ROOT", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index in one folder with small wheels, whose digests replace the known ones."""
    folder = tmp_path / "index"
    folder.mkdir()
    openmp = [name for name in FILES if "iomp" in name]
    digests = {
        "mkl": wheel(folder, "mkl", [name for name in FILES if name not in openmp] + ["libmkl_vml_avx.so"]),
        "intel-openmp": wheel(folder, "intel_openmp", openmp),
    }
    monkeypatch.setattr(mkl_download, "WHEELS", digests)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path, name: str, files: list[str]) -> str:
    """Writes a wheel of the old MKL's form; returns its SHA-256."""
    path, info = folder / f"{name}-2018.0.0-py2.py3-none-manylinux1_x86_64.whl", f"{name}-2018.0.0.dist-info"
    with ZipFile(path, "w") as archive:
        for each in files:
            archive.writestr(f"{name}-2018.0.0.data/data/lib/{each}", f"content of {each}")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 2018.0.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/LICENSE.txt", "a licence")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestFinding:
    @pytest.mark.parametrize("folder", [".", "lib", "lib/intel64", "lib/intel64_lin"])
    @pytest.mark.parametrize("name", ["libmkl_rt.so", "libmkl_rt.so.1"])
    def test_named_root(self, cache, tmp_path, monkeypatch, folder, name):
        library = tmp_path / "mkl" / folder / name
        library.parent.mkdir(parents=True)
        library.touch()
        monkeypatch.setenv("CNN_MKL_ROOT", str(tmp_path / "mkl"))
        assert find_library("mkl-phi") == library.resolve()

    def test_named_root_without_mkl_is_never_replaced_by_the_cache(self, cache, tmp_path, monkeypatch):
        (cache / "mkl-2018.0.0/lib").mkdir(parents=True)
        (cache / "mkl-2018.0.0/lib/libmkl_rt.so").touch()
        assert find_library("mkl-phi") == cache / "mkl-2018.0.0/lib/libmkl_rt.so"
        monkeypatch.setenv("CNN_MKL_ROOT", str(tmp_path / "other"))
        with pytest.raises(BackendUnavailable, match=r"CNN_MKL_ROOT is .*other, but there is no libmkl_rt.so in it"):
            find_library("mkl-phi")

    def test_nowhere(self, cache):
        with pytest.raises(BackendUnavailable, match=r"is not in .*mkl-2018.0.0; run `cnn backends get mkl-phi`"):
            find_library("mkl-phi")

    def test_openmp_beside_mkl_or_where_the_installer_puts_it(self, tmp_path):
        library = tmp_path / "mkl/lib/intel64/libmkl_rt.so"
        installed = tmp_path / "compiler/lib/intel64_lin/libiomp5.so"
        for path in (library, installed):
            path.parent.mkdir(parents=True)
        assert find_openmp(library) == "libiomp5.so"
        installed.touch()
        assert find_openmp(library) == str(installed)
        library.with_name("libiomp5.so").touch()
        assert find_openmp(library) == str(library.with_name("libiomp5.so"))


class TestTrust:
    @pytest.fixture
    def library(self, cache):
        root = cache / "mkl-2018.0.0"
        (root / "lib").mkdir(parents=True)
        for name in FILES:
            (root / "lib" / name).write_text(f"content of {name}")
        mkl_root.write_sums(root)
        mkl_root._check.cache_clear()
        return root / "lib/libmkl_core.so"

    def test_what_was_fetched_is_taken(self, library):
        assert find_library("mkl-phi") == library.with_name("libmkl_rt.so")

    @pytest.mark.parametrize("content", ["content of libmkl_corf.so", "content", None])
    def test_a_damaged_library_is_named(self, library, content):
        library.unlink() if content is None else library.write_text(content)
        with pytest.raises(BackendUnavailable, match=r"libmkl_core.so.*; remove .*and run `cnn backends get mkl-phi`"):
            find_library("mkl-phi")

    @pytest.mark.parametrize("up", [0, 1, 2, 3])
    def test_a_library_that_others_can_exchange_is_not_loaded(self, library, up):
        place = [library, *library.parents][up]
        place.chmod(0o777)
        with pytest.raises(BackendUnavailable, match=f"does not load .*: other users can write {place}; forbid it"):
            find_library("mkl-phi")


class TestFetching:
    def test_what_is_needed_is_unpacked_and_nothing_else_stays(self, cache, index, capsys):
        assert main(["backends", "get", "mkl-offload"]) == 0
        root = cache / "mkl-2018.0.0"
        assert sorted(path.name for path in cache.iterdir()) == ["mkl-2018.0.0"]
        assert {path.name for path in (root / "lib").iterdir()} == set(FILES)
        assert len((root / mkl_root.SUMS).read_text().splitlines()) == len(FILES)
        assert (root / "LICENSE.txt").read_text() == "a licence"
        assert (root / "lib/libmkl_rt.so").read_text() == "content of libmkl_rt.so"
        assert os.access(root / "lib/libmkl_ao_worker.so", os.X_OK)
        assert f"Intel MKL 2018.0.0 is in {root} (0 MB)" in capsys.readouterr().out
        assert find_library("mkl-phi") == root / "lib/libmkl_rt.so"

    def test_a_named_folder_is_filled_and_the_variable_that_names_it_is_told(self, cache, index, capsys, tmp_path):
        root = tmp_path / "opt/mkl"
        assert main(["backends", "get", "mkl-phi", "--root", str(root)]) == 0
        assert capsys.readouterr().out == f"Intel MKL 2018.0.0 is in {root} (0 MB); set CNN_MKL_ROOT to that folder\n"
        assert {path.name for path in (root / "lib").iterdir()} == set(FILES)
        assert [path.name for path in root.parent.iterdir()] == ["mkl"]
        assert not cache.exists()

    def test_a_named_folder_with_something_else_is_left_alone(self, cache, index, capsys, tmp_path):
        assert main(["backends", "get", "mkl-phi", "--root", str(index)]) == 1
        assert f"{index} lacks libiomp5.so, " in (error := capsys.readouterr().err)
        assert error.endswith("; name a new folder.\n")
        assert all(path.suffix == ".whl" for path in index.iterdir())

    def test_the_former_command_does_the_same_and_names_the_new_one(self, cache, index, capsys):
        assert main(["phi", "get"]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"Intel MKL 2018.0.0 is in {cache / 'mkl-2018.0.0'} (0 MB)\n"
        assert printed.err.startswith("cnn: `cnn phi get` is called `cnn backends get mkl-phi` now\n")
        assert find_library("mkl-phi").exists()

    def test_the_listing_says_what_can_be_fetched(self, cache, capsys, forget_backends):
        assert main(["backends", "list"]) == 0
        printed = capsys.readouterr().out
        for name in ("mkl-offload", "mkl-phi"):
            assert (
                f"  `cnn backends get {name}` fetches Intel MKL 2018.0.0, 220 MB (460 MB unpacked), by pip from"
                in printed
            )
        assert "cnn backends get numpy" not in printed
        assert main(["backends", "list", "--json"]) == 0
        found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
        assert found["mkl-offload"]["reason"].endswith("or set CNN_MKL_ROOT to its folder.")
        assert found["mkl-offload"]["fetches"].startswith("Intel MKL 2018.0.0, 220 MB")
        assert found["numpy"]["ready"]
        assert found["numpy"]["fetches"] is None

    def test_nothing_is_fetched_twice(self, cache, index, monkeypatch):
        fetch_mkl()
        shutil.rmtree(index)
        assert fetch_mkl() == cache / "mkl-2018.0.0"

    def test_a_root_that_lacks_something_is_left_alone(self, cache, index):
        fetch_mkl()
        (cache / "mkl-2018.0.0/lib/libmkl_core.so").unlink()
        with pytest.raises(CnnError, match=r"mkl-2018.0.0 lacks libmkl_core.so; remove that folder"):
            fetch_mkl()

    def test_what_an_ended_run_left_is_cleared_away(self, cache, index):
        (cache / "mkl-2018.0.0.part/root/lib").mkdir(parents=True)
        (cache / "mkl-2018.0.0.part/half.whl").write_text("half")
        fetch_mkl()
        assert [path.name for path in cache.iterdir()] == ["mkl-2018.0.0"]

    def failure(self, cache, message):
        with pytest.raises(CnnError, match=message):
            fetch_mkl()
        assert not cache.exists() or not list(cache.iterdir())

    def test_wrong_digest(self, cache, index, monkeypatch):
        monkeypatch.setattr(mkl_download, "WHEELS", {**mkl_download.WHEELS, "mkl": WHEELS["mkl"]})
        self.failure(cache, "The SHA-256 of the MKL 2018.0.0 that the package index sent is not the expected one")

    def test_index_without_mkl(self, cache, index):
        next(index.glob("mkl-*")).unlink()
        self.failure(cache, r"pip could not download MKL 2018.0.0 \(No matching distribution found for mkl==2018.0.0")

    def test_no_network(self, cache, index, monkeypatch):
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_TIMEOUT", "1")
        self.failure(cache, r"\(no connection to the package index\); check the network")

    def test_full_disk(self, cache, index, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5, 5))
        self.failure(cache, r"cannot be stored in .* \(No space left on device\); free 800,000,000 bytes")

    def test_disk_that_fills_while_pip_writes(self, cache, index, monkeypatch):
        failed = subprocess.CompletedProcess(
            [], 1, "", "ERROR: Could not install: [Errno 28] No space left on device\n"
        )
        monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
        self.failure(cache, r"cannot be stored in .* \(No space left on device\)")

    def test_cache_that_cannot_be_written(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "file"))
        with pytest.raises(
            CnnError, match=r"cannot be stored in .*file \(Not a directory\).*another folder with CNN_CACHE_DIR"
        ):
            fetch_mkl()

    def test_no_pip(self, cache, monkeypatch):
        monkeypatch.setattr(mkl_download, "find_spec", lambda name: None)
        self.failure(
            cache, r"has no pip to download MKL with; add it \(`.* -m ensurepip`\), or unpack the wheels mkl 2018"
        )
        assert importlib.util.find_spec("pip")

    def test_wheel_without_its_libraries(self, cache, index, monkeypatch):
        digest = wheel(index, "mkl", ["libmkl_rt.so"])
        monkeypatch.setattr(mkl_download, "WHEELS", {**mkl_download.WHEELS, "mkl": digest})
        self.failure(cache, "The wheels of MKL 2018.0.0 lack .*libmkl_core.so")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_run_leaves_nothing(self, cache, index, monkeypatch, number, tmp_path):
        # A pip that never ends.
        pip = tmp_path / "site/pip"
        pip.mkdir(parents=True)
        (pip / "__init__.py").touch()
        (pip / "__main__.py").write_text("import time\ntime.sleep(60)\n")
        with subprocess.Popen(
            [sys.executable, "-m", "cnn", "backends", "get", "mkl-phi"],
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(pip.parent)},
            # A shell makes background processes ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            end = time.monotonic() + 20
            while not list(cache.glob("*/requirements.txt")) and time.monotonic() < end:
                time.sleep(0.02)
            second = subprocess.run(
                [sys.executable, "-m", "cnn", "backends", "get", "mkl-phi"], capture_output=True, text=True
            )
            process.send_signal(number)
            assert process.wait(20) == 130
            assert process.stderr.read().endswith(b"cnn: interrupted\n")
        assert second.returncode == 1
        assert "Another process is working in" in second.stderr
        # Beside it lies the folder of compiled kernels, which a backend makes when it is loaded.
        assert list(cache.glob("mkl*")) == []


def test_the_version_is_in_the_place_and_the_names_of_the_wheels():
    assert mkl_root.cached_root().name == f"mkl-{mkl_root.VERSION}"
    assert all(len(digest) == 64 for digest in WHEELS.values())
