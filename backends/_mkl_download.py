"""Downloads the MKL that `_mkl_root` looks for with pip, from the user's package index, and checks its SHA-256."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from zipfile import BadZipFile, ZipFile

from cnn.errors import CnnError
from cnn.terminal.printing import is_terminal, tell

from ._mkl_root import VARIABLE, VERSION, cached_root, write_sums  # noqa: TID251 - relative, as it should be

WHEELS = {
    "mkl": "168a0aff44d3ae0314d658149d23f20dc533604f7f2df741d7695c052679b6cb",
    "intel-openmp": "2b0baf1ccd3e266e0470261763ab05323180bb4a8e4fbf3d2fa34eebd68b9eec",
}
"""The SHA-256 of the only wheel of VERSION of each package, for Linux on x86-64."""

KERNELS = ("def", "mc", "mc3", "avx", "avx2", "avx512", "avx512_mic")
LAYERS = ("rt", "core", "intel_lp64", "intel_thread", "ao_worker")
FILES = ("libiomp5.so", "mkl_msg.cat", *(f"libmkl_{name}.so" for name in (*LAYERS, *KERNELS)))
"""The files of the wheels that products and automatic offload need."""

ROOM = 800_000_000
"""Bytes that the wheels and FILES take together."""


def fetch_mkl(named: Path | None = None) -> Path:
    """Downloads and unpacks MKL into the folder `named`, else `cached_root()`, unless it is there; returns the folder.

    The work is done in a folder beside it, which is removed at the end or by the next call. Raises CnnError.
    """
    root = cached_root() if named is None else named.absolute()
    if root.exists():
        lacking = [name for name in FILES if not (root / "lib" / name).is_file()]
        if lacking:
            cure = "remove that folder and run the command again" if named is None else "name a new folder"
            raise CnnError(f"{root} lacks {', '.join(lacking)}; {cure}.")
        return root
    if not sys.platform.startswith("linux"):
        raise CnnError(f"MKL {VERSION} can be downloaded for Linux on x86-64 only; use such a machine.")
    if find_spec("pip") is None:
        raise CnnError(
            f"This Python has no pip to download MKL with; add it (`{sys.executable} -m ensurepip`), or unpack the "
            f"wheels {' and '.join(f'{name} {VERSION}' for name in WHEELS)} yourself and set {VARIABLE} to the folder."
        )
    try:
        with _workshop(root.with_name(root.name + ".part")) as folder:
            _download(folder)
            _unpack(folder)
            write_sums(folder / "root")
            (folder / "root").rename(root)
    except OSError as error:
        raise CnnError(
            f"MKL cannot be stored in {root.parent} ({error.strerror or error}); free {ROOM:,} bytes there, or name "
            f"another folder with {'CNN_CACHE_DIR' if named is None else '--root'}."
        ) from error
    return root


@contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder for one process at a time, removed at the end, even after an interruption."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Windows has neither this module nor these wheels.
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CnnError(f"Another process is working in {folder}; wait for it to end.") from None
        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            _empty(folder)
            if shutil.disk_usage(folder).free < ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield folder
        finally:
            signal.signal(signal.SIGTERM, before)
            shutil.rmtree(folder)
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _download(folder: Path) -> None:
    """Downloads the wheels into `folder`. pip shows progress on a terminal; it knows index, proxy and certificates."""
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name}=={VERSION} --hash=sha256:{digest}\n" for name, digest in WHEELS.items()))
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--retries", "2"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(requirements), "-d", str(folder)]
    terminal = is_terminal(sys.stdout)
    if not terminal:
        tell(f"downloading {' and '.join(WHEELS)} {VERSION} (220 MB)")
    result = subprocess.run(
        command,
        stdout=None if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    if result.returncode == 0:
        return
    said = result.stderr
    if os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "DO NOT MATCH THE HASHES" in said:
        raise CnnError(
            f"The SHA-256 of the MKL {VERSION} that the package index sent is not the expected one; the file was not "
            "kept; use another index, or run the command again if the download was damaged."
        )
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")] or said.strip().splitlines()
    cause = errors[-1].removeprefix("ERROR:").strip() if errors else f"exit status {result.returncode}"
    if "connection broken" in said:
        cause = "no connection to the package index"
    raise CnnError(
        f"pip could not download MKL {VERSION} ({cause}); check the network and pip's index (the wheels are for Linux "
        f"on x86-64), or set {VARIABLE} to the folder of an MKL."
    )


def _unpack(folder: Path) -> None:
    """Extracts FILES and the licence from the wheels into `folder`/root."""
    target = folder / "root" / "lib"
    target.mkdir(parents=True)
    found = set()
    for wheel in folder.glob("*.whl"):
        try:
            with ZipFile(wheel) as archive:
                for name in archive.namelist():
                    base = name.rpartition("/")[2]
                    if base in FILES:
                        found.add(base)
                        _copy(archive, name, target / base)
                        # The worker for a card is run as a program.
                        (target / base).chmod(0o755)
                    elif base == "LICENSE.txt":
                        _copy(archive, name, target.parent / base)
        except BadZipFile as error:
            raise CnnError(f"{wheel.name} cannot be unpacked ({error}); run the command again.") from error
    lacking = [name for name in FILES if name not in found]
    if lacking:
        raise CnnError(f"The wheels of MKL {VERSION} lack {', '.join(lacking)}; use another package index.")


def _copy(archive: ZipFile, name: str, target: Path) -> None:
    with archive.open(name) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
