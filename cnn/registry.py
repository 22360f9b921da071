"""The registered backends, which of them can run here, and which one is current."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

import cnn.plugins as plugins
from cnn.backend import Backend, Downloadable, Library
from cnn.backend_options import Option, check_options, options_of
from cnn.config import plain
from cnn.errors import BackendUnavailable, CnnError, UsageError
from cnn.system.limits import check_limits
from cnn.system.machine import this_machine

REFERENCE = "reference"
"""The backend whose results others are compared with."""

DEFAULT_BACKENDS = ("mkl", "openblas", "numpy")
"""If the user names no backend, the first of these that is ready is used, in the order of `default_order`."""

_instances: dict[tuple[str, str], Backend] = {}
_making = RLock()
"""Held while a backend is made, so that threads that ask at the same time get the same one."""
_used: Backend | None = None


def default_order() -> tuple[str, ...]:
    """DEFAULT_BACKENDS from the fastest to the slowest on this processor.

    MKL does not use the AVX-512 of AMD's processors, OpenBLAS does, unless OPENBLAS_CORETYPE forbids it: one core of an
    EPYC of family 26 multiplied 8192x576 by 576x64 at 197 GFLOP/s with OpenBLAS and at 99 with MKL.
    """
    machine = this_machine()
    amd = machine.vendor == "AuthenticAMD" and any(each.startswith("AVX-512") for each in machine.vector or ())
    if amd and not os.environ.get("OPENBLAS_CORETYPE"):
        return "openblas", *(name for name in DEFAULT_BACKENDS if name != "openblas")
    return DEFAULT_BACKENDS


def create(name: str, /, **options: Any) -> Backend:
    """The backend `name` with the given options, made once per process for each set of options.

    Raises UsageError for a name that is not registered, an unknown option or a value of the wrong type, and
    BackendUnavailable if it cannot run.
    """
    key = (str(name), repr(sorted(options.items())))
    with _making:
        if key not in _instances:
            _instances[key] = construct(name, **options)
        return _instances[key]


def construct(name: str, /, **options: Any) -> Backend:
    """Like `create`, but always makes a new backend that nobody else uses. Raises the same errors."""
    check_limits()
    plugin = plugins.load(plugins.BACKENDS, name)
    options = {option: plain(value) for option, value in options.items()}
    check_options(name, plugin, options)
    backend = plugin(**options)
    if not isinstance(backend, Backend):
        raise CnnError(f"Plug-in {name!r} is a {type(backend).__name__}, not a cnn.Backend; correct its entry point.")
    backend.remade = partial(create, name, **options)
    return backend


def use_backend(name: str, /, **options: Any) -> Backend:
    """Makes `name` the backend of every model that is built from now on without a backend, and returns it."""
    global _used
    _used = create(name, **options)
    return _used


def current_backend() -> Backend:
    """The backend set by `use_backend`, else by CNN_BACKEND, else the first ready one of `default_order`."""
    return choose()[0]


def choose(name: str | None = None, options: Mapping[str, Any] | None = None) -> tuple[Backend, str]:
    """The current backend and why: from `name`, else `use_backend`, else CNN_BACKEND, else `default_order`.

    Raises UsageError or BackendUnavailable for a named backend, UsageError for options without a named backend, and
    BackendUnavailable if no backend of DEFAULT_BACKENDS is ready.
    """
    if not name and not options and _used is not None:
        return _used, "named"
    named = name or (_used and _used.name)
    for chosen, why in ((named, "named"), (os.environ.get("CNN_BACKEND"), "CNN_BACKEND")):
        if chosen:
            return create(chosen, **(options or {})), why
    if options:
        raise UsageError(f"Options ({', '.join(options)}) belong to one backend; name it too.")
    reasons, order = [], default_order()
    for candidate in order:
        try:
            return create(candidate), f"first ready of {', '.join(order)}"
        except CnnError as error:
            reasons.append(f"{candidate}: {error}")
    raise BackendUnavailable("No default backend is ready. " + " ".join(reasons))


def download(name: str, root: Path | None = None) -> str:
    """Fetches the library of the backend `name` into `root`, or to where the backend finds it by itself.

    Returns a sentence that says what was put where. Raises UsageError for a name that is not registered, CnnError if
    the backend has nothing to fetch or fetching fails.
    """
    plugin = plugins.load(plugins.BACKENDS, name)
    if not _downloadable(plugin):
        raise CnnError(f"Backend {name!r} has nothing to fetch; `cnn backends list` shows the backends that have.")
    return str(plugin.download(root))


def ready_names() -> list[str]:
    """The backends worth measuring: every ready one except the reference, which is slow on purpose."""
    return [each.name for each in statuses() if each.library and each.name != REFERENCE]


def _downloadable(plugin: Any) -> bool:
    return isinstance(plugin, type) and issubclass(plugin, Downloadable)


@dataclass(frozen=True)
class BackendStatus:
    """Whether a registered backend can run here: its library or the reason why not, its options, what it can fetch."""

    name: str
    library: Library | None
    reason: str | None
    options: tuple[Option, ...]
    fetches: str | None

    def __str__(self) -> str:
        return f"{self.name}: {f'ready, {self.library}' if self.library else f'not ready: {self.reason}'}"

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "name": self.name,
            "ready": self.library is not None,
            "library": asdict(self.library) if self.library else None,
            "reason": self.reason,
            "options": [option.to_dict() for option in self.options],
            "fetches": self.fetches,
        }


def statuses() -> list[BackendStatus]:
    """Every registered backend, tried with the defaults of its options."""
    result = []
    for name in plugins.names(plugins.BACKENDS):
        options: tuple[Option, ...] = ()
        fetches: str | None = None
        try:
            plugin = plugins.load(plugins.BACKENDS, name)
            options, fetches = tuple(options_of(plugin).values()), plugin.fetches if _downloadable(plugin) else None
            result.append(BackendStatus(name, create(name).library, None, options, fetches))
        except CnnError as error:
            result.append(BackendStatus(name, None, str(error), options, fetches))
    return result
