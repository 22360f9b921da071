"""Refuses to train if processes differ in something that must be the same."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cnn
from cnn.errors import UsageError
from cnn.system.environment import CHOICES, choice
from cnn.training.world import World


def check_agreement(world: World, facts: Mapping[str, Any]) -> None:
    """Raises UsageError on every rank if a fact differs from that of rank 0.

    The package's code is added as a fact, and each variable that decides which algorithms run.
    """
    own = {"code": _code(), **{name: choice(name) for name in CHOICES}, **facts}
    every = world.gather(own)
    for name, expected in every[0].items():
        for rank, found in enumerate(every):
            if found.get(name) != expected:
                differs = f"{_short(found.get(name))}, rank 0 has {_short(expected)}"
                error = UsageError(
                    f"rank {rank} has another {name} ({differs}); give every rank the same code, data and options."
                )
                error.everywhere = True
                raise error


def _code() -> str:
    """The version and a checksum of the package's Python files."""
    folder, checksum = Path(__file__).parent.parent, 0
    for path in sorted(folder.rglob("*.py")):
        checksum = zlib.crc32(path.read_bytes(), zlib.crc32(str(path.relative_to(folder)).encode(), checksum))
    return f"cnn-blas {cnn.__version__}, crc {checksum:08x}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
