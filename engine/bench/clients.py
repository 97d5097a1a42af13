"""Clients of a server, each sending its next recording when the last one's text has come (closed loop)."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.bench.measuring import quantile
from engine.bench.serving import Caller, RequestFailed, ServerAddress


@dataclass(frozen=True, slots=True)
class Load:
    """What some clients got in one go.

    latencies: of every request, in seconds. wall_seconds: from the first sent to the last got.
    """

    clients: int
    latencies: tuple[float, ...]
    wall_seconds: float

    @property
    def requests_per_second(self) -> float:
        """Finished requests by the time they took all together."""
        return len(self.latencies) / self.wall_seconds

    def latency(self, share: float) -> float:
        """Seconds within which that share of the requests was answered."""
        return quantile(self.latencies, share)

    def values(self) -> dict[str, Any]:
        """For the report."""
        return {
            "clients": self.clients,
            "requests": len(self.latencies),
            "requests_per_second": round(self.requests_per_second, 4),
            "p50_seconds": round(self.latency(0.5), 5),
            "p95_seconds": round(self.latency(0.95), 5),
            "max_seconds": round(max(self.latencies), 5),
            "wall_seconds": round(self.wall_seconds, 4),
        }


def closed_loop(
    server: ServerAddress,
    recordings: Sequence[Path],
    clients: int,
    requests: int,
    *,
    seconds: float = 0.0,
    warm_up: bool = True,
) -> Load:
    """Keep `clients` requests under way until `requests` have been sent and `seconds` are over; wait for the last.

    Recordings are taken in turn. seconds: a fast server's round would else be over before it is at its pace, and
    mostly consist of its end, when fewer and fewer clients are left. warm_up: let every client send requests first,
    one or as many as that time takes, which do not count.
    raises: RequestFailed when any request fails; the others are waited for
    """
    numbers = itertools.count()
    lock = threading.Lock()
    latencies: list[float] = []
    failures: list[RequestFailed] = []
    started = [0.0]

    def note_start() -> None:
        started[0] = time.perf_counter()

    barrier = threading.Barrier(clients, action=note_start)

    def next_number() -> int | None:
        with lock:
            number = next(numbers)
            goes_on = number < requests or time.perf_counter() - started[0] < seconds
            return number if goes_on and not failures else None

    def run(index: int) -> None:
        caller = Caller(server)
        try:
            if warm_up:
                begun = time.perf_counter()
                for turn in itertools.count(index):
                    caller.transcribe(recordings[turn % len(recordings)])
                    if time.perf_counter() - begun >= seconds:
                        break
                # Servers drop connections that stand idle, as this one may until the last client is warm.
                caller.close()
                caller = Caller(server)
            barrier.wait()
            while (number := next_number()) is not None:
                sent = time.perf_counter()
                caller.transcribe(recordings[number % len(recordings)])
                latencies.append(time.perf_counter() - sent)
        except RequestFailed as error:
            failures.append(error)
            barrier.abort()
        except threading.BrokenBarrierError:
            return  # another client has failed and says so
        finally:
            caller.close()

    # Daemons, so that Ctrl-C does not wait for their answers.
    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Load(clients, tuple(latencies), time.perf_counter() - started[0])


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
