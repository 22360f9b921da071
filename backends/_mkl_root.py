"""Finds an MKL from the time of the Xeon Phi: the folder with libmkl_rt, named by CNN_MKL_ROOT or in the cache."""

from pathlib import Path

from cnn.errors import BackendUnavailable
from cnn.paths import reading
from cnn.system.cache import cache_folder, folder_in

VARIABLE = "CNN_MKL_ROOT"
VERSION = "2018.0.0"
"""The last MKL with automatic offload; it also has kernels for Knights Landing."""

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
