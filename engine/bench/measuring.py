"""Records of every measurement: the machine, the versions, medians with their spread.

No host name, no path and no user goes into a result.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_IS_MAC: bool = sys.platform == "darwin"  # a bool to mypy, which then checks both branches on every system
LIBRARIES = ("scribewire", "mlx", "mlx-cuda", "numpy", "av", "tokenizers", "fastapi", "uvicorn")
OURS = "scribewire"
"""Name of this program in results, where a developer's may have others beside it."""


def machine() -> dict[str, Any]:
    """CPU, cores, memory, system, and how busy it was at the start."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.machine()}",
        "allocator": _allocator(),
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
    }


def _allocator() -> str:
    """Library that allocates this process's memory: what was loaded before the system's own, or that."""
    mapped = Path("/proc/self/maps")
    maps = mapped.read_text(encoding="utf-8") if mapped.exists() else ""
    loaded = [name for name in ("jemalloc", "mimalloc", "tcmalloc") if f"/lib{name}" in maps]
    return loaded[0] if loaded else "the system's"


def versions() -> dict[str, str]:
    """Python and the libraries that matter, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary(values: Sequence[float], unit: str = "seconds") -> dict[str, Any]:
    """Median, smallest, largest, quartiles and every value."""
    return {
        "unit": unit,
        "median": round(statistics.median(values), 5),
        "min": round(min(values), 5),
        "max": round(max(values), 5),
        "quartiles": [round(quantile(values, share), 5) for share in (0.25, 0.75)],
        "count": len(values),
        "values": [round(value, 5) for value in values],
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies, linear between neighbors; of one value, that value."""
    return float(np.quantile(values, share))


def shown_seconds(seconds: float) -> str:
    """Seconds, or milliseconds below one."""
    if seconds >= 100.0:
        return f"{seconds:.0f} s"
    return f"{seconds:.2f} s" if seconds >= 1.0 else f"{seconds * 1e3:.{3 if seconds < 1e-3 else 1}f} ms"


def _cpu_model() -> str:
    if _IS_MAC:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.stdout.strip() or platform.processor()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return models[0] if models else platform.machine()
