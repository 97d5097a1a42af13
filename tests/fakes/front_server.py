"""A server process for the benchmarks of the front: the fake engine or the demo model, on a free loopback port."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parents[2]

# The settings travel as JSON; `data` is a path there.
PROGRAM = """
import json, sys
from pathlib import Path
from tests.fakes.fake_worker import FAKE_WORKER_MODULE
from scribewire.server.serve import serve
from scribewire.server.settings.fields import Settings
from tests.fakes.pass_through import PassThrough
if __name__ == "__main__":
    settings = Settings(**{**json.loads(sys.argv[1]), "data": Path(sys.argv[2])})
    if settings.model == "fake":
        sys.exit(serve(settings, engine_module=FAKE_WORKER_MODULE, transcoder=PassThrough()))
    sys.exit(serve(settings))
"""


@dataclass(frozen=True)
class FrontServer:
    """A running server; `process` is the front."""

    process: psutil.Process
    host: str
    port: int
    data: Path

    def leftovers(self) -> int:
        """Recordings and their folders that are on disk now."""
        return sum(1 for path in self.data.glob("uploads/server-*/*") if path.is_dir())

    def resident_bytes(self) -> int:
        """The front's memory now, without its children's."""
        return int(self.process.memory_info().rss)

    def cpu_seconds(self) -> float:
        """Seconds of CPU time that the front has used so far, without its children."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def front_server(folder: Path, model: str, *, descriptors: int = 0, **settings: Any) -> Iterator[FrontServer]:
    """Start a server and stop it at the end; descriptors: hard limit on file descriptors, 0 for the shell's own."""
    folder.mkdir(parents=True, exist_ok=True)
    program, data = folder / "program.py", folder / "data"
    program.write_text(PROGRAM, encoding="utf-8")
    chosen = json.dumps({"port": 0, "model": model, "log_level": "warning", **settings})
    command = [sys.executable, str(program), chosen, str(data)]
    if descriptors:
        command = ["/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
    with subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            ready = next((line for line in process.stdout if " ready on " in line), None)
            if ready is None:
                raise RuntimeError("the server did not start; its log above says why")
            threading.Thread(target=process.stdout.read, daemon=True).start()
            host, _, port = ready.split(" ready on http://")[1].strip().rpartition(":")
            yield FrontServer(psutil.Process(process.pid), host, int(port), data)
        finally:
            process.terminate()
            process.wait(60)


class PeakMemory:
    """Samples a server's resident memory while it is entered; `growth_bytes` is the peak over the start."""

    def __init__(self, server: FrontServer) -> None:
        self._server = server
        self._start = self._peak = server.resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def growth_bytes(self) -> int:
        """Bytes by which memory rose above its value at the start."""
        return self._peak - self._start

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.is_set():
            self._peak = max(self._peak, self._server.resident_bytes())
            time.sleep(0.02)
