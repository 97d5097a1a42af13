"""Short requests in the middle of a long file, over HTTP: what they wait for, and what they cost the file."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scribewire.engine.bench.serving import Caller, RequestFailed, ServerAddress


@dataclass(frozen=True, slots=True)
class Middle:
    """A long recording with short ones sent into the middle of it, all in seconds."""

    file_seconds: float
    short_seconds: tuple[float, ...]


def short_in_the_middle(
    server: ServerAddress, long: Path, shorts: Sequence[Path], expected_seconds: float
) -> Middle:
    """Send the long recording, and the short ones evenly over the time that it is expected to take.

    expected_seconds: of the long recording alone. A short one whose turn comes after the long one's end is left out.
    raises: RequestFailed
    """
    outcome: list[float | RequestFailed] = []

    def run_long() -> None:
        caller = Caller(server)
        try:
            sent = time.perf_counter()
            caller.transcribe(long)
            outcome.append(time.perf_counter() - sent)
        except RequestFailed as error:
            outcome.append(error)
        finally:
            caller.close()

    thread = threading.Thread(target=run_long, daemon=True)
    started = time.perf_counter()
    thread.start()
    taken: list[float] = []
    caller = Caller(server)
    try:
        for index, short in enumerate(shorts, start=1):
            due = started + expected_seconds * index / (len(shorts) + 1)
            thread.join(max(0.0, due - time.perf_counter()))
            if not thread.is_alive():
                break
            sent = time.perf_counter()
            caller.transcribe(short)
            taken.append(time.perf_counter() - sent)
    finally:
        caller.close()
    thread.join()
    if isinstance(outcome[0], RequestFailed):
        raise outcome[0]
    return Middle(outcome[0], tuple(taken))
