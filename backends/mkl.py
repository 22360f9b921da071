"""The `mkl` backend: Intel's Math Kernel Library through its CBLAS interface."""

import ctypes
import os
from typing import Any, ClassVar

from cnn.arrays import Array, Buffers
from cnn.backend import Library, gemm_sizes
from cnn.cblas import CblasBackend
from cnn.compiled import library_bf16, rounding
from cnn.compiled.convolution import TILE_BYTES, TileBytes
from cnn.errors import BackendUnavailable
from cnn.system.machine import this_machine
from cnn.system.threads import libraries

BFLOAT16 = "cblas_gemm_bf16bf16f32_64"
"""MKL's product of bfloat16 with sums in float32."""


def bfloat16_pays() -> bool:
    """Whether MKL's products of bfloat16 are faster than its sgemm here: on Intel's processors that multiply them.

    One core of a Xeon with AMX multiplied 1024x576 by 576x64 at 732 GFLOP/s, at 161 in float32. One of an EPYC of
    family 26, of whose AVX512_BF16 MKL 2026.2 makes no use, did so at 103, at 107 in float32.
    """
    machine = this_machine()
    return machine.vendor == "GenuineIntel" and any("BF16" in each for each in machine.vector or ())


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
        self._bfloat16 = _address(loaded.filepath, BFLOAT16) if bfloat16_pays() else None

    def product(
        self,
        a: Array,
        b: Array,
        *,
        out: Array,
        scratch: Buffers,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        how: dict[str, Any] = {"transpose_a": transpose_a, "transpose_b": transpose_b, "accumulate": accumulate}
        if self._bfloat16 is None or not self.rounds or not (a.size and b.size) or rounding.flat(a, b, out) is None:
            super().product(a, b, out=out, scratch=scratch, **how)
            return
        gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b, mixed=True)
        results = rounding.float32_for(out, scratch, kept=accumulate)
        library_bf16.product(self._bfloat16, a, b, out=results, scratch=scratch, multiplies=self.multiplies, **how)
        rounding.store(results, out)

    @property
    def bfloat16_by(self) -> str:
        if self._bfloat16 is None:
            return super().bfloat16_by
        return f"linear layers in bfloat16 by MKL, convolutions: {super().bfloat16_by}"


def _address(path: str, symbol: str) -> int | None:
    """Where a loaded library has a function, None if it has none of this name."""
    function = getattr(ctypes.CDLL(path), symbol, None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value
