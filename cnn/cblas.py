"""A backend for any shared library that exports the CBLAS interface: compiled kernels around its sgemm."""

import ctypes
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

import cnn.system.threads as threads
from cnn.arrays import Array, Buffers
from cnn.backend import Backend, gemm_sizes
from cnn.compiled import bfloat16, im2col, rounding
from cnn.compiled.calls import NO, ROW_MAJOR, YES, leading_dimension
from cnn.compiled.convolution import TILE_BYTES, CompiledConvolution, TileBytes
from cnn.compiled.kernels import timed
from cnn.compiled.ops import CompiledOps
from cnn.compiled.parts import parts_for_flops, thread_count
from cnn.compiled.preparing import prepare
from cnn.compiled.recording import KernelRecording
from cnn.errors import BackendUnavailable, ShapeError
from cnn.instruments import AlgorithmChoice, Instruments
from cnn.system.timing import Stopwatch

BYTE_FLOPS = 8
"""Floating-point operations that a core does in the time it takes to read one byte of a matrix from its caches."""


class CblasBackend(CompiledOps, CompiledConvolution):
    """Runs float32 on compiled kernels that call one library's sgemm from each thread; a subclass names the library.

    The threads belong to the kernels, so the library itself is kept at one thread. float64 uses the operations that
    every backend inherits, with the library's dgemm.
    """

    def __init__(
        self,
        path: str,
        *,
        symbol: str = "cblas_{}gemm",
        integer: type[Any] = ctypes.c_int,
        tile_bytes: TileBytes = TILE_BYTES,
    ) -> None:
        """Loads the library at `path`, which may be a name that the system's loader finds.

        `symbol` names its products, with s or d for the braces; `integer` is its index type (c_int64 for ILP64).
        Raises BackendUnavailable if the library cannot be loaded or lacks a symbol.
        """
        try:
            library = ctypes.CDLL(path)
            single, double = (getattr(library, symbol.format(letter)) for letter in "sd")
        except OSError as error:
            raise BackendUnavailable(
                f"Backend {self.name!r} cannot load {path} ({error}); install it or choose another backend."
            ) from error
        except AttributeError as error:
            raise BackendUnavailable(
                f"Backend {self.name!r} cannot use {path} ({error}); choose a library with the CBLAS interface."
            ) from error
        matrix = [ctypes.c_void_p, integer]
        double.argtypes = (
            [ctypes.c_int] * 3 + [integer] * 3 + [ctypes.c_double, *matrix, *matrix, ctypes.c_double, *matrix]
        )
        double.restype = None
        self._dgemm = double
        super().__init__(ctypes.cast(single, ctypes.c_void_p).value or 0, tile_bytes)
        threads.hold_at_one(path)
        prepare()

    @property
    def instruments(self) -> Instruments:
        return CblasInstruments(self)

    def gemm(
        self,
        a: Array,
        b: Array,
        *,
        out: Array,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate: bool = False,
    ) -> None:
        m, n, k = gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        if out.dtype == np.float32:
            work = max(2 * m * n * k, BYTE_FLOPS * 4 * (m * k + k * n + m * n))
            parts = parts_for_flops(work, most=max(m, n))
            im2col.product(self._sgemm, a, b, transpose_a, transpose_b, accumulate, out, parts)
        elif out.dtype == np.float64:
            sizes = (YES if transpose_a else NO, YES if transpose_b else NO, m, n, k)
            left, right, result = ((x.ctypes.data, leading_dimension.py_func(x)) for x in (a, b, out))
            self._dgemm(ROW_MAJOR, *sizes, 1.0, *left, *right, float(accumulate), *result)
        else:
            raise ShapeError(f"Backend {self.name!r} multiplies float32 and float64, not {out.dtype}.")

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
        if self.rounds and bfloat16.here() and a.size and b.size and rounding.flat(a, b, out) is not None:
            gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b, mixed=True)
            bfloat16.product(a, b, out=out, scratch=scratch, multiplies=self.multiplies, **how)
        else:
            a, b = rounding.in_float32(a, "wide a", scratch), rounding.in_float32(b, "wide b", scratch)
            results = rounding.float32_for(out, scratch, kept=accumulate)
            super().product(a, b, out=results, scratch=scratch, **how)
            rounding.store(results, out)

    @property
    def stores_bfloat16(self) -> bool:
        return self.rounds and bfloat16.here()

    @property
    def bfloat16_by(self) -> str:
        return bfloat16.by() if bfloat16.here() else super().bfloat16_by


class CblasInstruments(Instruments):
    """The instruments of a backend that computes in compiled kernels, with the fastest algorithm for each shape."""

    backend: CblasBackend

    def option_candidates(self) -> dict[str, Sequence[Any]]:
        return {"tile_bytes": [1 << bits for bits in range(16, 22)]}

    def algorithms(self) -> dict[str, AlgorithmChoice]:
        return self.backend.algorithms()

    @property
    def measures_algorithms(self) -> bool:
        return self.backend.measures_algorithms

    def recording(self) -> KernelRecording:
        return KernelRecording()

    def recording_key(self) -> Hashable:
        return thread_count()

    @property
    def multiplies(self) -> bool:
        return self.backend.multiplies

    def timed_kernels(self) -> AbstractContextManager[Stopwatch]:
        return timed()

    def without_products(self) -> Backend:
        copied = super().without_products()
        assert isinstance(copied, CblasBackend)
        copied.leave_out_products()
        return copied
