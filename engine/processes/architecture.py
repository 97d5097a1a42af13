"""Whether this Python can load MLX on this processor, known before anything is loaded. Standard library only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

Ask = Callable[..., str]
"""Runs a command of the system, given as words; returns its output."""

_ASK_SECONDS = 10


def ask_system(*command: str) -> str:
    """Output of a command, without the last line break; empty where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def wrong_architecture(
    system: str | None = None, machine: str | None = None, ask: Ask = ask_system
) -> str | None:
    """Why MLX cannot be loaded on a Mac, and what to do; None where it can be, and on every other system.

    system, machine: as os.uname names them; this machine's when None.
    """
    here = os.uname()
    if (system or here.sysname) != "Darwin" or (machine or here.machine) == "arm64":
        return None
    if ask("sysctl", "-n", "sysctl.proc_translated") == "1":
        return (
            "this Python was built for Intel and runs under Rosetta, where MLX does not; "
            "install one for Apple silicon (arm64), and scribewire with it"
        )
    return (
        "MLX needs Apple silicon, and this Mac has an Intel processor; "
        "`scribewire submit` works with a server elsewhere"
    )
