"""The `mkl-phi` backend: the kernels for Knights Landing of an MKL of 2018 to 2021."""

from pathlib import Path
from typing import ClassVar

from cnn.errors import BackendUnavailable
from cnn.machine import this_machine, system_text
from cnn.worker.process import Worker

from ._old_mkl import OldMkl

KERNELS = "libmkl_avx512_mic.so"
"""Only MKL 2018.0.0 to 2021.4.0 have it."""


class MklPhiBackend(OldMkl):
    """cblas_?gemm of MKL's kernels for Knights Landing, on that processor or another one with AVX-512."""

    name: ClassVar[str] = "mkl-phi"

    def __init__(self) -> None:
        flags = _processor_flags()
        self._native = {"avx512er", "avx512pf"} <= flags
        if "avx512f" not in flags:
            raise BackendUnavailable(
                f"Backend 'mkl-phi' needs a processor with AVX-512, and {_processor()} has none; choose another backend."
            )
        super().__init__()
        if not self._native:
            self.remark = f"KNL kernels on {_processor()}: not KNL speed"

    def environment(self) -> dict[str, str]:
        return super().environment() | ({} if self._native else {"MKL_DEBUG_CPU_TYPE": "6"})

    def ready(self, worker: Worker) -> None:
        super().ready(worker)
        # MKL chooses its kernels, and loads them, at the first product.
        self.multiply_once(worker)
        if not any(Path(path).name.startswith(KERNELS) for path in worker.mapped()):
            raise BackendUnavailable(
                f"Backend 'mkl-phi': {self.library} does not run its kernels for Knights Landing ({KERNELS}) on "
                f"{_processor()}; MKL 2018.0.0 does on every processor with AVX-512, and `cnn phi get` fetches it."
            )


def _processor() -> str:
    return this_machine().cpu or "this processor"


def _processor_flags() -> set[str]:
    """The instruction sets of the processor by the names of /proc/cpuinfo."""
    lines = system_text(Path("/proc/cpuinfo")).splitlines()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
