"""Keeps the machine code of kernels in files; each is checked before it is used, and made anew if it is damaged."""

import atexit
import hashlib
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import llvmlite
import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from cnn.errors import CnnError
from cnn.system.cache import cache_folder, keep, read_trusted

DIGEST = hashlib.sha256().digest_size


class Store:
    """Files of machine code in the cache, and in a temporary folder from the first one on that cannot be kept there."""

    def __init__(self) -> None:
        self.damaged: Path | None = None
        """The last file that was damaged."""
        self.trouble: str | None = None
        """Why nothing can be kept in the cache, with the cure."""
        self._elsewhere: Path | None = None

    @cached_property
    def wanted(self) -> Path:
        """The folder in the cache for these sources and versions: machine code depends on all of them."""
        sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
        versions = f"{sys.version} {numba.__version__} {llvmlite.__version__}"
        return cache_folder() / "kernels" / hashlib.sha256(sources + versions.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where files are written."""
        return self._elsewhere or self.wanted

    @folder.setter
    def folder(self, folder: Path) -> None:
        self._elsewhere = folder

    @property
    def occasion(self) -> str:
        """How often, or why, kernels have to be compiled."""
        if self.trouble:
            return f"at every start: {self.trouble}"
        return f"once: {self.damaged} is damaged" if self.damaged else "once"

    def read(self, name: str) -> bytes | None:
        """What was written under this name; None if it is not there, is damaged, or may come from another user."""
        for path in dict.fromkeys((self.folder / name, self.wanted / name)):
            try:
                content = read_trusted(path)
            except OSError:
                continue
            except CnnError as error:
                self.trouble = self.trouble or str(error)
                continue
            if content[:DIGEST] == _digest(name, content[DIGEST:]):
                return content[DIGEST:]
            self.damaged = path
            with suppress(OSError):
                path.unlink()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Keeps the content in the cache, else in a temporary folder, else not at all."""
        content = _digest(name, content) + content
        try:
            keep(self.folder / name, content)
        except CnnError as error:
            if self._elsewhere is None:
                self._move(error)
                with suppress(CnnError):
                    keep(self.folder / name, content)

    def _move(self, error: CnnError) -> None:
        """Goes on in a temporary folder."""
        cause = error.__cause__
        if isinstance(cause, OSError):
            why = cause.strerror or cause
            self.trouble = f"nothing can be kept in {self.wanted} ({why}); set CNN_CACHE_DIR to a folder of your own"
        else:
            self.trouble = str(error)
        with suppress(OSError):
            temporary = TemporaryDirectory(prefix="cnn-kernels-")
            atexit.register(temporary.cleanup)
            self.folder = Path(temporary.name)


STORE = Store()


class StoredKernel(_Cache):
    """Reads and writes the machine code of one function for Numba's dispatcher, in place of Numba's own cache.

    That cache trusts its index, which is a pickle, and every byte of the code; and it ends the process with an error
    where it cannot read or write.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}".removeprefix("cnn.compiled.")

    @property
    def cache_path(self) -> str:
        return str(STORE.folder)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for the argument types `sig`, None if it has to be compiled."""
        target_context.refresh()
        content = STORE.read(self._file(sig, target_context.codegen()))
        return None if content is None else CompileResult._rebuild(target_context, *pickle.loads(content))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keeps what was compiled."""
        STORE.write(self._file(sig, data.codegen), dumps(data._reduce()))

    def enable(self) -> None:
        """It always is."""

    def disable(self) -> None:
        """It never is."""

    def flush(self) -> None:
        """Nothing is kept in memory."""

    def _file(self, sig: Any, codegen: Any) -> str:
        """A name for the types and the processor's instructions."""
        key = hashlib.sha256(repr((sig, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return f"{self._name}-{key}"


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()
