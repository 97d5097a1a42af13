"""What every measurement records: the machine, the versions, medians with their spread, ratios with an interval.

No host name, no path and no user goes into a result.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIBRARIES = ("scribewire", "mlx", "mlx-cuda", "numpy", "av", "tokenizers", "fastapi", "uvicorn")

_RESAMPLES = 2000


def machine() -> dict[str, Any]:
    """CPU, cores, memory, system, and how busy it was at the start."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "allocator": _allocator(),
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
    }


def _allocator() -> str:
    """Who allocates this process's memory: what was loaded before the system's own, or that."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return "the system's"
    return next(
        (name for name in ("jemalloc", "mimalloc", "tcmalloc") if f"/lib{name}" in mapped), "the system's"
    )


def versions() -> dict[str, str]:
    """Python and the libraries that matter, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary(values: Sequence[float], *, target: float | None = None, unit: str = "seconds") -> dict[str, Any]:
    """Median, smallest, largest, quartiles and every value; `met` compares the median with the target."""
    result: dict[str, Any] = {
        "unit": unit,
        "median": round(statistics.median(values), 5),
        "min": round(min(values), 5),
        "max": round(max(values), 5),
        "quartiles": [round(quantile(values, share), 5) for share in (0.25, 0.75)],
        "count": len(values),
        "values": [round(value, 5) for value in values],
    }
    if target is not None:
        result |= {"target": target, "met": result["median"] <= target}
    return result


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies, linear between neighbors; of one value, that value."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Ratio of the medians, with the middle 95 % of what resampling both sides gives.

    The interval is None with fewer than three values on a side: resampling one or two says nothing.
    """
    point = statistics.median(numerators) / statistics.median(denominators)
    interval = None
    if min(len(numerators), len(denominators)) >= 3:
        draw = random.Random(seed)
        found = [
            statistics.median(draw.choices(numerators, k=len(numerators)))
            / statistics.median(draw.choices(denominators, k=len(denominators)))
            for _ in range(_RESAMPLES)
        ]
        interval = [round(quantile(found, 0.025), 4), round(quantile(found, 0.975), 4)]
    return {"ratio": round(point, 4), "interval_95": interval}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _cpu_model() -> str:
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() or platform.processor()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def shown_seconds(seconds: float) -> str:
    """Seconds, or milliseconds below one."""
    if seconds >= 100.0:
        return f"{seconds:.0f} s"
    return f"{seconds:.2f} s" if seconds >= 1.0 else f"{seconds * 1e3:.{3 if seconds < 1e-3 else 1}f} ms"
