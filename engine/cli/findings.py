"""What the checks of `doctor` return, and the child processes in which they try things."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_CHILD_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. remedy: what to do, where something is wrong."""

    check: str
    status: Literal["ok", "note", "failed"]
    detail: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class ChildResult:
    """A child process's exit code and output."""

    exit_code: int
    stdout: str
    stderr: str


RunChild = Callable[[Sequence[str]], ChildResult]


def run_python(arguments: Sequence[str]) -> ChildResult:
    """Run this interpreter beside the installed packages and wait, five minutes at most."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            # The user's folder may hold a `scribewire` of its own. Not resolved: in a checkout the package is a link.
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ChildResult(-1, "", f"no answer within {_CHILD_SECONDS} s")
    return ChildResult(done.returncode, done.stdout, done.stderr)


def how_it_ended(result: ChildResult) -> str:
    """A failed child's end, in one line."""
    last = (result.stderr.strip().splitlines() or ["no message"])[-1][:300]
    how = f"killed by signal {-result.exit_code}" if result.exit_code < 0 else f"exit code {result.exit_code}"
    return f"{how}: {last}"
