"""Files are written completely or not at all, and read correctly or refused."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

from cnn.errors import CnnError, FileFormatError, UsageError
from cnn.system.lock import FolderLock
from cnn.system.storage import read_arrays, remove_parts, save_arrays, write_atomically

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([[1, -1]], np.int64),
    "none": np.zeros((0, 2)),
}


def test_arrays_and_table_read_back_with_their_types_and_shapes(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    save_arrays(path, "model", ARRAYS, {"name": "net", "list": [1, None, 2.5]})
    arrays, table = read_arrays(path, "model")
    assert table == {"kind": "model", "version": 2, "name": "net", "list": [1, None, 2.5]}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_an_array_that_is_not_contiguous_is_stored_by_its_elements(tmp_path):
    save_arrays(tmp_path / "file", "model", {"a": ARRAYS["a"].T}, {})
    np.testing.assert_array_equal(read_arrays(tmp_path / "file", "model")[0]["a"], [[0, 3], [1, 4], [2, 5]])


def test_the_same_content_is_the_same_bytes(tmp_path):
    save_arrays(tmp_path / "one", "model", ARRAYS, {"x": 1, "y": 2})
    save_arrays(tmp_path / "two", "model", dict(reversed(ARRAYS.items())), {"y": 2, "x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(name, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, full_disk)
    with pytest.raises(CnnError, match=r"file could not be written \(No space left on device\); .* is unchanged\."):
        write_atomically(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"old")
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (seen.append(path.read_bytes()), fsync(number)))
    write_atomically(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_a_part_that_a_crash_left_behind_is_no_obstacle(tmp_path):
    (tmp_path / ".file.0123abcd.part").write_bytes(b"half")
    write_atomically(tmp_path / "file", b"new")
    remove_parts(tmp_path)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"new")]


def test_a_folder_that_cannot_be_is_an_error_with_the_cause(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(CnnError, match="could not be written"):
        write_atomically(tmp_path / "file" / "below", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(CnnError, match="could not be written"):
        write_atomically(tmp_path / "folder", b"new")
    assert {each.name for each in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error_with_the_cause(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    with pytest.raises(CnnError, match="Permission denied"):
        write_atomically(folder / "file", b"new")
    assert not list(folder.iterdir())


def truncated(share):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return damage


def of_another_program(path):
    save_file({"a": np.zeros(3)}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "There is no model file"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder; name the model file itself"),
        (lambda path: path.write_bytes(b""), "is damaged or not a model file"),
        (lambda path: path.write_bytes(b"\0" * 8), "is damaged or not a model file"),
        (lambda path: path.write_bytes(np.random.default_rng(1).bytes(2000)), "is damaged or not a model file"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "is damaged or not a model file"),
        (truncated(0.99), "is damaged or not a model file"),
        (truncated(0.5), "is damaged or not a model file"),
        (truncated(0.02), "is damaged or not a model file"),
        (of_another_program, r"is not a model file \(a file of another program\)"),
        (lambda path: save_arrays(path, "checkpoint", {}, {}), r"is not a model file \(checkpoint\)"),
        (lambda path: save_arrays(path, "model", {}, {"version": 3}), "has format version 3, but this release reads"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_sentence(damage, message, tmp_path):
    path = tmp_path / "file"
    save_arrays(path, "model", ARRAYS, {})
    damage(path)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_arrays(path, "model")
    assert "\n" not in str(caught.value)


def test_every_truncation_and_every_changed_byte_is_refused(tmp_path):
    path = tmp_path / "file"
    save_arrays(path, "model", ARRAYS, {"rate": 0.125, "layers": [1, 2]})
    assert read_arrays(path, "model")[0].keys() == ARRAYS.keys()
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="is damaged or not a model file"):
            read_arrays(path, "model")
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            read_arrays(path, "model")
        except FileFormatError:
            continue
        raise AssertionError((place, content[place - 5 : place + 5]))


def test_types_shapes_and_names_are_part_of_the_checksum(tmp_path):
    path = tmp_path / "file"
    save_arrays(path, "model", {"mean": np.ones((2, 3), np.float32)}, {})
    content = path.read_bytes()
    for old, new in ((b'"F32"', b'"I32"'), (b"[2,3]", b"[3,2]"), (b'"mean"', b'"meen"'), (b"[2,3]", b"[6,1]")):
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(FileFormatError, match="its checksum is wrong"):
            read_arrays(path, "model")


def test_a_file_of_an_older_release_is_read_and_said_to_be_one(tmp_path, capsys):
    save_arrays(tmp_path / "file", "model", ARRAYS, {"version": 1})
    arrays, _ = read_arrays(tmp_path / "file", "model")
    assert arrays.keys() == ARRAYS.keys()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {tmp_path / 'file'} was written by an older release")


def test_processes_that_write_one_file_at_once_leave_a_whole_one_and_no_parts(tmp_path):
    contents = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(tmp_path / "file", content), contents * 4))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    folder = tmp_path / "new" / "folder"
    with FolderLock(folder) as lock:
        with pytest.raises(UsageError, match=r"Another process is writing to .*folder; wait"):
            FolderLock(folder)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(FolderLock, folder, wait=True)
            assert not waiting.done()
            lock.release()
            waiting.result().release()
    assert not list(folder.iterdir())
    with FolderLock(folder) as lock:
        shutil.rmtree(folder)
        assert lock.lost
        lock.renew()
        assert not lock.lost
    (tmp_path / "file").touch()
    with pytest.raises(CnnError, match="cannot be written"):
        FolderLock(tmp_path / "file")
