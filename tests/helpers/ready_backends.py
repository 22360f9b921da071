"""The backends that tests run on."""

import platform
from pathlib import Path

import pytest

from cnn import plugins, registry
from cnn.backend import Backend
from cnn.errors import BackendUnavailable

ALL = plugins.names(plugins.BACKENDS)
SURE = {"reference", "numpy", "openblas"} | ({"mkl"} if platform.machine() in ("x86_64", "AMD64") else set())
"""The backends that need only this package's dependencies."""


def no_avx512() -> bool:
    """Whether the kernels for Knights Landing cannot run on this processor."""
    return "avx512f" not in Path("/proc/cpuinfo").read_text().split()


def ready(name: str) -> Backend:
    """The backend, or a skip that says why it cannot run here."""
    try:
        return registry.create(name)
    except BackendUnavailable as error:
        pytest.skip(f"backend {name!r} is not ready: {error}")
