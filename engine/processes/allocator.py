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
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def preloaded(library: str | None) -> Iterator[None]:
    """Have processes started inside the block load this library first; one that is set already is kept.

    Changes the environment of the whole process for that time: one at a time.
    """
    if library is None or os.environ.get(_PRELOAD):
        yield
        return
    os.environ[_PRELOAD] = library
    try:
        yield
    finally:
        del os.environ[_PRELOAD]


def _has_cuda_build() -> bool:
    for name in _CUDA_BUILDS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return True
    return False
