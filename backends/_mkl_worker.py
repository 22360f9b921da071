"""What `mkl-offload` and `mkl-phi` share: an MKL of the years of the Xeon Phi in a worker process."""

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
        f"Intel MKL {VERSION}, 220 MB by pip from the package index that it is set to, checked by SHA-256, 460 MB "
        "unpacked; it is Intel's, under the licence that is put beside it"
    )

    @classmethod
    def download(cls, root: Path | None = None) -> str:
        folder = fetch_mkl(root)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        cure = "" if root is None else f"; name it by {VARIABLE}"
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
        """The `Program`'s."""
        return None

    def environment(self) -> dict[str, str]:
        """The worker's environment: that of this process, with what MKL must not take from it replaced."""
        folders = [str(self._path.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return os.environ | {
            "LD_LIBRARY_PATH": os.pathsep.join(folders),
            "MKL_THREADING_LAYER": "INTEL",
            "MKL_INTERFACE_LAYER": "LP64",
            # As many threads as asked for, also where that is more than one a core.
            "MKL_DYNAMIC": "FALSE",
            # Threads that wait for the next product by spinning would take the processor from this process's.
            "KMP_BLOCKTIME": "0",
        }

    def ready(self, worker: Worker) -> None:
        text = worker.call("MKL_Get_Version_String", "char*", 255)[1]
        found = re.search(r"Version (\d+(?:\.\d+)+)", text)
        if found is None:
            raise BackendUnavailable(f"Backend {self.name!r} cannot tell the version of {self._path} from {text!r}.")
        self.library = Library("Intel MKL", found[1], str(self._path))

    def first_product(self, worker: Worker) -> str:
        printed = super().first_product(worker)
        pass_on(printed)
        return printed

    def finished(self, product: Product, seconds: float, printed: str) -> None:
        # After an error MKL leaves the result as it was.
        errors = [line for line in printed.splitlines() if "MKL ERROR" in line]
        if errors:
            raise CnnError(f"MKL did not compute the product {product}: {errors[0].strip()}")
        pass_on(printed)


def pass_on(printed: str) -> None:
    """Prints what libraries say beside MKL's report of a product, such as warnings of OpenMP, on standard error."""
    sys.stderr.writelines(line for line in printed.splitlines(keepends=True) if not line.startswith("[MKL]"))
