"""Finds NUMA nodes that have only memory, such as the MCDRAM of a Knights Landing; the kernel's policy numbers."""

from pathlib import Path
from typing import Literal

from cnn.system.machine import system_text

Policy = Literal["bind", "preferred", "interleave"]

MODES: dict[str, int] = {"preferred": 1, "bind": 2, "interleave": 3}
"""Policies by the names of numactl, as set_mempolicy(2) and mbind(2) number them."""


def memory_only_nodes(root: Path = Path("/")) -> list[int]:
    """The nodes without a processor: those of the MCDRAM in a Knights Landing's flat and hybrid modes."""
    folders = (root / "sys/devices/system/node").glob("node[0-9]*")
    return sorted(int(each.name[4:]) for each in folders if not system_text(each / "cpulist").strip())
