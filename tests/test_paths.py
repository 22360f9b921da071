"""What stands in the way of a path is said in one sentence: by every command, for every path that a user can name."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn.cli import main
from cnn.data.dataset import dataset_status, load_dataset
from cnn.energy.calibration import load_all
from cnn.errors import CnnError, DataError, FileFormatError
from cnn.paths import check_file, check_output, reading, sentence
from cnn.system.cache import tell_once
from cnn.system.storage import read_arrays
from cnn.training.metrics import read_metrics

LONG = "x" * 300


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "There is no model /a/b; check the path."),
        (errno.EISDIR, "/a/b is a folder; name the model itself."),
        (errno.ENOTDIR, "There is no model /a/b: a part of this path is a file"),
        (errno.EACCES, "You have no permission for the model /a/b; ask its owner"),
        (errno.EROFS, "You have no permission for the model /a/b"),
        (errno.ENAMETOOLONG, "The path /a/b is too long for this system"),
        (errno.ELOOP, "/a/b is a link that leads back to itself"),
        (errno.ENOSPC, "The disk is too full for /a/b"),
        (errno.EIO, "The model /a/b cannot be used (Input/output error)"),
    ],
)
def test_each_cause_has_its_sentence(number: int, words: str) -> None:
    assert sentence("/a/b", OSError(number, os.strerror(number)), "model").startswith(words)
    with pytest.raises(DataError) as caught, reading("/c", "model", DataError):
        raise OSError(number, os.strerror(number), "/a/b")
    assert str(caught.value).startswith(words)


def test_a_long_path_is_not_quoted_whole() -> None:
    assert len(sentence("y" * 5000, OSError(errno.ENOENT, ""))) < 300


@pytest.mark.parametrize("read", [lambda path: read_arrays(path, "model"), read_metrics, check_file])
def test_what_cannot_be_read_is_not_called_damaged(read: object, tmp_path: Path) -> None:
    assert callable(read)
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "none", "There is no"), (tmp_path / LONG, "too long")):
        with pytest.raises(FileFormatError, match=words):
            read(path)


@pytest.mark.parametrize("variable", ["CNN_DATA_DIR", "CNN_CACHE_DIR"])
def test_a_folder_that_cannot_be_reached_is_said_for_the_data(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CNN_DATA_DIR", raising=False)
    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(variable, str(tmp_path / LONG))
    with pytest.raises(DataError, match="is too long for this system"):
        load_dataset("mnist")
    assert "is too long for this system" in dataset_status("mnist").reason
    if variable == "CNN_CACHE_DIR":
        tell_once.cache_clear()
        assert load_all() == []
        assert "calibrations are not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data-dir", LONG],
        ["train", "mnist", "--data-dir", LONG],
        ["train", "--out", LONG, "--epochs", "1", "--backend", "numpy"],
        ["train", "--resume", "--out", LONG],
        ["train", "--config", LONG],
        ["train", "--model", f"{LONG}.toml"],
        ["eval", LONG, "mnist-5k"],
        ["predict", LONG, "x.png"],
        ["compare", "--html", f"{LONG}/x.html"],
        ["compare", "--csv", f"{LONG}.csv"],
        ["tune", "--out", f"{LONG}.toml"],
        ["model", "validate", "--png", f"{LONG}.png"],
        ["data", "get", "mnist", "--data-dir", LONG],
        ["backends", "get", "mkl-phi", "--root", LONG],
    ],
)
def test_every_command_says_it_in_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "too long" in line
    assert not list(tmp_path.iterdir())


def test_a_file_to_write_is_checked_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--html", str(tmp_path / "none" / "x.html")]) == 1
    assert f"There is no folder {tmp_path / 'none'} for x.html; create it" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(CnnError, match="is a folder; name a file in it"):
        check_output(tmp_path)
    check_output(tmp_path / "x.html")


def test_a_working_folder_that_was_deleted_is_named_as_the_cause(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from cnn.cli import main; sys.exit(main(['train', '--config', 'a']))"
    result = subprocess.run([sys.executable, "-c", code], cwd=gone, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "cnn: The working folder no longer exists, so a is nowhere; change to another folder.\n"
