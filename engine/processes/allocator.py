"""The engine process's memory allocator: jemalloc's beside a CUDA GPU, where it is installed.

A step there is bound by the host, which makes and drops some hundreds of graph nodes. glibc's allocator takes a third
of that time and more, by the process (docs/benchmarks.md). Another one can only be loaded before a process begins, so
the process's parent requests it.
"""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import sys

_PRELOAD = "LD_PRELOAD"
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
    """Environment of an engine process that loads the library; None for this process's, where none is to be loaded."""
    library = preloadable(device)
    return None if library is None or os.environ.get(_PRELOAD) else {**os.environ, _PRELOAD: library}


def _has_cuda_build() -> bool:
    for name in _CUDA_BUILDS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return True
    return False
