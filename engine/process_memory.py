"""What this process holds in memory, as the system counts it. Standard library only."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """What this process holds now; None where the system does not say (macOS, without a library for it)."""
    return _status_bytes("VmRSS") if _STATUS.exists() else None


def peak_resident_bytes() -> int:
    """The most that this process ever held.

    On Linux from /proc: getrusage there also counts what the parent held when it made this process.
    """
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(name: str) -> int:
    return int(_STATUS.read_text().split(f"{name}:")[1].split()[0]) * 1024
