"""The fake worker with an end of its patience: each answer leaves a set time after the one before it, as from an engine
at its limit, and the most recordings that were ever in flight are counted.

The model's name says both: `fake:answer_seconds=0.05,count_file=PATH`. Unlike the fake worker's own name, this module's
makes the server decode uploads in its real pool.
"""

from __future__ import annotations

import queue
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.messages import Completed, Failed, Transcribe
from tests.fakes import fake_worker


def main(config: EngineConfig, pipe: Connection) -> int:
    """Run the fake worker behind a counting pipe; returns its exit code."""
    script = dict(pair.split("=", 1) for pair in config.model.partition(":")[2].split(",") if "=" in pair)
    count_path = Path(script["count_file"]) if "count_file" in script else None
    counting: Any = _CountingPipe(pipe, float(script.get("answer_seconds", 0)), count_path)
    return fake_worker.main(config, counting)


class _CountingPipe:
    """Looks like the pipe to the fake worker."""

    def __init__(self, pipe: Connection, answer_seconds: float, count_path: Path | None) -> None:
        self._pipe = pipe
        self._answer_seconds = answer_seconds
        self._count_path = count_path
        self._lock = threading.Lock()
        self._in_hand = 0
        self._most = 0
        self._ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._send_ends, daemon=True).start()

    def fileno(self) -> int:
        return self._pipe.fileno()

    def poll(self, seconds: float) -> bool:
        return self._pipe.poll(seconds)

    def recv(self) -> Any:
        message = self._pipe.recv()
        if isinstance(message, Transcribe):
            with self._lock:
                self._in_hand += 1
                if self._in_hand > self._most and self._count_path is not None:
                    self._most = self._in_hand
                    # Whole or not there: it may be read, and this process ended, at any time.
                    draft = self._count_path.with_suffix(".draft")
                    draft.write_text(str(self._most))
                    draft.replace(self._count_path)
        return message

    def send(self, message: Any) -> None:
        if isinstance(message, Completed | Failed):
            self._ends.put(message)
            return
        with self._lock:
            self._pipe.send(message)

    def _send_ends(self) -> None:
        while True:
            message = self._ends.get()
            time.sleep(self._answer_seconds)
            with self._lock:
                self._in_hand -= 1
                self._pipe.send(message)
