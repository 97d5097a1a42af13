"""Other load on this machine while something is timed: load average, late timers and slow fsyncs of a bystander.

A figure of a shared machine says little without it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

NAP_SECONDS = 0.010
FSYNC_EVERY = 20


class Disturbance:
    """Use as a context manager around what is timed; sleeps, and writes a few bytes now and then."""

    def __init__(self, folder: Path) -> None:
        """folder: on the disk that matters."""
        self._path = folder / "bystander"
        self._late: list[float] = []
        self._fsyncs: list[float] = []
        self._load: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Disturbance:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def as_json(self) -> dict[str, Any]:
        """Of the time in it. Processes of the run itself count as much as others."""
        return {
            "cores": os.cpu_count(),
            # Below 0, or in real time (`chrt -f 10 make torture`), this run goes before what else runs.
            "niceness": os.nice(0),
            "real_time": _is_real_time(),
            "load_average_mean": round(sum(self._load) / max(1, len(self._load)), 2),
            "timer_of_10_ms_late_by_ms": _quantiles(self._late),
            "fsync_of_4_kib_ms": _quantiles(self._fsyncs),
        }

    def _run(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            turn = 0
            while not self._stopping.is_set():
                started = time.perf_counter()
                time.sleep(NAP_SECONDS)
                self._late.append(time.perf_counter() - started - NAP_SECONDS)
                turn += 1
                if turn % FSYNC_EVERY == 0:
                    self._load.append(os.getloadavg()[0])
                    started = time.perf_counter()
                    os.pwrite(file.fileno(), bytes(4096), 0)
                    os.fsync(file.fileno())
                    self._fsyncs.append(time.perf_counter() - started)


def _is_real_time() -> bool:
    if sys.platform != "linux":
        return False
    return os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    last = len(ordered) - 1
    at = {"median": 0.5, "p99": 0.99, "most": 1.0}
    return {name: round(1000 * ordered[min(last, int(part * len(ordered)))], 2) for name, part in at.items()}
