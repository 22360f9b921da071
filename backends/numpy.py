"""The `numpy` backend: NumPy's matmul, on whatever BLAS NumPy was built with."""

from typing import Any, ClassVar, cast

import numpy as np

from cnn.arrays import Array
from cnn.backend import Backend, Library, gemm_sizes


class NumpyBackend(Backend):
    """np.matmul; everything else is inherited."""

    name: ClassVar[str] = "numpy"

    def __init__(self) -> None:
        config = cast(dict[str, Any], np.show_config(mode="dicts"))
        blas = config["Build Dependencies"]["blas"]
        self.library = Library(f"NumPy {np.__version__} with {blas['name']}", str(blas["version"]))

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
        gemm_sizes(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        left, right = a.T if transpose_a else a, b.T if transpose_b else b
        if accumulate:
            out += left @ right
        else:
            np.matmul(left, right, out=out)
