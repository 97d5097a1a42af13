"""A real server process, watched from outside: its memory, its descriptors, its disk and its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from scribewire.engine.processes.launch import WORKER_MODULE

PATIENCE_SECONDS = 120.0
PROJECT = Path(__file__).resolve().parents[2]
COUNTING_WORKER_MODULE = "tests.fakes.counting_worker"
ANY_DESCRIPTORS = (0, 0)


class Served:
    """Use as a context manager; keyword arguments are settings.

    The engine is fake unless named, the decode pool always real.
    """

    def __init__(
        self,
        data: Path,
        *,
        engine_module: str = COUNTING_WORKER_MODULE,
        descriptors: tuple[int, int] = ANY_DESCRIPTORS,
        environment: dict[str, str] | None = None,
        checkout: Path = PROJECT,
        **settings: Any,
    ) -> None:
        """environment: variables of the server's own, beside this process's. A log from an earlier start goes on.

        checkout: the working tree whose server is started.
        """
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self.port = int(settings.get("port", 0))
        self._log_path = data / "log"
        self._said: list[str] = []
        arguments = [json.dumps({"port": 0, "model": "fake", "drain_seconds": 1.0, **settings}), str(data)]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.fakes.server_program",
                    *arguments,
                    engine_module,
                    json.dumps(descriptors),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=checkout,
                env={**os.environ, "PYTHONPATH": str(checkout), **(environment or {})},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.append(line.rstrip("\n"))

    def __enter__(self) -> Served:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (ready := [line for line in self._said if "ready on http" in line]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"the server is not ready: {self._said} {self.log()[-3000:]}")
            time.sleep(0.02)
        self.port = int(ready[0].rsplit(":", 1)[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, and wait for its end; again is no error."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **keywords: Any) -> httpx.Client:
        """A client of this server."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS, **keywords)

    def log(self) -> str:
        """The server's whole log."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log entries of this event name, oldest first."""
        mark = f'"event": "{name}"'
        return [json.loads(line) for line in self.log().splitlines() if mark in line]

    @property
    def worker_process_id(self) -> int:
        """The worker that was ready last, whether or not it lives."""
        return int(self.events("engine_ready")[-1]["process_id"])

    def kill(self) -> list[psutil.Process]:
        """SIGKILL the front; returns the children that it had."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        return list(children)

    def failures_in_log(self) -> list[str]:
        """Log lines that speak of a failure of the server's own."""
        signs = ("internal_error", "Traceback", "too many open files", "Too many open files")
        return [line[:2000] for line in self.log().splitlines() if any(sign in line for sign in signs)]

    def resident_bytes(self) -> int:
        """Resident bytes of the front now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def resident_bytes_of_all(self) -> int:
        """Resident bytes of the front and its children now."""
        return sum(int(one.memory_info().rss) for one in self._processes())

    def peak_bytes_by_process(self) -> dict[int, int]:
        """The most that each living process ever held."""
        return {one.pid: peak_resident_bytes(one.pid) for one in self._processes()}

    def _processes(self) -> list[psutil.Process]:
        front = psutil.Process(self.process.pid)
        found = [front]
        for child in front.children(recursive=True):
            try:
                child.memory_info()
            except psutil.NoSuchProcess:
                continue  # it left meanwhile
            found.append(child)
        return found

    def descriptor_count(self) -> int:
        """Descriptors that the front has open."""
        return int(psutil.Process(self.process.pid).num_fds())

    def leftovers(self) -> list[Path]:
        """Folders of recordings, samples and other files of requests that are on disk now."""
        servers = (self.data / "uploads").glob("server-*")
        return [path for server in servers for path in server.iterdir() if path.name != "lock"]

    def disk_bytes(self) -> int:
        """Size of all that lies in the data folder, the log aside."""
        total = 0
        for path in self.data.rglob("*"):
            try:
                if path != self._log_path and path.is_file():
                    total += path.stat().st_size
            except FileNotFoundError:
                continue  # deleted meanwhile
        return total


def demo_server(data: Path, **settings: Any) -> Served:
    """A server with the real worker and the bundled demo model, on the CPU."""
    return Served(data, engine_module=WORKER_MODULE, model="demo", device="cpu", **settings)


def peak_resident_bytes(process_id: int) -> int:
    """The most memory that a process ever held on Linux; what it holds now elsewhere."""
    if sys.platform == "linux":
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory: Any = psutil.Process(process_id).memory_info()
    return int(memory.rss)
