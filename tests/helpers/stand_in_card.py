"""Builds the stand-in card, and gives the environment in which a process sees such cards."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from cnn import plugins

SOURCES = Path(__file__).parent / "coi"
SHARED = ["settings.c", "wire.c"]
HOST = [*SHARED, "buffer.c", "engine.c", "events.c", "pipeline.c", "process.c", "queue.c", "spawn.c", "transfer.c"]
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]


@dataclass(frozen=True)
class StandIn:
    """The libraries of the stand-in card: the host's in one folder, the card's in another."""

    host: Path
    card: Path

    def environment(self, mkl: Path | None = None, **controls: object) -> dict[str, str]:
        """Variables for a process that is to see the cards, and for the MKL in `mkl`, if given, to find its worker.

        `controls` are the variables of coi/settings.h in lower case: cards=2, type="KNC", corrupt=1, die_after=3,
        refuse_buffer="2+", log=path. They must be set when the process starts, like the loader's path.
        """
        given = {f"STANDIN_{name.upper()}": str(value) for name, value in controls.items()}
        worker = [] if mkl is None else [str(mkl / "lib")]
        path = [str(self.host), *worker, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        # MKL looks for its worker in the first path for a KNL card, in the second for a KNC card.
        paths = {"LD_LIBRARY_PATH": ":".join(path), "MIC_LD_LIBRARY_PATH": ":".join(worker)}
        return {"STANDIN_CARD_LIBRARIES": str(self.card)} | paths | given


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("gcc")


def compile_c(out: Path, sources: list[str], *options: str) -> None:
    """Compiles sources of the stand-in card; raises AssertionError with the compiler's message if it fails."""
    out.parent.mkdir(exist_ok=True)
    files = [str(SOURCES / name) for name in sources]
    done = subprocess.run(
        [compiler() or "gcc", *FLAGS, "-o", str(out), *files, *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def build(folder: Path) -> StandIn:
    """Builds both libraries in folders under `folder`."""
    for name, sources, needed in [
        ("host/libcoi_host.so.0", HOST, "-pthread"),
        ("card/libcoi_device.so.0", [*SHARED, "card.c"], "-ldl"),
    ]:
        out = folder / name
        named = f"-Wl,-soname,{out.name},--version-script={SOURCES / 'exports.map'}"
        compile_c(out, sources, "-shared", "-fPIC", named, needed)
    return StandIn(folder / "host", folder / "card")


def beside_backend(module: str) -> ModuleType:
    """A module in the folder of the backends with the old MKL."""
    package = plugins.load(plugins.BACKENDS, "mkl-offload").__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{module}"]


def mkl_root() -> Path | None:
    """The folder of an MKL with automatic offload (libraries in lib): CNN_MKL_ROOT, else the one in the cache."""
    roots = beside_backend("_mkl_root")
    explicit = os.environ.get(roots.VARIABLE)
    root = Path(explicit) if explicit else roots.cached_root()
    return root if (root / "lib" / "libmkl_ao_worker.so").exists() else None
