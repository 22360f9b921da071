"""Machine reads the formats that real kernels print, and reports nothing else."""

import json
import os
import platform
from pathlib import Path

import numpy as np
import pytest

from cnn.system.machine import Machine, system_text, this_machine

INTEL = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: 0
siblings\t: 4
core id\t\t: 0
cpu cores\t: 2
flags\t\t: fpu sse sse2 ssse3 fma sse4_2 avx f16c avx2 avx512f avx512dq avx512bw avx512vl avx512_bf16 \
avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8 arch_capabilities
power management:

processor\t: 1
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse sse2

processor\t: 2
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu sse sse2

processor\t: 3
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
physical id\t: 1
core id\t\t: 0
flags\t\t: fpu sse sse2

"""
AMD = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 23
model\t\t: 49
model name\t: AMD EPYC 7742 64-Core Processor
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu mmx sse sse2 ht syscall nx pni fma cx16 sse4_1 sse4_2 avx f16c avx2 sha_ni
TLB size\t: 3072 4K pages
power management: ts ttp tm hwpstate

"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes sha1 sha2 crc32 atomics fphp asimdhp cpuid sve asimdfhm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 1

processor\t: 1
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes sha1 sha2 crc32 atomics fphp asimdhp cpuid sve asimdfhm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd40

"""
RASPBERRY_PI = """\
processor\t: 0
model name\t: ARMv7 Processor rev 3 (v7l)
Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: BCM2711
Revision\t: c03112
Model\t\t: Raspberry Pi 4 Model B Rev 1.2
"""
MEMINFO = """\
MemTotal:       16384000 kB
MemFree:         1024000 kB
MemAvailable:    8192000 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(root: Path, cpuinfo: str) -> Machine:
    write(root / "proc/cpuinfo", cpuinfo)
    return this_machine(root)


def with_flags(root: Path, flags: str) -> tuple[str, ...] | None:
    return read(root, f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {flags}\n\n").vector


def test_intel_with_avx512_and_amx(tmp_path):
    machine = read(tmp_path, INTEL)
    assert machine.cpu == "Intel(R) Xeon(R) Platinum 8480+"
    assert machine.vendor == "GenuineIntel"
    assert machine.vector == ("AVX-512 (F, DQ, BW, VL, BF16, VNNI, FP16)", "AMX (BF16, TILE, INT8)")


def test_cores_are_distinct_pairs_of_socket_and_core(tmp_path):
    machine = read(tmp_path, INTEL)
    assert (machine.physical_cores, machine.logical_cpus) == (3, 4)


def test_amd_with_avx2(tmp_path):
    machine = read(tmp_path, AMD)
    assert machine.cpu == "AMD EPYC 7742 64-Core Processor"
    assert machine.vendor == "AuthenticAMD"
    assert machine.vector == ("AVX2+FMA",)
    assert (machine.physical_cores, machine.logical_cpus) == (1, 1)


def test_arm64_prints_numbers_instead_of_names(tmp_path):
    machine = read(tmp_path, GRAVITON)
    assert machine.cpu == "ARM part 0xd40"
    assert machine.vendor == "ARM"
    assert machine.vector == ("SVE", "NEON")
    assert (machine.physical_cores, machine.logical_cpus) == (None, 2)


def test_arm_with_a_board_section(tmp_path):
    machine = read(tmp_path, RASPBERRY_PI)
    assert machine.cpu == "ARMv7 Processor rev 3 (v7l)"
    assert machine.vector == ("NEON",)
    assert machine.logical_cpus == 1


def test_arm_of_an_unlisted_designer_has_no_vendor(tmp_path):
    machine = read(tmp_path, "processor\t: 0\nCPU implementer\t: 0xfe\nCPU part\t: 0x001\n\n")
    assert (machine.cpu, machine.vendor) == ("Arm part 0x001", None)


@pytest.mark.parametrize(
    ("flags", "vector"),
    [
        ("sse2 avx avx2 fma avx512f avx512cd avx512er avx512pf", ("AVX-512 (F, CD, ER, PF)",)),
        ("sse2 avx avx2", ("AVX2",)),
        ("sse2 avx fma4", ("AVX",)),
        ("sse sse2", ("SSE2",)),
        ("fpu mmx", ()),
    ],
)
def test_the_best_x86_extension(tmp_path, flags, vector):
    assert with_flags(tmp_path, flags) == vector


def test_sve2_stands_for_sve(tmp_path):
    machine = read(tmp_path, "processor\t: 0\nFeatures\t: fp asimd sve sve2 sveaes\n\n")
    assert machine.vector == ("SVE2", "NEON")


def test_topology_counts_cores_where_cpuinfo_cannot(tmp_path):
    for cpu, siblings in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings + "\n")
    assert read(tmp_path, GRAVITON).physical_cores == 2


def test_caches_leave_out_instructions(tmp_path):
    caches = ["1 Data 32K", "1 Instruction 64K", "2 Unified 1024K", "3 Unified 32M"]
    for index, values in enumerate(caches):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        for name, value in zip(("level", "type", "size"), values.split(), strict=True):
            write(folder / name, value + "\n")
    machine = this_machine(tmp_path)
    assert (machine.l1d, machine.l2, machine.l3) == (32 * 2**10, 2**20, 32 * 2**20)


def test_a_cache_without_size_is_unknown(tmp_path):
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cache/index0"
    write(folder / "level", "1\n")
    write(folder / "type", "Data\n")
    assert this_machine(tmp_path).l1d is None


def test_memory_is_in_bytes(tmp_path):
    write(tmp_path / "proc/meminfo", MEMINFO)
    machine = this_machine(tmp_path)
    assert (machine.memory_total, machine.memory_available) == (16384000 * 1024, 8192000 * 1024)


def test_without_proc_and_sys_the_rest_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6 Model 158 Stepping 10, GenuineIntel")
    machine = this_machine(tmp_path)
    assert machine.cpu == "Intel64 Family 6 Model 158 Stepping 10, GenuineIntel"
    assert machine.logical_cpus == os.cpu_count()
    unknown = ("vendor", "physical_cores", "vector", "l1d", "l2", "l3", "memory_total", "memory_available")
    assert {name: getattr(machine, name) for name in unknown} == dict.fromkeys(unknown)


def test_an_empty_answer_of_the_platform_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "processor", str)
    assert this_machine(tmp_path).cpu is None


def test_describe(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    write(tmp_path / "proc/meminfo", MEMINFO)
    lines = read(tmp_path, INTEL).describe()
    assert lines[:4] == [
        "processor: Intel(R) Xeon(R) Platinum 8480+ (GenuineIntel, x86_64), 3 physical cores, 4 logical CPUs",
        "vectors: AVX-512 (F, DQ, BW, VL, BF16, VNNI, FP16), AMX (BF16, TILE, INT8)",
        "caches: L1d unknown, L2 unknown, L3 unknown",
        "memory: 15.6 GiB, 7.8 GiB available",
    ]
    assert lines[4].endswith(f"Python {platform.python_version()}, NumPy {np.__version__}")


@pytest.mark.parametrize(("size", "shown"), [(48 * 2**10, "48 KiB"), (1280 * 2**10, "1.25 MiB"), (2**40, "1024.0 GiB")])
def test_sizes_have_units(tmp_path, size, shown):
    write(tmp_path / "proc/meminfo", f"MemTotal: {size // 1024} kB\n")
    assert f"memory: {shown}, unknown available" in this_machine(tmp_path).describe()


def test_this_computer_survives_json():
    machine = this_machine()
    restored = json.loads(json.dumps(machine.to_dict()))
    assert restored.pop("vector") == (None if machine.vector is None else list(machine.vector))
    assert restored == {name: value for name, value in machine.to_dict().items() if name != "vector"}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="this system has no /proc/cpuinfo")
def test_this_computer_has_processors_and_memory():
    machine = this_machine()
    assert machine.logical_cpus is not None
    assert machine.logical_cpus >= (machine.physical_cores or 1) >= 1
    assert 0 < (machine.memory_available or 0) <= (machine.memory_total or 0)


def test_a_file_that_cannot_be_read_is_empty(tmp_path):
    assert system_text(tmp_path) == system_text(tmp_path / "absent") == ""
