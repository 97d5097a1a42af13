"""A process that is measured: started, asked one thing at a time by lines of JSON, and ended with the block.

Children share the terminal's process group, so that whatever ends the whole group ends them too; Ctrl-C they ignore
and leave to their parent.
"""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scribewire.engine.bench.process import IMPORT_FOLDER, START_TIMEOUT_SECONDS, ChildFailed, last_words

__all__ = ["Child", "ChildFailed", "child", "run_to_end"]


class Child:
    """A running process that answers each line of JSON with one.

    started: its first line, sent by itself once it is ready. ready_seconds: from the start of the process until then,
    with Python and all that it imports, as a user waits for it.
    """

    def __init__(
        self, process: subprocess.Popen[str], name: str, stderr: IO[bytes], begun_at_seconds: float
    ) -> None:
        """begun_at_seconds: the performance counter before the process was made."""
        self._process = process
        self._stderr = stderr
        self.name = name
        self.started = self._answer(START_TIMEOUT_SECONDS)
        self.ready_seconds = time.perf_counter() - begun_at_seconds

    def ask(self, timeout_seconds: float = 600.0, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; raises ChildFailed."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise ChildFailed(f"{self.name} ended: {last_words(self._stderr)}") from None
        return self._answer(timeout_seconds)

    def _answer(self, timeout_seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_seconds)
        if not readable:
            raise ChildFailed(f"{self.name} said nothing within {timeout_seconds:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self.name} ended: {last_words(self._stderr)}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        if "error" in answer:
            raise ChildFailed(f"{self.name}: {answer['error']}")
        return answer


@contextmanager
def child(name: str, command: Sequence[str], *, runs_in: Path = IMPORT_FOLDER) -> Iterator[Child]:
    """Start a process and wait until it is ready; it is killed at the end. Raises ChildFailed."""
    begun_at_seconds = time.perf_counter()
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            list(command),
            cwd=runs_in,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            yield Child(process, name, stderr, begun_at_seconds)
        finally:
            process.kill()


def run_to_end(name: str, command: Sequence[str], *, runs_in: Path = IMPORT_FOLDER) -> str:
    """Run a process to its end and return its stdout; raises ChildFailed when it fails."""
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            list(command),
            cwd=runs_in,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            output, _ = process.communicate()
        finally:
            process.kill()
        if process.returncode != 0:
            raise ChildFailed(f"{name} failed: {last_words(stderr)}")
        return output
