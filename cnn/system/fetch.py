"""Downloads a file of known size and SHA-256: from mirrors, resumed, verified, never half-written."""

import errno
import hashlib
import http.client
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from tqdm import tqdm

from cnn.errors import DataError, UsageError
from cnn.system.lock import FolderLock
from cnn.system.stalls import SLOWEST, StallGuard, stall_guard
from cnn.terminal.printing import is_terminal, tell
from cnn.terminal.progress_bar import progress_bar

_BLOCK = 1 << 16
_TOO_SLOW = f"it sent less than {SLOWEST:,} bytes per second"


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched from any of `urls`, tried in order: put the origin last if it is slow or dead.

    `path` is relative to the folder the file is fetched into, `size` is in bytes, `sha256` is hexadecimal. Raises
    UsageError if one of them is invalid.
    """

    path: str
    size: int
    sha256: str
    urls: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or PurePosixPath(self.path).is_absolute() or ".." in parts:
            raise UsageError(f"The path of a remote file is {self.path!r}; give a relative one without '..'.")
        if self.size <= 0:
            raise UsageError(f"{self.path} has a size of {self.size} bytes; give a positive one.")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise UsageError(f"{self.path} has the SHA-256 {self.sha256!r}; give 64 hexadecimal digits.")
        if not self.urls or not all(url.startswith(("https://", "http://")) for url in self.urls):
            raise UsageError(f"{self.path} has the addresses {self.urls}; give at least one, http or https.")


class _MirrorFailed(Exception):
    """One mirror did not deliver; the message says why, and the next mirror is tried."""


class _Response(Protocol):
    """The part of http.client.HTTPResponse that is used here."""

    status: int
    headers: http.client.HTTPMessage

    def read1(self, amount: int, /) -> bytes: ...


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file at `path`, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(file: RemoteFile, folder: Path, *, timeout: float = 30.0) -> Path:
    """Downloads `file` into `folder` and returns its path; does nothing if it is already there.

    Received bytes stay in a file ending in .part until it is complete and its digest is right; a later call resumes
    it. A mirror that sends next to nothing for `timeout` seconds is given up. Raises DataError if no mirror delivers,
    if the disk is full, or if another file has the name.
    """
    target = folder / file.path
    part = target.with_name(target.name + ".part")
    try:
        if _is_there(target, file):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FolderLock(target.parent, wait=True):  # another process may be downloading the same
            if _is_there(target, file):
                return target
            _check_space(part, file)
            failures = []
            for url in file.urls:
                try:
                    _fetch_from(url, part, file, timeout)
                except _MirrorFailed as failure:
                    failures.append(f"{url}: {failure}")
                else:
                    part.replace(target)
                    return target
    except OSError as error:
        raise _disk_error(part, file, error) from error
    raise DataError(
        f"{file.path} could not be downloaded ({'; '.join(failures)}); check the network and run the command "
        f"again, or put the file at {target} yourself."
    )


def _is_there(target: Path, file: RemoteFile) -> bool:
    """Whether the file has been downloaded. Raises DataError if another has its name."""
    if not target.exists():
        return False
    if target.stat().st_size == file.size and sha256_of(target) == file.sha256:
        return True
    raise DataError(
        f"{target} exists but is not the file to be downloaded (its size or SHA-256 differs); "
        "move it away or name another folder with --data-dir."
    )


def _fetch_from(url: str, part: Path, file: RemoteFile, timeout: float) -> None:
    """Completes and verifies `part` from one mirror; starts over if the bytes that were already there are wrong."""
    while True:
        have = _size(part)
        if have > file.size:
            part.unlink()
            have = 0
        if have < file.size:
            have = _transfer(url, part, have, file, timeout)
        if sha256_of(part) == file.sha256:
            return
        part.unlink()
        if not have:
            raise _MirrorFailed("what it sent has the wrong SHA-256")


def _transfer(url: str, part: Path, have: int, file: RemoteFile, timeout: float) -> int:
    """Appends the bytes from `have` on; returns the byte it began at, 0 if the mirror does not resume."""
    with stall_guard(timeout) as guard, _open(url, have, guard) as response:
        begin = have if response.status == 206 else 0
        if begin and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise _MirrorFailed(f"it answered with another range than the one from byte {have} on")
        length = response.headers.get("Content-Length")
        if length is not None and length != str(file.size - begin):
            raise _MirrorFailed(f"it offers {length} bytes where {file.size - begin} are expected")
        with part.open("ab" if begin else "wb") as out, _progress(file, begin) as bar:
            _copy(response, out, file.size - begin, bar, guard)
    arrived = _size(part)
    if arrived > file.size:
        part.unlink()
        raise _MirrorFailed(f"it sends more than the expected {file.size} bytes")
    if arrived < file.size:
        how = _TOO_SLOW if guard.stalled else "the connection ended"
        raise _MirrorFailed(f"{how} after {arrived} of {file.size} bytes")
    return begin


@contextmanager
def _open(url: str, have: int, guard: StallGuard) -> Iterator[_Response]:
    """Sends the request, for the bytes from `have` on if `have` is not 0."""
    headers = {"User-Agent": "cnn-blas", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = guard.open(urllib.request.Request(url, headers=headers))
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorFailed(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if guard.stalled:
            raise _MirrorFailed(_TOO_SLOW) from error
        if isinstance(error, urllib.error.URLError):
            raise _MirrorFailed(f"no connection ({error.reason})") from error
        # A ValueError is about an address that it redirects to.
        raise _MirrorFailed(f"no answer ({error!r})") from error
    with response:
        yield response


def _copy(response: _Response, out: BinaryIO, limit: int, bar: "tqdm[None]", guard: StallGuard) -> None:
    """Copies at most one block more than `limit` bytes, so that an endless response cannot fill the disk."""
    copied = 0
    while copied <= limit:
        try:
            block = response.read1(_BLOCK)
        except (OSError, http.client.HTTPException, ValueError):
            return  # the caller compares the bytes received and reports it
        if not block:
            return
        out.write(block)
        copied += len(block)
        guard.came(len(block))
        bar.update(len(block))


@contextmanager
def _progress(file: RemoteFile, begin: int) -> Iterator["tqdm[None]"]:
    """On standard error, a progress bar if it is a terminal, else one plain line."""
    if not is_terminal(sys.stderr):
        resumed = f", resumed at {begin:,}" if begin else ""
        tell(f"downloading {file.path} ({file.size:,} bytes{resumed})")
    with progress_bar(total=file.size, initial=begin, desc=file.path, unit="B", unit_scale=True) as bar:
        yield bar


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(part: Path, file: RemoteFile) -> None:
    needed, free = file.size - _size(part), shutil.disk_usage(part.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")


def _disk_error(part: Path, file: RemoteFile, error: OSError) -> DataError:
    """The error for a failure of the file system, as one sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"The disk of {part.parent} is full ({error.strerror}); free {file.size:,} bytes or name another "
            "folder with --data-dir."
        )
    return DataError(f"{part} cannot be written ({error.strerror}); name a writable folder with --data-dir.")
