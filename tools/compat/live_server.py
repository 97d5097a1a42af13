"""The server under test: `scribewire serve` with the bundled demo model, a process of its own, behind keys.

It listens on a free loopback port and keeps its data in a folder of its own; leaving the context stops it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from scribewire.engine.demo import demo_aligner_path
from scribewire.server.access.keys import KeyStore
from tests.fakes.tiny_aligner import write_tiny_aligner

PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 40.0
_READY = "ready on "


class ServerFailed(Exception):
    """The server did not start; the message ends with what it said."""


class LiveServer:
    """One server process. `url` is known once the context is entered."""

    def __init__(self, data: Path, *flags: str, program: str = "scribewire") -> None:
        """flags: further ones of `serve`. program: the module that is the command."""
        self.data = data
        self._program = program
        self.url = ""
        self._flags = flags
        self._process: subprocess.Popen[str] | None = None
        self._said: list[str] = []
        self._ready = threading.Event()

    def create_key(self, name: str) -> str:
        """A new key's secret."""
        return KeyStore(self.data).create(name)[1]

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def said(self) -> str:
        """The last of what it printed and logged."""
        return "\n".join(self._said[-30:])

    def uploads_left(self) -> list[Path]:
        """Recordings that are on its disk now."""
        return [path for path in self.data.glob("uploads/server-*/*") if path.is_dir()]

    def __enter__(self) -> LiveServer:
        command = [sys.executable, "-m", self._program, "serve", "--model", "demo", "--device", "cpu"]
        command += ["--host", "127.0.0.1", "--port", "0", "--data", str(self.data), *self._flags]
        if not demo_aligner_path().is_dir():
            # Random weights time words at random, but every word is there and in order.
            folder = self.data.with_name(f"{self.data.name}-aligner")
            folder.mkdir(parents=True, exist_ok=True)
            aligner = write_tiny_aligner(folder, languages=("English", "Spanish"))
            command += ["--aligner", str(aligner)]
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=own_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        deadline = time.monotonic() + START_SECONDS
        while not self._ready.wait(0.1):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(f"the server did not start:\n{self.said()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, politely at first."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line.rstrip("\n"))
            if _READY in line:
                self.url = line.split(_READY)[1].strip()
                self._ready.set()


def own_environment() -> dict[str, str]:
    """This process's environment without settings of ours or of OpenAI's clients, and no proxy for loopback."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("SCRIBEWIRE_", "OPENAI_", "LITELLM_", "STT_", "PYTHON", "NODE_"))
        and not name.upper().endswith("_PROXY")
    }
    return {**kept, "NO_PROXY": "*"}
