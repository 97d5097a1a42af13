"""The engine's worker with a clock at every turn, started in its place by `tools.bench.timed_serve`.

Each second's turns are a line of JSON in the file that BENCH_TURNS names: of each turn its start, in seconds of
the performance counter, which is one clock for all processes of a machine, and its move, rows and milliseconds.
"""

from __future__ import annotations

import json
import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from scribewire.engine import worker
from scribewire.engine.protocol.config import EngineConfig
from tools.bench.move_profile import Fairness, timed_turns

TURNS_FILE = "BENCH_TURNS"
_LINE_SECONDS = 1.0


def main(config: EngineConfig, pipe: Connection) -> int:
    """Run as the worker does; returns its exit code."""
    with timed_turns() as turns:
        path = Path(os.environ[TURNS_FILE])
        threading.Thread(target=_write, args=(turns, path), name="turns", daemon=True).start()
        return worker.main(config, pipe)


def _write(turns: Fairness, path: Path) -> None:
    while True:
        time.sleep(_LINE_SECONDS)
        # The engine's thread goes on adding; what is taken here is what was there.
        taken = turns.take()
        if taken:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(taken) + "\n")
