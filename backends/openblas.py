"""The `openblas` backend: OpenBLAS from the scipy-openblas32 package."""

import ctypes
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from cnn.backend import Library
from cnn.cblas import CblasBackend
from cnn.compiled.convolution import TILE_BYTES, TileBytes
from cnn.errors import BackendUnavailable


class OpenblasBackend(CblasBackend):
    """cblas_?gemm of libscipy_openblas, whose symbols have a prefix of their own."""

    name: ClassVar[str] = "openblas"
    # OpenBLAS multiplies matrices of up to about 100 x 100 x 100 without packing them first.
    largest_product: ClassVar[int] = 1_000_000

    def __init__(self, *, tile_bytes: TileBytes = TILE_BYTES) -> None:
        try:
            import scipy_openblas32
        except ImportError as error:
            raise BackendUnavailable(
                f"Backend 'openblas' needs scipy-openblas32 ({error}); install it or choose another backend."
            ) from error
        path = str(Path(scipy_openblas32.get_lib_dir()) / scipy_openblas32.get_library(fullname=True))
        super().__init__(path, symbol="scipy_cblas_{}gemm", integer=ctypes.c_int32, tile_bytes=tile_bytes)
        self.library = Library("OpenBLAS", version("scipy-openblas32"), path)
