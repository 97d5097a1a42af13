"""The engine process's memory allocator: jemalloc's beside a CUDA GPU, glibc's in large pages elsewhere on Linux.

A step on a CUDA GPU is bound by the host, which makes and drops some hundreds of graph nodes. glibc's allocator takes
a third of that time and more, by the process (docs/benchmarks.md). On the CPU half of a load's processor time is the
kernel's, handing out gigabytes in pages of 4 KiB. Both are chosen before a process begins, so its parent does.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import sys

_PRELOAD = "LD_PRELOAD"
_TUNABLES = "GLIBC_TUNABLES"
_LARGE_PAGES = "glibc.malloc.hugetlb=1"  # asks the kernel for them; glibc before 2.35 ignores it
_IS_LINUX: bool = sys.platform == "linux"  # a bool to mypy, which then checks both branches on every system
_CUDA_BUILDS = ("mlx-cuda-12", "mlx-cuda-13")


def preloadable(device: str) -> str | None:
    """The library to load into an engine process for this device (auto, cpu, gpu): its name, or None for none.

    On macOS and without MLX's CUDA build, the system's own allocator is what was measured.
    """
    if not _IS_LINUX or device == "cpu" or not _has_cuda_build():
        return None
    return ctypes.util.find_library("jemalloc")


def allocator_environment(device: str) -> dict[str, str] | None:
    """Environment of an engine process for this device; None for this process's, where nothing is to be chosen.

    What the owner has set in either variable stands.
    """
    if not _IS_LINUX or os.environ.get(_PRELOAD) or os.environ.get(_TUNABLES):
        return None
    library = preloadable(device)
    chosen = {_TUNABLES: _LARGE_PAGES} if library is None else {_PRELOAD: library}
    return {**os.environ, **chosen}


def _has_cuda_build() -> bool:
    for name in _CUDA_BUILDS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return True
    return False
