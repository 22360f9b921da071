"""Which NUMA nodes hold memory only, such as the MCDRAM of a Knights Landing, and the kernel's numbers for policies."""

from pathlib import Path
from typing import Literal

from cnn.system.machine import system_text

Policy = Literal["bind", "preferred", "interleave"]

MODES: dict[str, int] = {"preferred": 1, "bind": 2, "interleave": 3}
"""Policies by the names of numactl, as set_mempolicy(2) and mbind(2) number them."""


def memory_only_nodes(root: Path = Path("/")) -> list[int]:
    """The nodes without a processor: in the flat and hybrid modes of a Knights Landing those of its MCDRAM."""
    folders = (root / "sys/devices/system/node").glob("node[0-9]*")
    return sorted(int(each.name[4:]) for each in folders if not system_text(each / "cpulist").strip())
