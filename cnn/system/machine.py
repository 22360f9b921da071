"""Describes this computer: processor, vector extensions, caches, memory and software, as far as the system says."""

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

# Arm processors print the number of their designer (Main ID Register, bits 31-24) where others print a name.
ARM_IMPLEMENTERS = {
    0x41: "ARM",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x51: "Qualcomm",
    0x53: "Samsung",
    0x61: "Apple",
    0x69: "Intel",
    0x6D: "Microsoft",
    0x70: "Phytium",
    0xC0: "Ampere",
}
SIZE_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

Fields = dict[str, str]

Part = Literal["processor", "coprocessor", "gpu"]
"""A part of a computer that has its own energy meter."""


@dataclass(frozen=True)
class Machine:
    """One computer; sizes in bytes, and None for whatever the system does not say.

    `vector` has the best extension of each family, and is empty if the system lists no known extension.
    Caches are those of CPU 0. Memory is that of the whole computer, not a container's share.
    """

    cpu: str | None
    vendor: str | None
    architecture: str | None
    physical_cores: int | None
    logical_cpus: int | None
    vector: tuple[str, ...] | None
    l1d: int | None
    l2: int | None
    l3: int | None
    memory_total: int | None
    memory_available: int | None
    system: str
    python: str
    numpy: str

    def describe(self) -> list[str]:
        """One line each for processor, vectors, caches, memory and software."""
        vector = "unknown" if self.vector is None else ", ".join(self.vector) or "none known"
        return [
            f"processor: {_known(self.cpu)} ({_known(self.vendor)}, {_known(self.architecture)}), "
            f"{_known(self.physical_cores)} physical cores, {_known(self.logical_cpus)} logical CPUs",
            f"vectors: {vector}",
            f"caches: L1d {_size(self.l1d)}, L2 {_size(self.l2)}, L3 {_size(self.l3)}",
            f"memory: {_size(self.memory_total)}, {_size(self.memory_available)} available",
            f"software: {self.system}, Python {self.python}, NumPy {self.numpy}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def this_machine(root: Path = Path("/")) -> Machine:
    """Reads `proc` and `sys` under `root`; on a system without them most fields are None."""
    processors = _processors(system_text(root / "proc/cpuinfo"))
    first = processors[0] if processors else {}
    cpus = root / "sys/devices/system/cpu"
    caches = _caches(cpus / "cpu0/cache")
    memory = _memory(system_text(root / "proc/meminfo"))
    return Machine(
        cpu=_model(first) if processors else platform.processor() or None,
        vendor=first.get("vendor_id") or _arm_vendor(first),
        architecture=platform.machine() or None,
        physical_cores=_cores_from_topology(cpus) or _cores_from_cpuinfo(processors),
        logical_cpus=len(processors) or os.cpu_count(),
        vector=_vector(first),
        l1d=caches.get("1"),
        l2=caches.get("2"),
        l3=caches.get("3"),
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        system=f"{platform.system()} {platform.release()}".strip(),
        python=platform.python_version(),
        numpy=np.__version__,
    )


def system_text(path: Path) -> str:
    """The text of a file that the kernel provides, empty if it is missing or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _processors(text: str) -> list[Fields]:
    """The fields of each logical CPU in /proc/cpuinfo, without the board section at the end on Arm."""
    blocks = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, colon, value in pairs if colon}
        if "processor" in fields:
            blocks.append(fields)
    return blocks


def _model(fields: Fields) -> str | None:
    """The model name, or the part number on Arm, where most kernels print no name."""
    if "model name" in fields:
        return fields["model name"]
    part = fields.get("CPU part")
    return f"{_arm_vendor(fields) or 'Arm'} part {part}" if part else None


def _arm_vendor(fields: Fields) -> str | None:
    try:
        return ARM_IMPLEMENTERS.get(int(fields.get("CPU implementer", ""), 16))
    except ValueError:
        return None


def _vector(fields: Fields) -> tuple[str, ...] | None:
    """The best vector extension of each family, from the flags of x86 or the features of Arm."""
    if "flags" in fields:
        return _x86_vector(fields["flags"].split())
    if "Features" in fields:
        return _arm_vector(fields["Features"].split())
    return None


def _x86_vector(flags: list[str]) -> tuple[str, ...]:
    found = []
    if "avx512f" in flags:
        found.append(f"AVX-512 ({_subsets(flags, 'avx512')})")
    elif "avx2" in flags:
        found.append("AVX2+FMA" if "fma" in flags else "AVX2")
    elif "avx" in flags:
        found.append("AVX")
    elif "sse2" in flags:
        found.append("SSE2")
    if "amx_tile" in flags:
        found.append(f"AMX ({_subsets(flags, 'amx_')})")
    return tuple(found)


def _subsets(flags: list[str], prefix: str) -> str:
    """The rest of each flag that starts with `prefix`: avx512bw and avx512_bf16 give BW, BF16."""
    rest = (flag.removeprefix(prefix) for flag in flags if flag.startswith(prefix))
    return ", ".join(name.lstrip("_").upper() for name in rest)


def _arm_vector(features: list[str]) -> tuple[str, ...]:
    found = []
    if "sve2" in features:
        found.append("SVE2")
    elif "sve" in features:
        found.append("SVE")
    # The name of NEON in 64-bit kernels is asimd.
    if "asimd" in features or "neon" in features:
        found.append("NEON")
    return tuple(found)


def _cores_from_topology(cpus: Path) -> int | None:
    """The number of different sibling lists: logical CPUs of one core have the same list."""
    siblings = {system_text(path) for path in cpus.glob("cpu[0-9]*/topology/thread_siblings_list")}
    return len(siblings - {""}) or None


def _cores_from_cpuinfo(processors: list[Fields]) -> int | None:
    cores = {(cpu.get("physical id", "0"), cpu["core id"]) for cpu in processors if "core id" in cpu}
    return len(cores) or None


def _caches(folder: Path) -> dict[str, int]:
    """Bytes of the data and unified caches by level."""
    sizes = {}
    for index in sorted(folder.glob("index[0-9]*")):
        level, kind, size = (system_text(index / name).strip() for name in ("level", "type", "size"))
        if kind in ("Data", "Unified") and size[:-1].isdecimal() and size[-1] in SIZE_UNITS:
            sizes[level] = int(size[:-1]) * SIZE_UNITS[size[-1]]
    return sizes


def physical_memory() -> int | None:
    """The bytes of memory of this computer, None if the system does not say."""
    return _memory(system_text(Path("/proc/meminfo"))).get("MemTotal")


def _memory(text: str) -> dict[str, int]:
    """Bytes by name from /proc/meminfo, where kB means 1024 bytes."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    if count < 2**20:
        return f"{count / 2**10:g} KiB"
    if count < 2**30:
        return f"{count / 2**20:g} MiB"
    return f"{count / 2**30:.1f} GiB"
