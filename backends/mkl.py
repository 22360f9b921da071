"""The `mkl` backend: Intel's Math Kernel Library through its CBLAS interface."""

import ctypes
import os
from typing import ClassVar

from cnn.backend import Library
from cnn.cblas import CblasBackend
from cnn.compiled.convolution import TILE_BYTES, TileBytes
from cnn.errors import BackendUnavailable
from cnn.system.threads import libraries


class MklBackend(CblasBackend):
    """cblas_?gemm_64 of libmkl_rt, which mkl-service loads and controls."""

    name: ClassVar[str] = "mkl"

    def __init__(self, *, tile_bytes: TileBytes = TILE_BYTES) -> None:
        # MKL reads its threading layer at the first call. The kernels bring the threads; without threads of its own,
        # MKL loads no second OpenMP runtime beside theirs.
        os.environ.setdefault("MKL_THREADING_LAYER", "SEQUENTIAL")
        try:
            import mkl  # noqa: F401  loads libmkl_rt for the whole process
        except ImportError as error:
            raise BackendUnavailable(
                f"Backend 'mkl' needs Intel MKL, and mkl-service does not load ({error}); "
                "install mkl and mkl-service (x86-64 only), or choose another backend."
            ) from error
        loaded = next((each for each in libraries() if each.api == "mkl"), None)
        if loaded is None:
            raise BackendUnavailable(
                "Backend 'mkl' found no libmkl_rt in the process although mkl-service is loaded; reinstall mkl."
            )
        # The _64 functions take 64-bit sizes, whatever interface layer the process has chosen.
        super().__init__(loaded.filepath, symbol="cblas_{}gemm_64", integer=ctypes.c_int64, tile_bytes=tile_bytes)
        self.library = Library("Intel MKL", loaded.version or "of unknown version", loaded.filepath)
