"""A disk on which the file operation of a given number fails, by a full disk or by the death of the process."""

import errno
import io
import os
from os.path import exists
from pathlib import Path


class Killed(BaseException):
    """Stands for the end of the process: nothing that is done to a file afterwards has an effect."""


class FaultyDisk:
    """Counts the operations on the files below a folder; that of number `fails_at` fails, as `kind` says.

    With "kill", all operations after it fail, too. A write that fails has written half of its bytes.
    """

    def __init__(self, monkeypatch, folder):
        self.folder = str(folder)
        self.begin(None)
        for module, name, place in (
            (os, "mkdir", 0),
            (os, "replace", 1),
            (os, "unlink", 0),
            (os, "fsync", None),
            (io, "open", 0),
        ):
            monkeypatch.setattr(module, name, self._guarded(name, getattr(module, name), place))

    def begin(self, fails_at, kind="full"):
        """Starts to count afresh."""
        self.fails_at, self.kind, self.count = fails_at, kind, 0

    def operation(self, before_failing=lambda: None):
        """Counts an operation, and raises if it fails."""
        self.count += 1
        if self.fails_at is None or self.count < self.fails_at:
            return
        if self.kind == "kill":
            if self.count == self.fails_at:
                before_failing()
            raise Killed
        if self.count == self.fails_at:
            before_failing()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _guarded(self, name, original, place):
        def run(*arguments, **options):
            if place is not None and not str(arguments[place]).startswith(self.folder):
                return original(*arguments, **options)
            writes = (
                set("wxa") & set(arguments[1]) if original is io_open else name != "mkdir" or not exists(arguments[0])
            )
            if writes:
                self.operation()
            result = original(*arguments, **options)
            return File(result, self) if original is io_open and writes else result

        return run


io_open = io.open


class File:
    """A file opened for writing."""

    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def write(self, content):
        def half():
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._disk.operation(half)
        return self._file.write(content)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


def folder_bytes(folder: Path, *names):
    """The content of files of a folder by name."""
    return {name: (folder / name).read_bytes() for name in names}
