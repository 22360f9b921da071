"""For every test: algorithms are not chosen by time; fixtures for the tiny network and the stand-in card, made once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from allowed_skips import ALLOWED
from helpers import stand_in_card
from helpers.ready_backends import ready
from helpers.skips import UnlistedSkips

from cnn import plugins, registry
from cnn.backend import Backend
from cnn.compiled.store import STORE

# Kernels stay in the cache that was chosen outside, also in tests that name another one.
assert STORE.wanted

# Winograd's error is bounded over a tile, not element by element; its own tests call it by name.
os.environ["CNN_ALGORITHM"] = "im2col"

# Lines are wrapped in the tests of their layout only.
os.environ["COLUMNS"] = "400"


TINY = """
name = "tiny"
input = [28, 28, 1]

[[layers]]
type = "Conv2D"
filters = 4
kernel = 5
stride = 2
activation = "relu"

[[layers]]
type = "Flatten"

[[layers]]
type = "Linear"
units = 10

[recipe]
epochs = 2
schedule = {type = "Constant", lr = 0.05}
"""


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a file that describes a network of two small layers with weights."""
    path = tmp_path_factory.mktemp("net") / "tiny.toml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(params=["mkl", "openblas"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that computes with the compiled kernels."""
    return ready(request.param)


@pytest.fixture
def forget_backends(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """No backend is created or chosen, as in a new process; again so after each call of the fixture."""

    # A process keeps its instances to its end, so there is no public way to forget them.
    def forget() -> None:
        monkeypatch.setattr(registry, "_instances", {})
        monkeypatch.setattr(registry, "_used", None)

    monkeypatch.delenv("CNN_BACKEND", raising=False)
    forget()
    return forget


@pytest.fixture
def register_backend(
    forget_backends: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[type[Backend]], None]:
    """Registers a class beside the other backends, for one test."""

    def register(kind: type[Backend]) -> None:
        load, names = plugins.load, plugins.names
        monkeypatch.setattr(plugins, "load", lambda group, name: kind if name == kind.name else load(group, name))
        added = {plugins.BACKENDS: [kind.name]}
        monkeypatch.setattr(plugins, "names", lambda group: [*names(group), *added.get(group, [])])

    return register


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> stand_in_card.StandIn:
    """The stand-in card's libraries."""
    if stand_in_card.compiler() is None:
        pytest.skip("the stand-in card needs gcc, and there is none")
    return stand_in_card.build(tmp_path_factory.mktemp("standin"))


@pytest.fixture(scope="session")
def mkl_2018() -> Path:
    """The root of an MKL with automatic offload."""
    root = stand_in_card.mkl_root()
    if root is None:
        pytest.skip("no MKL 2018.0.0: run 'cnn backends get mkl-offload', or set CNN_MKL_ROOT to one")
    return root


def pytest_configure(config: pytest.Config) -> None:
    """If CI is set, a skip that is not allowed is a failure."""
    config.pluginmanager.register(UnlistedSkips(ALLOWED))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that run on a backend with the old MKL in files that run on every backend."""
    for item in items:
        if any(name in item.name for name in ("mkl-offload", "mkl-phi")):
            item.add_marker("phi")
