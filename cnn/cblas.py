"""A backend for any shared library that exports the CBLAS interface."""

import ctypes
from typing import Any

import numpy as np

from cnn.arrays import Array
from cnn.backend import Backend, gemm_sizes
from cnn.errors import BackendUnavailable, ShapeError

ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112


class CblasBackend(Backend):
    """Calls cblas_sgemm and cblas_dgemm of one library; a subclass says which, and how its symbols are called."""

    def __init__(self, path: str, *, suffix: str = "", integer: type[Any] = ctypes.c_int) -> None:
        """Loads the library at `path`, or by a name the system's loader finds.

        `suffix` follows the symbols' names; `integer` is the library's index type (c_int64 for ILP64). Raises
        BackendUnavailable if the library cannot be loaded or lacks a symbol.
        """
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise BackendUnavailable(
                f"Backend {self.name!r} cannot load {path} ({error}); install it or choose another backend."
            ) from error
        self._gemm = {}
        for dtype, symbol, real in (
            (np.dtype(np.float32), f"cblas_sgemm{suffix}", ctypes.c_float),
            (np.dtype(np.float64), f"cblas_dgemm{suffix}", ctypes.c_double),
        ):
            try:
                function = getattr(library, symbol)
            except AttributeError:
                raise BackendUnavailable(
                    f"Backend {self.name!r} cannot use {path}: it exports no {symbol}; choose a CBLAS library."
                ) from None
            matrix = [ctypes.c_void_p, integer]
            function.argtypes = [ctypes.c_int] * 3 + [integer] * 3 + [real, *matrix, *matrix, real, *matrix]
            function.restype = None
            self._gemm[dtype] = function

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
        m, n, k = gemm_sizes(a, b, out, transpose_a, transpose_b)
        function = self._gemm.get(out.dtype)
        if function is None:
            raise ShapeError(f"Backend {self.name!r} multiplies float32 and float64, not {out.dtype}.")
        function(
            ROW_MAJOR,
            TRANSPOSE if transpose_a else NO_TRANSPOSE,
            TRANSPOSE if transpose_b else NO_TRANSPOSE,
            m,
            n,
            k,
            1.0,
            a.ctypes.data,
            leading_dimension(a),
            b.ctypes.data,
            leading_dimension(b),
            1.0 if accumulate else 0.0,
            out.ctypes.data,
            leading_dimension(out),
        )


def leading_dimension(x: Array) -> int:
    """Elements from one row of x to the next; BLAS wants at least one row's worth, whatever NumPy says of one row."""
    rows, columns = x.shape
    return max(1, int(columns), int(x.strides[0]) // x.itemsize if rows > 1 else 0)
