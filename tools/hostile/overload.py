"""A thousand clients at once against an engine that answers one at a time."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections import Counter
from pathlib import Path

from tests.fakes.media import riff
from tests.fakes.raw_http import TRANSCRIPTIONS, Answer, ask_async, error_of, post_request
from tests.fakes.served import Served
from tools.hostile.connections import Findings, HealthProbe, allow_many_descriptors, wait_until

ALLOWED = frozenset({200, 202, 429, 503})
COUNT_FILE = "most-in-hand"


def overloaded_server(data: Path, *, cap: int, answer_seconds: float, max_jobs: int) -> Served:
    """A server for `overload`, whose worker writes down how much it was given at once."""
    data.mkdir(parents=True, exist_ok=True)
    model = f"fake:answer_seconds={answer_seconds},count_file={data / COUNT_FILE}"
    return Served(data, model=model, max_queued_requests=cap, max_jobs=max_jobs)


def small_recording(number: int) -> bytes:
    """A recording of its own for every client, or the server would answer them all at once."""
    return riff(struct.pack("<h", number) * 4_000)


def overload(served: Served, clients: int, *, cap: int) -> Findings:
    """Every second client submits a job, the others wait for their transcript; statuses and the queue are watched."""
    findings = Findings()
    allow_many_descriptors(clients + 200)
    most_on_disk = 0
    stopping = threading.Event()

    def watch_disk() -> None:
        nonlocal most_on_disk
        while not stopping.wait(0.02):
            recordings = sum((path / "recording").exists() for path in served.leftovers())
            most_on_disk = max(most_on_disk, recordings)

    async def all_clients() -> list[Answer | None]:
        contents = [
            post_request(
                served.port,
                small_recording(number),
                path="/transcribe" if number % 2 else TRANSCRIPTIONS,
                model="whisper-1",
            )
            for number in range(clients)
        ]
        return await asyncio.gather(
            *[ask_async(served.port, content, timeout_seconds=300) for content in contents]
        )

    watcher = threading.Thread(target=watch_disk, daemon=True)
    watcher.start()
    started = time.monotonic()
    with HealthProbe(served.port, pause_seconds=0.05) as probe:
        answers = asyncio.run(all_clients())
    seconds = time.monotonic() - started
    statuses = Counter(0 if answer is None else answer.status for answer in answers)
    codes = Counter(
        error_of(answer)["code"] for answer in answers if answer is not None and answer.status >= 400
    )
    without_advice = sum(
        1
        for answer in answers
        if answer is not None and answer.status in (429, 503) and "retry-after" not in answer.headers
    )
    is_drained = wait_until(lambda: not served.leftovers(), seconds=300)
    stopping.set()
    watcher.join(10)
    count_file = served.data / COUNT_FILE
    most_in_hand = int(count_file.read_text()) if count_file.exists() else 0
    findings.measured = {
        "clients": clients,
        "seconds": round(seconds, 2),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "codes": dict(codes),
        "queue_cap": cap,
        "most_in_the_engine": most_in_hand,
        "most_recordings_on_disk": most_on_disk,
        "health_p99_ms": round(1000 * probe.quantile_seconds(0.99), 1),
        "health_failures": probe.failures[:10],
    }
    findings.expect(set(statuses) <= ALLOWED, f"only 200, 202, 429 and 503, not {dict(statuses)}")
    findings.expect(statuses[200] + statuses[202] > 0, "work is still done")
    findings.expect(statuses[429] + statuses[503] > 0, "the load is really too much")
    findings.expect(without_advice == 0, "every refusal says when to come back")
    findings.expect(0 < most_in_hand <= cap, f"the engine never holds more than {cap}")
    findings.expect(is_drained, "all work comes to an end and leaves nothing on disk")
    findings.expect(not served.failures_in_log(), f"nothing fails inside: {served.failures_in_log()[:3]}")
    return findings
