"""What `mkl-offload` and `mkl-phi` share: an MKL from the time of the Xeon Phi in a worker process."""

import os
import re
import sys
from pathlib import Path

from cnn.backend import Downloadable, Library
from cnn.errors import BackendUnavailable, CnnError
from cnn.product import Product
from cnn.worker.backend import WorkerBackend
from cnn.worker.process import Program, Worker

from ._mkl_download import fetch_mkl  # noqa: TID251 - relative, as it should be
from ._mkl_root import VARIABLE, VERSION, find_library, find_openmp  # noqa: TID251 - relative, as it should be


class MklWorker(WorkerBackend, Downloadable):
    """cblas_?gemm of the libmkl_rt that `_mkl_root` finds, with Intel's OpenMP."""

    fetches = (
        f"Intel MKL {VERSION}, 220 MB (460 MB unpacked), by pip from its configured package index, checked by SHA-256; "
        "it is Intel's, under the licence that is put beside it"
    )

    @classmethod
    def download(cls, root: Path | None = None) -> str:
        folder = fetch_mkl(root)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        cure = "" if root is None else f"; set {VARIABLE} to that folder"
        return f"Intel MKL {VERSION} is in {folder} ({size / 1e6:.0f} MB){cure}"

    def __init__(self) -> None:
        self._path: Path = find_library(self.name)
        super().__init__()

    def program(self) -> Program:
        libraries = [find_openmp(self._path), str(self._path)]
        return Program(
            libraries,
            set_threads="MKL_Set_Num_Threads",
            environment=self.environment(),
            memory_policy=self.memory_policy(),
        )

    def memory_policy(self) -> tuple[int, int] | None:
        """The memory policy of the `Program`."""
        return None

    def environment(self) -> dict[str, str]:
        """The worker's environment: a copy of this process's, with the variables replaced that MKL must not inherit."""
        folders = [str(self._path.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return os.environ | {
            "LD_LIBRARY_PATH": os.pathsep.join(folders),
            "MKL_THREADING_LAYER": "INTEL",
            "MKL_INTERFACE_LAYER": "LP64",
            # As many threads as asked for, even if that is more than one per core.
            "MKL_DYNAMIC": "FALSE",
            # Threads that spin while waiting for the next product would take the processor from this process's threads.
            "KMP_BLOCKTIME": "0",
        }

    def ready(self, worker: Worker) -> None:
        text = worker.call("MKL_Get_Version_String", "char*", 255)[1]
        found = re.search(r"Version (\d+(?:\.\d+)+)", text)
        if found is None:
            raise BackendUnavailable(
                f"Backend {self.name!r} cannot read the version of {self._path} from {text!r}; use an Intel MKL."
            )
        self.library = Library("Intel MKL", found[1], str(self._path))

    def first_product(self, worker: Worker) -> str:
        printed = super().first_product(worker)
        pass_on(printed)
        return printed

    def finished(self, product: Product, seconds: float, printed: str) -> None:
        # After an error MKL leaves the result unchanged.
        errors = [line for line in printed.splitlines() if "MKL ERROR" in line]
        if errors:
            raise CnnError(f"MKL did not compute the product {product}: {errors[0].strip()}")
        pass_on(printed)


def pass_on(printed: str) -> None:
    """Prints on standard error what libraries print besides MKL's report of a product, such as OpenMP warnings."""
    sys.stderr.writelines(line for line in printed.splitlines(keepends=True) if not line.startswith("[MKL]"))
