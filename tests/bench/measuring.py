"""What every benchmark records: the machine, the versions, and medians with their spread.

No host name, no path and no user goes into a result.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"
LIBRARIES = ("scribewire", "mlx", "numpy", "av", "tokenizers", "fastapi", "uvicorn")


def machine() -> dict[str, Any]:
    """CPU, cores, memory, system, and how busy it was at the start."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
    }


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
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    result: dict[str, Any] = {
        "unit": unit,
        "median": round(statistics.median(values), 5),
        "min": round(min(values), 5),
        "max": round(max(values), 5),
        "quartiles": [round(quartiles[0], 5), round(quartiles[2], 5)],
        "count": len(values),
        "values": [round(value, 5) for value in values],
    }
    if target is not None:
        result |= {"target": target, "met": result["median"] <= target}
    return result


def write_result(name: str, command: str, content: dict[str, Any], folder: Path = RESULTS_FOLDER) -> Path:
    """Write one benchmark's JSON; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": name,
        "command": command,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        **content,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def show(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Print a table of summaries."""
    print(f"{'':34} {'median':>10} {'min':>10} {'max':>10} {'target':>10}")
    for name, one in rows:
        target = f"{one['target']:g}" if "target" in one else ""
        verdict = "" if "met" not in one else "  met" if one["met"] else "  MISSED"
        print(
            f"{name:34} {one['median']:10.4f} {one['min']:10.4f} {one['max']:10.4f} {target:>10}{verdict}"
            f"  {one['unit']}, n={one['count']}"
        )


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
