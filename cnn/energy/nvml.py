"""The energy of NVIDIA GPUs, through NVML and its Python binding nvidia-ml-py; tested against a stand-in only."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from cnn.energy.reader import Integral, MeterUnavailable, Reader
from cnn.system.machine import Part


class Nvml(Reader):
    """All GPUs: their energy counters (since Volta), else their power, sampled.

    nvmlDeviceGetTotalEnergyConsumption gives millijoules since the driver was loaded, nvmlDeviceGetPowerUsage
    milliwatts of the whole board (NVML API Reference, Device Queries). `root` is not used: NVML reads nothing in it.
    """

    name: ClassVar[str] = "nvml"
    part: ClassVar[Part] = "gpu"
    period: ClassVar[float | None] = 0.1

    def __init__(self, root: Path = Path("/")) -> None:
        try:
            self._nvml: Any = import_module("pynvml")
        except ImportError as error:
            raise MeterUnavailable("the package nvidia-ml-py is missing: `pip install 'cnn-blas[nvml]'`") from error
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise MeterUnavailable(f"NVML does not start ({error}): it needs an NVIDIA GPU and its driver") from error
        self._integral: Integral | None = None
        try:
            self._gpus = self._all()
            self.covers = ", ".join(map(self._nvml.nvmlDeviceGetName, self._gpus))
            try:
                self._first = self._sum("nvmlDeviceGetTotalEnergyConsumption")
            except MeterUnavailable:
                self._integral = Integral(lambda: self._sum("nvmlDeviceGetPowerUsage"))
                self.covers += " (power, sampled)"
        except (MeterUnavailable, self._nvml.NVMLError) as error:
            self.close()
            raise MeterUnavailable(f"NVML shows no GPU's energy ({error})") from error

    def joules(self) -> float:
        if self._integral is not None:
            return self._integral.joules()
        return self._sum("nvmlDeviceGetTotalEnergyConsumption") - self._first

    def sample(self) -> None:
        if self._integral is not None:
            self._integral.sample()

    def close(self) -> None:
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _all(self) -> list[Any]:
        count = self._nvml.nvmlDeviceGetCount()
        if not count:
            raise MeterUnavailable("there is no GPU")
        return [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

    def _sum(self, query: str) -> float:
        """Joules or watts of all GPUs together, which NVML gives in thousandths."""
        try:
            return float(sum(map(getattr(self._nvml, query), self._gpus))) / 1e3
        except self._nvml.NVMLError as error:
            raise MeterUnavailable(f"{query}: {error}") from error
