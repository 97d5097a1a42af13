"""What `doctor` says on a Mac only: macOS and the Python for it, and the memory that Metal lets the engine hold.

Nothing here has been run on a Mac: what macOS answers comes through `Ask` and `RunChild`, and is faked in tests.
"""

from __future__ import annotations

import json
from typing import Final

from scribewire.engine.cli.findings import Finding, RunChild, how_it_ended
from scribewire.engine.processes.architecture import Ask
from scribewire.engine.processes.console import shown_bytes

LEAST_MACOS: Final = 15
"""On 14 everything works but the wired limit: what is not used for a while may be paged out."""

LEAST_MACOS_OF_MLX: Final = 14

WORKING_SET_SYSCTL: Final = "iogpu.wired_limit_mb"
"""Megabytes that the GPU may wire, and so Metal's recommended working set; 0 is the system's own choice."""

_MEMORY_PROBE = """
import json
from dataclasses import asdict
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.resident.memory import choose_limits, read_machine
from scribewire.engine.resident.profile import choose_profile
profile = choose_profile(EngineConfig())
machine = read_machine(profile.kind, profile.device)
print(json.dumps(asdict(machine) | asdict(choose_limits(0, machine, profile.memory))))
"""


def check_macos(version_by_python: str, ask: Ask) -> Finding:
    """macOS's version, and whether this Python knows it, by which pip chooses among MLX's wheels.

    version_by_python: platform.mac_ver's. A Python built with an older SDK is told 16 for 26 and later.
    """
    version = ask("sw_vers", "-productVersion") or version_by_python
    major = _major(version)
    if major < LEAST_MACOS_OF_MLX:
        return Finding(
            "macos", "failed", f"macOS {version}", f"MLX needs macOS {LEAST_MACOS_OF_MLX} or newer"
        )
    if major < LEAST_MACOS:
        detail = f"macOS {version}, where memory cannot be wired: an idle model may be paged out"
        return Finding("macos", "note", detail, f"macOS {LEAST_MACOS} or newer keeps it in memory")
    if _major(version_by_python) < major:
        return Finding(
            "macos",
            "note",
            f"macOS {version}, which this Python takes for {version_by_python}: "
            "pip gave it MLX's wheel for older systems, without the kernels of the newest GPUs",
            "install a Python that was built for this macOS, and scribewire with it: make clean setup PYTHON=...",
        )
    return Finding("macos", "ok", f"macOS {version}")


def check_gpu_memory(run_child: RunChild, ask: Ask) -> Finding | None:
    """What Metal recommends to hold, and the engine's limits; None without a GPU."""
    result = run_child(["-c", _MEMORY_PROBE])
    try:
        said = json.loads(result.stdout)
    except ValueError:
        return Finding("gpu memory", "failed", how_it_ended(result), "see the line above about mlx")
    if said["kind"] != "metal":
        return None
    sysctl = ask("sysctl", "-n", WORKING_SET_SYSCTL) or "unknown"
    return Finding(
        "gpu memory",
        "ok",
        f"Metal recommends to hold {shown_bytes(said['working_set_bytes'])} of {shown_bytes(said['physical_bytes'])}; "
        f"the engine takes {shown_bytes(said['total_bytes'])} at most (--memory-limit-bytes), with "
        f"{shown_bytes(said['wired_bytes'])} wired and {shown_bytes(said['cache_bytes'])} of freed buffers; "
        f"sudo sysctl {WORKING_SET_SYSCTL}=MEGABYTES raises the first (now {sysctl})",
    )


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isdigit() else 0
