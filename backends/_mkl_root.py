"""Finds an MKL from the time of the Xeon Phi: the folder with libmkl_rt, named by CNN_MKL_ROOT or in the cache."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from cnn.errors import BackendUnavailable
from cnn.paths import reading
from cnn.system.cache import cache_folder, distrust, folder_in
from cnn.system.fetch import sha256_of

VARIABLE = "CNN_MKL_ROOT"
VERSION = "2018.0.0"
"""The last MKL with automatic offload; it also has kernels for Knights Landing."""

SUMS = "SHA256SUMS"
"""The file in the cached root that has the digests of its libraries."""

FOLDERS = (".", "lib", "lib/intel64", "lib/intel64_lin")
"""Where packages and installers of that time put libmkl_rt below a root."""


def cached_root() -> Path:
    """The folder that `cnn backends get` fills if none is named."""
    return cache_folder() / f"mkl-{VERSION}"


def find_library(backend: str) -> Path:
    """libmkl_rt in CNN_MKL_ROOT if that is set, else in the cache. Raises BackendUnavailable if it is not there."""
    named = folder_in(VARIABLE)
    root = named or cached_root()
    with reading(root, "folder", BackendUnavailable):
        for folder in FOLDERS:
            for library in sorted((root / folder).glob("libmkl_rt.so*")):
                if not named:
                    _check(root, backend)
                return library.resolve()
    if named:
        raise BackendUnavailable(
            f"{VARIABLE} is {named}, but there is no libmkl_rt.so in it or in {', '.join(FOLDERS[1:])} below it; "
            "set it to the folder of an Intel MKL, or unset it."
        )
    raise BackendUnavailable(
        f"Intel MKL {VERSION} is not in {root}; run `cnn backends get {backend}`, which downloads it, or set "
        f"{VARIABLE} to its folder."
    )


def find_openmp(library: Path) -> str:
    """libiomp5 beside `library`, where Intel's installers put it, or wherever the loader finds it."""
    beside = library.parent / "libiomp5.so"
    installed = sorted(library.parent.glob("../../../compiler/lib/intel64*/libiomp5.so"))
    return str(next((path.resolve() for path in [beside, *installed] if path.exists()), "libiomp5.so"))


def write_sums(root: Path) -> None:
    """Notes the SHA-256 of every library below `root`, as `sha256sum` does."""
    lines = [f"{sha256_of(path)}  {path.relative_to(root)}\n" for path in sorted((root / "lib").iterdir())]
    (root / SUMS).write_text("".join(lines))


@cache
def _check(root: Path, backend: str) -> None:
    """Raises BackendUnavailable for libraries in the cache that are damaged, or that another user may have put there.

    It reads all of them, once per process, which takes about a second.
    """
    for path in (root / SUMS, *sorted((root / "lib").glob("*"))):
        doubt = distrust(path)
        if doubt is not None:
            raise BackendUnavailable(f"Backend {backend!r} does not load {root}: {doubt}.")
    try:
        sums = dict(line.split("  ")[::-1] for line in (root / SUMS).read_text().splitlines())
    except FileNotFoundError:
        return  # fetched by an earlier release
    except (OSError, ValueError) as error:
        raise BackendUnavailable(f"{root / SUMS} cannot be read ({error}); {_again(root, backend)}.") from error
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            found = list(pool.map(lambda name: sha256_of(root / name), sums))
        except OSError as error:
            raise BackendUnavailable(f"{root} cannot be read ({error}); {_again(root, backend)}.") from error
    wrong = [name for (name, expected), digest in zip(sums.items(), found, strict=True) if digest != expected]
    if wrong:
        raise BackendUnavailable(f"{root / wrong[0]} is damaged (its SHA-256 is wrong); {_again(root, backend)}.")


def _again(root: Path, backend: str) -> str:
    return f"remove {root} and run `cnn backends get {backend}`"
