"""Whether this process may use AMX, Intel's Advanced Matrix Extensions, for products of bfloat16."""

import ctypes
import os
import platform
from functools import cache

from numba.core.registry import cpu_target

NEEDED = ("amx-tile", "amx-bf16")
"""The processor's features by LLVM's names. Its own name says little: LLVM mistakes some that have them for others."""

ARCH_PRCTL = 158
"""The number of Linux's system call on x86-64."""
REQUEST, TILES = 0x1023, 18
"""ARCH_REQ_XCOMP_PERM and the state component of tiles (Linux, Documentation/arch/x86/xstate.rst)."""


def features() -> list[str]:
    """What Numba compiles for: the features of this processor that the system has enabled, by LLVM's names."""
    return [each[1:] for each in cpu_target.target_context.codegen().magic_tuple()[2].split(",") if each[:1] == "+"]


def present() -> bool:
    """Whether the processor multiplies tiles of bfloat16, and Numba compiles for it."""
    return set(NEEDED) <= set(features())


@cache
def trouble() -> str | None:
    """Why this process may not use tiles, None if it may. The first call asks the system, for all threads.

    Processes that are forked from this one may, too.
    """
    if not present():
        return "the processor has no AMX for bfloat16"
    refusal = _refusal()
    return None if refusal is None else f"the system refuses AMX: {refusal}"


def _refusal() -> str | None:
    """Asks Linux for the state of tiles, which processes get on request because it makes their signal frames larger."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"{platform.system()} on {platform.machine()}"
    call = ctypes.CDLL(None, use_errno=True).syscall
    if call(ctypes.c_long(ARCH_PRCTL), ctypes.c_long(REQUEST), ctypes.c_long(TILES)) == 0:
        return None
    return os.strerror(ctypes.get_errno())
