"""This process's memory, as the system counts it, and giving it back. Standard library only."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any

_IS_LINUX: bool = sys.platform == "linux"  # a bool to mypy, which then checks both branches on every system
_STATUS = Path("/proc/self/status")

_M_MMAP_THRESHOLD = -3
"""Source: glibc's malloc.h, and mallopt(3): a threshold that is set does not move any more."""

_M_ARENA_MAX = -8
"""Source: glibc's malloc.h, and mallopt(3)."""

LARGE_BUFFER_BYTES = 1 << 20

_RUSAGE_INFO_V0 = 0
_RUSAGE_INFO = struct.Struct("=16s10Q")
_PHYSICAL_FOOTPRINT = 8
"""Source: macOS's sys/resource.h: rusage_info_v0 is an identifier and ten counts, ri_phys_footprint the eighth."""


def resident_bytes() -> int | None:
    """Bytes that this process holds now; on macOS its footprint, which is what the system judges it by.

    None on other systems than Linux and macOS.
    """
    return _status_bytes("VmRSS") if _STATUS.exists() else footprint_bytes(ctypes.CDLL(None))


def footprint_bytes(library: Any) -> int | None:
    """This process's footprint by macOS's proc_pid_rusage; None where the C library has no such call, or refuses.

    library: the C library, as ctypes loads it.
    """
    counts = ctypes.create_string_buffer(_RUSAGE_INFO.size)
    try:
        has_failed = library.proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V0, counts)
    except AttributeError:
        return None
    return None if has_failed else int(_RUSAGE_INFO.unpack(counts)[_PHYSICAL_FOOTPRINT])


def peak_resident_bytes() -> int:
    """Peak bytes that this process ever held.

    On Linux from /proc: getrusage there also counts what the parent held when it made this process.
    """
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_large_buffers_back() -> bool:
    """Have every freed buffer of a megabyte and more go back to the system; False without a glibc.

    By itself glibc raises the size from which it does so to that of the largest buffer it ever freed, up to 32 MB;
    those below come from heaps that small allocations keep from shrinking, and a process that computes on the CPU comes
    to hold a hundred megabytes of holes.
    """
    return _tell_malloc(_M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES)


def share_one_heap() -> bool:
    """Have all threads allocate from one heap, before the first thread is started; False without a glibc.

    By itself glibc gives each thread one of its own, up to eight for each processor, and what one frees the others
    cannot use: a process of a dozen threads that alternate comes to hold a dozen heaps of holes.
    """
    return _tell_malloc(_M_ARENA_MAX, 1)


def leave_out_of_collections() -> None:
    """Take all present objects for permanent: Python's collector ignores them from now on.

    To be called once modules are loaded and before work begins. A full collection stops every thread; over the modules
    of a server alone it takes 22 ms, in the middle of an answer or a decode step. What is left out is still freed when
    nothing refers to it, unless it is part of a cycle; so a model is loaded afterwards.
    """
    gc.collect()
    gc.freeze()


def _tell_malloc(parameter: int, value: int) -> bool:
    if not _IS_LINUX:
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except AttributeError:  # another C library
        return False


def _status_bytes(name: str) -> int:
    return int(_STATUS.read_text().split(f"{name}:")[1].split()[0]) * 1024
