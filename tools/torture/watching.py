"""Resources of a server's running processes: memory, descriptors and files, sampled, and the slope of their growth."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from tests.fakes.served import Served

HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. Bytes are resident ones; children are the decode children together."""

    at_seconds: float
    front_bytes: int
    worker_bytes: int
    children_bytes: int
    worker_process_id: int
    front_descriptors: int
    worker_descriptors: int
    file_count: int


class Watch:
    """Samples a server from a thread of its own while it is entered."""

    def __init__(self, served: Served, *, every_seconds: float) -> None:
        self._served = served
        self._every_seconds = every_seconds
        self._started = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def elapsed_seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._started

    def _run(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            try:
                self.samples.append(self._look())
            except (psutil.Error, OSError, IndexError):
                continue  # a process or a folder went while it was looked at

    def _look(self) -> Sample:
        front = psutil.Process(self._served.process.pid)
        worker_id = self._served.worker_process_id
        worker_bytes = worker_descriptors = children_bytes = 0
        for child in front.children():
            if child.pid == worker_id:
                worker_bytes, worker_descriptors = int(child.memory_info().rss), int(child.num_fds())
            else:
                children_bytes += int(child.memory_info().rss)
        files = sum(
            1
            for folder in ("uploads", "jobs")
            for path in (self._served.data / folder).rglob("*")
            if path.is_file()
        )
        return Sample(
            self.elapsed_seconds(),
            int(front.memory_info().rss),
            worker_bytes,
            children_bytes,
            worker_id,
            int(front.num_fds()),
            worker_descriptors,
            files,
        )


def slope_per_hour(times: Sequence[float], values: Sequence[float]) -> float:
    """The line of least squares through the values, per hour; 0.0 for fewer than two."""
    count = len(times)
    if count < 2:
        return 0.0
    mean_time, mean_value = sum(times) / count, sum(values) / count
    spread = sum((one - mean_time) ** 2 for one in times)
    shared = sum((one - mean_time) * (value - mean_value) for one, value in zip(times, values, strict=True))
    return HOUR_SECONDS * shared / spread if spread else 0.0
