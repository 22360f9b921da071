"""A lock on a folder: one process at a time writes there, and the lock ends with the process, even if it is killed."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cnn.errors import CnnError, UsageError

NAME = ".lock"


class FolderLock:
    """Holds a folder, which is created if it is missing, until `release` or the end of a `with` block.

    Raises UsageError if another process holds it, unless told to `wait` until it does not, and CnnError if the folder
    cannot be written. A file system that has no locks, as some network file systems, lets everybody in.
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        self.folder = folder
        self._wait = wait
        self._path = folder / NAME
        self._file: IO[bytes] | None = None
        self._take()

    @property
    def lost(self) -> bool:
        """Whether the folder or its lock has been removed or replaced since."""
        return self._file is not None and not _same(self._file, self._path)

    def renew(self) -> None:
        """Takes the folder again after it was `lost`."""
        self._close()
        self._take()

    def release(self) -> None:
        """Lets others in."""
        try:
            if self._file is not None and not self.lost:
                # While it is locked, so that nobody locks a file that is about to go.
                with suppress(OSError):
                    self._path.unlink()
        finally:
            self._close()

    def _take(self) -> None:
        while self._file is None or self.lost:  # whoever held it may have removed the file that was opened
            self._close()
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab")
            except OSError as error:
                raise CnnError(
                    f"The folder {self.folder} cannot be written ({error.strerror or error}); name another one."
                ) from error
            if not _lock(self._file, wait=self._wait):
                self._close()
                raise UsageError(
                    f"Another process is writing to {self.folder}; wait until it has ended, or choose another folder."
                )

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Whether the file could be locked; True where there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def _same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
