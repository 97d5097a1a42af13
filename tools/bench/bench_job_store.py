"""Speed of the store on disk: taking jobs, and answering with ten thousand of them queued.

Everything is written through to the disk: a job counts when its transaction and its recording have been flushed.
`enqueue` is the store's own part (the recording lies there already); `with recording` adds moving and flushing a ten
second WAV for each job. Nothing fails because it is slow.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from scribewire.engine.protocol.config import TranscribeOptions
from scribewire.server.jobs.job import StoredAudio, Submission
from scribewire.server.jobs.sqlite.store import SqliteJobStore
from scribewire.server.jobs.store import StoreRules
from tools.bench.measuring import machine, show, summary, write_result

QUEUED = 10_000
CALLERS = (1, 64)
RUNS = 3
SECONDS = 2.0
RATE_TARGET = 50.0
WAV_BYTES = 320_044
MAX_JOBS = 10_000_000
OPTIONS = TranscribeOptions(language="en", prompt="names and terms")

_numbers = itertools.count()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: tools/bench/results)")
    parser.add_argument("--data", type=Path, help="folder on the disk to measure (default: a temporary one)")
    arguments = parser.parse_args()
    at_start = machine()
    with tempfile.TemporaryDirectory(dir=arguments.data) as scratch:
        rows = asyncio.run(measure(Path(scratch)))
    show(rows)
    content: dict[str, Any] = {"machine": at_start, "queued": QUEUED, "results": dict(rows)}
    command = "python -m tools.bench.bench_job_store"
    written = write_result(
        "job_store", command, content, **({"folder": arguments.out} if arguments.out else {})
    )
    print(f"written: {written.name}")


async def measure(scratch: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every row of the table."""
    rows = []
    for callers in CALLERS:
        rates = [await rate(scratch / f"a{callers}-{run}", callers, enqueue) for run in range(RUNS)]
        rows.append((f"enqueue, {callers} at once", summary(rates, unit="jobs/s")))
    for callers in CALLERS:
        rates = [await rate(scratch / f"b{callers}-{run}", callers, with_recording) for run in range(RUNS)]
        row = summary(rates, unit="jobs/s")
        row |= {"target": RATE_TARGET, "met": row["median"] >= RATE_TARGET}
        rows.append((f"with recording, {callers} at once", row))
    return rows + await with_many_queued(scratch / "many")


async def rate(
    folder: Path, callers: int, submit: Callable[[SqliteJobStore, Path], Awaitable[None]]
) -> float:
    """Jobs that are acknowledged in a second."""
    store = SqliteJobStore(folder, StoreRules(max_unfinished=MAX_JOBS))
    await store.open()
    done = 0
    end = time.monotonic() + SECONDS

    async def call() -> None:
        nonlocal done
        while time.monotonic() < end:
            await submit(store, folder)
            done += 1

    started = time.monotonic()
    await asyncio.gather(*(call() for _ in range(callers)))
    seconds = time.monotonic() - started
    await store.close()
    return done / seconds


async def enqueue(store: SqliteJobStore, folder: Path) -> None:
    """One job whose recording is already where it belongs (none, here)."""
    await store.submit(
        Submission("ann", StoredAudio(f"{next(_numbers):032x}", WAV_BYTES, "0" * 64), options=OPTIONS)
    )


async def with_recording(store: SqliteJobStore, folder: Path) -> None:
    """One job with the recording that was just received."""
    source = folder / f"upload-{next(_numbers)}"
    await asyncio.to_thread(source.write_bytes, bytes(WAV_BYTES))
    audio = await store.put_audio(source, sha256="0" * 64)
    await store.submit(Submission("ann", audio, options=OPTIONS))


async def with_many_queued(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Submitting, listing and starting again beside a long queue."""
    rules = StoreRules(max_unfinished=MAX_JOBS)
    store = SqliteJobStore(folder, rules)
    await store.open()
    for _ in range(QUEUED // 500):
        await asyncio.gather(*(small(store, folder) for _ in range(500)))
    submits = [await timed(with_recording(store, folder)) for _ in range(300)]
    pages = []
    cursor: str | None = None
    for _ in range(100):
        began = time.perf_counter()
        page = await store.list("ann", limit=100, cursor=cursor)
        pages.append(time.perf_counter() - began)
        cursor = page.cursor
    last = (await store.list("ann", limit=1)).jobs[0]
    states = [await timed(store.get(last.job_id, "ann")) for _ in range(100)]
    await store.close()
    starts = []
    for _ in range(RUNS):
        again = SqliteJobStore(folder, rules)
        starts.append(await timed(again.open()))
        assert (await again.stats()).jobs["queued"] == QUEUED + 300
        await again.close()
    return [
        ("submit with recording, p99", summary([1000 * p99(submits)], target=30.0, unit="ms")),
        ("list page of 100, p99", summary([1000 * p99(pages)], target=20.0, unit="ms")),
        ("state of the last job, p99", summary([1000 * p99(states)], unit="ms")),
        ("start with a long queue", summary(starts, target=2.0, unit="s")),
    ]


async def small(store: SqliteJobStore, folder: Path) -> None:
    """One job with a recording of a few bytes, as fast as that goes."""
    source = folder / f"upload-{next(_numbers)}"
    source.write_bytes(b"audio")
    await store.submit(Submission("ann", await store.put_audio(source, sha256="0" * 64), options=OPTIONS))


async def timed(work: Awaitable[Any]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def p99(seconds: list[float]) -> float:
    """The value that one in a hundred exceeds."""
    return sorted(seconds)[int(len(seconds) * 0.99) - 1]


if __name__ == "__main__":
    main()
