"""Brings shards of speech to a trainer while they are still being made."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tools.demo_model import corpus

# samples and listing of a shard -> what the pool's add() takes
Prepare = Callable[[NDArray[np.int16], dict[str, Any]], tuple[Any, ...]]


class Pool(Protocol):
    """Takes prepared shards; `add` says False when it is full."""

    def add(self, *shard: Any) -> bool: ...


class ShardFeeder:
    """A thread that tokenizes shards as they appear; the trainer takes them over between steps."""

    def __init__(self, folder: Path, prepare: Prepare) -> None:
        self._folder, self._prepare = folder, prepare
        self._ready: queue.Queue[tuple[Any, ...]] = queue.Queue(maxsize=8)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        seen: set[str] = set()
        while not self._stop.is_set():
            for listing in sorted(self._folder.glob("shard-*.json")):
                if listing.name in seen:
                    continue
                seen.add(listing.name)
                shard = self._prepare(*corpus.read_shard(listing))
                while not self._stop.is_set():
                    try:
                        self._ready.put(shard, timeout=1.0)
                        break
                    except queue.Full:
                        continue
            time.sleep(0.5)

    def take(self, pool: Pool, wait_seconds: float = 0.0) -> int:
        """Move what is ready into the pool; returns how many shards. Waits for the first one if asked to."""
        taken = 0
        while True:
            try:
                shard = (
                    self._ready.get(timeout=wait_seconds)
                    if wait_seconds > 0 and not taken
                    else self._ready.get_nowait()
                )
            except queue.Empty:
                return taken
            if not pool.add(*shard):
                self.close()
                return taken
            taken += 1

    def close(self) -> None:
        """End the thread; what it has not handed over is dropped."""
        self._stop.set()
