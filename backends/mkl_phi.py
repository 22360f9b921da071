"""The `mkl-phi` backend: the kernels for Knights Landing in MKL 2018 to 2021."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from cnn.errors import BackendUnavailable, UsageError
from cnn.instruments import Instruments
from cnn.system.affinity import allowed_cpus
from cnn.system.machine import system_text, this_machine
from cnn.worker.numa import MODES, Policy, memory_only_nodes
from cnn.worker.process import Worker

from ._mkl_root import VARIABLE, VERSION  # noqa: TID251 - relative, as it should be
from ._mkl_worker import MklWorker  # noqa: TID251 - relative, as it should be

KERNELS = "libmkl_avx512_mic.so"
"""MKL 2018.0.0 to 2021.4.0 have it."""


class MklPhiBackend(MklWorker):
    """cblas_?gemm with MKL's kernels for Knights Landing, on that processor or another one with AVX-512."""

    name: ClassVar[str] = "mkl-phi"

    def __init__(
        self,
        *,
        threads_per_core: Annotated[Literal[1, 2, 3, 4] | None, "hardware threads of each core to use"] = None,
        affinity: Annotated[
            Literal["balanced", "compact", "scatter"] | None,
            "how threads are bound to hardware threads, as KMP_AFFINITY names it; not bound if not given",
        ] = None,
        mcdram: Annotated[
            Policy | None,
            "policy, as numactl names it, for placing arrays and MKL's own memory on the NUMA nodes without "
            "processors: the MCDRAM in flat mode",
        ] = None,
    ) -> None:
        """Starts MKL in a worker.

        Raises UsageError for more threads than a core has, BackendUnavailable if the processor, memory or MKL does not
        fit.
        """
        flags = _processor_flags()
        if "avx512f" not in flags:
            raise BackendUnavailable(
                f"Backend 'mkl-phi' needs a processor with AVX-512, which {_processor()} lacks; choose another backend."
            )
        self._native = {"avx512er", "avx512pf"} <= flags
        self._cores, self.threads_of_a_core = _cores()
        if threads_per_core is not None and threads_per_core > self.threads_of_a_core:
            raise UsageError(
                f"threads_per_core is {threads_per_core}; give at most {self.threads_of_a_core}, as the cores of "
                f"{_processor()} have."
            )
        self._threads_per_core = threads_per_core
        self._affinity = affinity
        self._policy = None
        if mcdram is not None:
            nodes = memory_only_nodes()
            if not nodes:
                raise BackendUnavailable(
                    "Backend 'mkl-phi' finds no NUMA node without processors for mcdram; leave the option out if there "
                    "is no MCDRAM or it is a cache, or set the MCDRAM to flat mode in the firmware."
                )
            self._policy = MODES[mcdram], sum(1 << node for node in nodes)
        super().__init__()

    @property
    def instruments(self) -> Instruments:
        return PhiInstruments(self)

    def environment(self) -> dict[str, str]:
        variables = super().environment()
        if not self._native:
            # MKL 2018 and 2019 take this as the type of the processor, on Intel's and AMD's alike.
            variables["MKL_DEBUG_CPU_TYPE"] = "6"
        if self._threads_per_core is not None:
            variables["KMP_HW_SUBSET"] = f"{self._threads_per_core}T"
        if self._affinity is not None:
            variables["KMP_AFFINITY"] = f"granularity=fine,{self._affinity}"
        return variables

    def memory_policy(self) -> tuple[int, int] | None:
        return self._policy

    def threads(self) -> int:
        count = super().threads()
        return count if self._threads_per_core is None else min(count, self._cores * self._threads_per_core)

    def ready(self, worker: Worker) -> None:
        super().ready(worker)
        # MKL chooses and loads its kernels at the first product.
        self.first_product(worker)
        if not any(Path(path).name.startswith(KERNELS) for path in worker.mapped()):
            limit = "" if self._native else "on other processors than Knights Landing use MKL 2018 or 2019; "
            raise BackendUnavailable(
                f"Backend 'mkl-phi': {self.library} does not run its kernels for Knights Landing ({KERNELS}) on "
                f"{_processor()}; {limit}`cnn backends get mkl-phi` downloads MKL {VERSION}, or set {VARIABLE} to "
                "a folder that has it."
            )
        if not self._native:
            self.library = replace(self.library, remark=f"KNL kernels on {_processor()}: not KNL speed")


class PhiInstruments(Instruments):
    """With option candidates for the threads and the memory of this machine."""

    backend: MklPhiBackend

    def option_candidates(self) -> dict[str, Sequence[Any]]:
        policies = MODES if memory_only_nodes() else ()
        return {
            "threads_per_core": [None, *range(1, self.backend.threads_of_a_core + 1)],
            "affinity": [None, "balanced", "compact", "scatter"],
            "mcdram": [None, *policies],
        }


def _processor() -> str:
    return this_machine().cpu or "this processor"


def _cores() -> tuple[int, int]:
    """The number of cores that this process may run on, and of hardware threads per core."""
    folder = Path("/sys/devices/system/cpu")
    siblings = [
        system_text(folder / f"cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)
        for cpu in allowed_cpus() or ()
    ]
    counts = Counter(siblings)
    return len(counts), max(counts.values())


def _processor_flags() -> set[str]:
    """The instruction sets of the processor, named as in /proc/cpuinfo."""
    lines = system_text(Path("/proc/cpuinfo")).splitlines()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
