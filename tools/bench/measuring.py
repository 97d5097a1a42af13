"""What every benchmark records: the machine, the versions, and medians with their spread.

No host name, no path and no user goes into a result.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.bench.measuring import machine, summary, versions

__all__ = ["machine", "show", "summary", "versions", "write_result"]

RESULTS_FOLDER = Path(__file__).resolve().parent / "results"


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
