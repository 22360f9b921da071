"""What holds for every test: no clock chooses an algorithm; and the stand-in card, built once."""

import os
from pathlib import Path

import pytest
import standin

# Winograd's error is bounded over a tile, not element by element; its own tests call it by name.
os.environ["CNN_ALGORITHM"] = "im2col"


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> standin.StandIn:
    """The stand-in card's libraries."""
    if standin.compiler() is None:
        pytest.skip("the stand-in card needs gcc, and there is none")
    return standin.build(tmp_path_factory.mktemp("standin"))


@pytest.fixture(scope="session")
def mkl_2018() -> Path:
    """The root of an MKL with automatic offload."""
    root = standin.mkl_root()
    if root is None:
        pytest.skip("no MKL 2018.0.0: run 'cnn phi get', or set CNN_MKL_ROOT to one")
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what runs on a backend of the old MKL in files that run on every backend."""
    for item in items:
        if any(name in item.name for name in ("mkl-offload", "mkl-phi")):
            item.add_marker("phi")
