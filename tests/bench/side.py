"""A process that is measured: started, asked one recording at a time, and ended with the block."""

import json
import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


class SideFailed(RuntimeError):
    """The process ended or said nothing in time; the message is its last words."""


class Side:
    """A running process that answers a path with a line of JSON."""

    def __init__(self, process: "subprocess.Popen[str]", name: str) -> None:
        self._process = process
        self.name = name
        self.load = self._answer(600.0)

    def ask(self, recording: Path, timeout_seconds: float = 600.0) -> dict[str, Any]:
        """Transcribe one recording there; raises SideFailed."""
        assert self._process.stdin is not None
        print(recording, file=self._process.stdin, flush=True)
        return self._answer(timeout_seconds)

    def _answer(self, timeout_seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_seconds)
        if not readable:
            raise SideFailed(f"{self.name} said nothing within {timeout_seconds:g} s")
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            last = self._process.stderr.read().strip().splitlines()[-1:]
            raise SideFailed(f"{self.name} ended: {last[0] if last else 'without a word'}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer


@contextmanager
def side(name: str, command: Sequence[str]) -> Iterator[Side]:
    """Start a process and wait until it is loaded; raises SideFailed."""
    with subprocess.Popen(
        list(command),
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Side(process, name)
        finally:
            process.kill()
