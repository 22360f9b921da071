"""The processor's own energy counters, RAPL: through powercap's files, or through perf events.

Both count the energy of the processor's packages and, if there is a counter for it, of their memory: Intel's since
Sandy Bridge, Knights Landing among them (Software Developer's Manual, volume 3B, Power and Thermal Management), and
AMD's since Zen. The counters are updated about once per millisecond.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path
from threading import Lock
from typing import ClassVar

from cnn.energy.reader import MeterUnavailable, Reader, meter_text, whole
from cnn.system.machine import Part, system_text

ROOT_ONLY = (
    "since CVE-2020-8694 (a side channel) the kernel shows energy to root only; run as root, or, where all users may "
    "know it, `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj` after each boot"
)
SYSCALL = {"x86_64": 298}
"""The number of perf_event_open(2) on the only architecture that has RAPL and runs 64-bit Python."""
CLOSE_ON_EXEC = 8


class Powercap(Reader):
    """`energy_uj` of the zones of packages and memory (Linux, Documentation/power/powercap/powercap.rst).

    The zones core and uncore lie within their package's, and psys covers the package and more: none of them is
    counted. Nor is intel-rapl-mmio, another way to the same counters.
    """

    name: ClassVar[str] = "powercap"
    part: ClassVar[Part] = "processor"
    # The smallest usual range, 2**32 units of 2**-16 J, lasts 10 s at 6.5 kW.
    period: ClassVar[float | None] = 10.0

    def __init__(self, root: Path = Path("/")) -> None:
        parent = root / "sys/class/powercap"
        named = {folder: _zone_name(folder) for folder in sorted(parent.glob("intel-rapl:*"))}
        self._zones = [_Zone(folder) for folder, name in named.items() if name.startswith("package") or name == "dram"]
        if not self._zones:
            raise MeterUnavailable(
                f"{parent} shows no processor's energy; few virtual machines and containers do, and elsewhere "
                "`sudo modprobe intel_rapl_msr` may help"
            )
        self.covers = ", ".join(zone.name for zone in self._zones)
        self._lock = Lock()

    def joules(self) -> float:
        with self._lock:
            return sum(zone.microjoules() for zone in self._zones) / 1e6

    def sample(self) -> None:
        # A counter that wraps twice between two readings would lose a range.
        self.joules()


class _Zone:
    """One counter of microjoules, which begins again at 0 after its range."""

    def __init__(self, folder: Path) -> None:
        above = folder.with_name(folder.name.rpartition(":")[0])
        self.name = " ".join(filter(None, (_zone_name(above), _zone_name(folder))))
        self._counter = folder / "energy_uj"
        limit = folder / "max_energy_range_uj"
        self._range = whole(limit, meter_text(limit, ROOT_ONLY))
        self._last, self._total = self._read(), 0

    def microjoules(self) -> int:
        now = self._read()
        self._total += now - self._last if now >= self._last else now - self._last + self._range
        self._last = now
        return self._total

    def _read(self) -> int:
        value = whole(self._counter, meter_text(self._counter, ROOT_ONLY))
        if value > self._range:
            raise MeterUnavailable(f"{self._counter} holds {value}, more than its range of {self._range}")
        return value


def _zone_name(folder: Path) -> str:
    return system_text(folder / "name").strip()


class PerfEvents(Reader):
    """The events `energy-pkg` and `energy-ram` of the PMU `power` (perf_event_open(2)); the kernel unwraps them."""

    name: ClassVar[str] = "perf"
    part: ClassVar[Part] = "processor"

    def __init__(self, root: Path = Path("/")) -> None:
        pmu = root / "sys/bus/event_source/devices/power"
        if not (pmu / "events/energy-pkg").exists():
            raise MeterUnavailable(
                f"{pmu} has no event energy-pkg; few virtual machines and containers do, and elsewhere "
                "`sudo modprobe rapl` may help"
            )
        kind = whole(pmu / "type", meter_text(pmu / "type", ""))
        packages = _one_cpu_each(pmu / "cpumask", root / "sys/devices/system/cpu")
        names = [name for name in ("energy-pkg", "energy-ram") if (pmu / "events" / name).exists()]
        self.covers = f"{', '.join(names)} of {len(packages)} {'package' if len(packages) == 1 else 'packages'}"
        self._scales: dict[int, float] = {}
        try:
            for name in names:
                config, scale = _event(pmu / "events" / name)
                for cpu in packages:
                    self._scales[_open(kind, config, cpu, root)] = scale
        except MeterUnavailable:
            self.close()
            raise

    def joules(self) -> float:
        try:
            return sum(
                int.from_bytes(os.read(event, 8), sys.byteorder) * scale for event, scale in self._scales.items()
            )
        except OSError as error:
            raise MeterUnavailable(f"the events {self.covers} can no longer be read ({error})") from error

    def close(self) -> None:
        while self._scales:
            os.close(self._scales.popitem()[0])


def _event(path: Path) -> tuple[int, float]:
    """The event's configuration, written as event=0x02, and the joules per count."""
    text, scale = meter_text(path, "").strip(), meter_text(path.with_name(path.name + ".scale"), "")
    try:
        return int(text.removeprefix("event="), 16), float(scale)
    except ValueError as error:
        raise MeterUnavailable(f"{path} describes no event ({text[:40]!r}, scale {scale.strip()[:40]!r})") from error


def _one_cpu_each(mask: Path, topology: Path) -> list[int]:
    """A CPU for each counter: those of the mask, or, if it names several of one die, one of each package.

    Older kernels list one CPU for each counter, of a die or a package; newer ones list every CPU that may read it.
    """
    text = meter_text(mask, "").strip()
    try:
        spans = [[int(end) for end in span.split("-")] for span in text.split(",")]
    except ValueError as error:
        raise MeterUnavailable(f"{mask} holds {text[:40]!r}, not a list of CPUs") from error
    cpus = [cpu for span in spans for cpu in range(span[0], span[-1] + 1)]
    place = {
        cpu: tuple(system_text(topology / f"cpu{cpu}/topology" / name) for name in ("physical_package_id", "die_id"))
        for cpu in cpus
    }
    if len(set(place.values())) == len(cpus):
        return cpus
    return list({place[cpu][0]: cpu for cpu in reversed(cpus)}.values())


def _open(kind: int, config: int, cpu: int, root: Path) -> int:
    """A file descriptor that counts an event on one CPU, for every process."""
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise MeterUnavailable(f"there is no RAPL on {platform.machine()}")
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    # struct perf_event_attr in its first version: type, size, config, and 48 bytes of settings that stay 0.
    attributes = struct.pack("=IIQ48x", kind, 64, config)
    event = library.syscall(
        ctypes.c_long(number), attributes, ctypes.c_int(-1), cpu, ctypes.c_int(-1), ctypes.c_ulong(CLOSE_ON_EXEC)
    )
    if event < 0:
        raise MeterUnavailable(_refusal(ctypes.get_errno(), root))
    return int(event)


def _refusal(number: int, root: Path) -> str:
    if number not in (errno.EACCES, errno.EPERM):
        return f"perf_event_open failed: {os.strerror(number)}"
    level = system_text(root / "proc/sys/kernel/perf_event_paranoid").strip() or "unknown"
    return (
        f"perf events of the whole processor may not be read by this user (perf_event_paranoid is {level}): run as "
        "root, or, where all users may know them, `sudo sysctl kernel.perf_event_paranoid=0`; a container also "
        "needs CAP_PERFMON"
    )
