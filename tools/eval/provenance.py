"""Provenance of figures: the machine, the versions, the weights by content. No host and no path is named."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from tools.demo_model import speech

_PROJECT = Path(__file__).resolve().parents[2]


def machine() -> dict[str, Any]:
    """The CPU, its cores and the system."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def versions(programs: speech.Programs) -> dict[str, str]:
    """Versions of everything that moves a figure. The synthesizers print theirs among other things, paths too."""
    project = tomllib.loads((_PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {"python": platform.python_version(), "scribewire": project["version"]}
    found |= {package: importlib.metadata.version(package) for package in ("mlx", "numpy")}
    for name, program in (("flite", programs.flite), ("espeak-ng", programs.espeak)):
        printed = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            env=dict(programs.environment),
            check=False,
        ).stdout
        number = re.search(r"\d+\.\d+(?:\.\d+)?", printed)
        found[name] = number.group() if number else "not known"
    return found


def weight_files(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of the safetensors files in `folder`; nothing of one that is not there."""
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return {
        "weight_bytes": sum(file.stat().st_size for file in weights),
        "weight_sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights},
    }
