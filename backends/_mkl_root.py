"""Where an MKL of the years of the Xeon Phi is: the folder that holds libmkl_rt, by CNN_MKL_ROOT or in the cache."""

import os
from pathlib import Path

from cnn.errors import BackendUnavailable
from cnn.system.cache import cache_folder

VARIABLE = "CNN_MKL_ROOT"
VERSION = "2018.0.0"
"""The last MKL with automatic offload, and one with kernels for Knights Landing."""

FOLDERS = (".", "lib", "lib/intel64", "lib/intel64_lin")
"""Where libmkl_rt lies below a root, in the packages and installers of the years."""


def cached_root() -> Path:
    """The folder that `cnn backends get` fills if none is named."""
    return cache_folder() / f"mkl-{VERSION}"


def find_library(backend: str) -> Path:
    """libmkl_rt of CNN_MKL_ROOT, else of the cache, for `backend`. Raises BackendUnavailable where it is in neither."""
    named = os.environ.get(VARIABLE)
    root = Path(named) if named else cached_root()
    for folder in FOLDERS:
        for library in sorted((root / folder).glob("libmkl_rt.so*")):
            return library.resolve()
    if named:
        raise BackendUnavailable(
            f"{VARIABLE} is {named}, and no libmkl_rt.so is there or in {', '.join(FOLDERS[1:])} below it; "
            "name the folder of an Intel MKL, or unset it."
        )
    raise BackendUnavailable(
        f"Intel MKL {VERSION} is not in {root}; run `cnn backends get {backend}`, which fetches it, or name a folder "
        f"by {VARIABLE}."
    )


def find_openmp(library: Path) -> str:
    """libiomp5 beside `library`, where Intel's installers put it, or wherever the loader finds it."""
    beside = library.parent / "libiomp5.so"
    installed = sorted(library.parent.glob("../../../compiler/lib/intel64*/libiomp5.so"))
    return str(next((path.resolve() for path in [beside, *installed] if path.exists()), "libiomp5.so"))
