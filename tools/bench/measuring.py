"""Data that every benchmark records: the machine, the versions, and medians with their spread.

No host name, no path and no user goes into a result.
"""

import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scribewire.engine.bench import measuring as product
from scribewire.engine.bench.measuring import machine, quantile, versions

__all__ = ["machine", "ratio", "show", "summary", "versions", "write_result"]

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"
_RESAMPLES = 2000


def summary(values: Sequence[float], *, target: float | None = None, unit: str = "seconds") -> dict[str, Any]:
    """The product's summary; `met` compares the median with the target, where there is one."""
    result = product.summary(values, unit)
    return result if target is None else result | {"target": target, "met": result["median"] <= target}


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
