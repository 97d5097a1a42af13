"""Rates at which jobs are taken, and the cost of a long queue: figures over HTTP, with every fsync.

Recordings are ten seconds of WAV. Submissions come on a schedule, whether or not the ones before them were answered,
and are timed from the moment when they were due. The engine is the fake one; recordings are decoded in the real pool,
after the 202, as the engine takes them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from scribewire.engine.processes.memory import leave_out_of_collections
from tests.fakes.raw_http import FORM_TYPE, form, request
from tests.fakes.served import Served
from tools.bench.measuring import summary
from tools.hostile.connections import Findings
from tools.torture.clients import Client, free_port, is_alive, wait_for, wait_until_all_ended
from tools.torture.engine_kills import FAKE
from tools.torture.invariants import check_store, counts_of
from tools.torture.ledger import Ledger
from tools.torture.recordings import numbered_wav

CLIP_SECONDS = 10.0
RATE = 50.0
CONNECTIONS = 16
SUBMIT_P99_SECONDS = 0.030
LIST_SECONDS = 0.020
READY_SECONDS = 2.0


def sustained(
    folder: Path, seconds: float, *, show: Callable[[int, int], None], rate: float = RATE
) -> Findings:
    """Fifty a second for so long; then everything must drain."""
    findings, ledger = Findings(), Ledger()
    with Served(folder / "data", max_jobs=1_000_000) as served:
        front = psutil.Process(served.process.pid)
        before = front.cpu_times()
        took, elapsed = asyncio.run(_submit_on_schedule(served, ledger, int(rate * seconds), rate, show))
        after = front.cpu_times()
        counts = counts_of(served.data)
        started = time.monotonic()
        wait_until_all_ended(served)
        drained_seconds = time.monotonic() - started
        left = counts["queued"] + counts["processing"]
        findings.measured = {
            "asked_jobs_per_second": rate,
            "jobs": len(took),
            "seconds": round(elapsed, 2),
            "reached_jobs_per_second": round(len(took) / elapsed, 2),
            "answer_after_ms": _quantiles(took),
            "front_cpu_seconds_per_job": round(
                (after.user + after.system - before.user - before.system) / max(1, len(took)), 5
            ),
            "done_meanwhile_per_second": round(counts["completed"] / elapsed, 2),
            "waiting_at_the_end": left,
            "drained_in_seconds": round(drained_seconds, 2),
            "drained_jobs_per_second": round(left / drained_seconds, 2) if left else None,
            "store": check_store(findings, served.data, ledger),
        }
    reached = findings.measured["reached_jobs_per_second"]
    findings.expect(reached >= 0.98 * rate, f"{rate:g} jobs a second are taken: {reached}")
    findings.expect(len(ledger.jobs) == int(rate * seconds), "every submission is accepted")
    return findings


async def _submit_on_schedule(
    served: Served, ledger: Ledger, jobs: int, rate: float, show: Callable[[int, int], None]
) -> tuple[list[float], float]:
    """Returns the seconds of every answer, counted from when it was due, and how long all took."""
    due: asyncio.Queue[tuple[int, float] | None] = asyncio.Queue()
    took: list[float] = []
    started = time.perf_counter()

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        while (one := await due.get()) is not None:
            number, when = one
            body = form(numbered_wav(number, CLIP_SECONDS))
            length = f"Content-Length: {len(body)}"
            writer.write(request(served.port, FORM_TYPE, length, body=body, path="/transcribe"))
            await writer.drain()
            status, answer = await _answer(reader)
            took.append(time.perf_counter() - when)
            ledger.answer("submission", status)
            if status == 202:
                ledger.accept(answer["job_id"])
            if len(took) % 50 == 0:
                show(len(took), jobs)
        writer.close()

    senders = [asyncio.create_task(send()) for _ in range(CONNECTIONS)]
    for number in range(jobs):
        when = started + number / rate
        await asyncio.sleep(max(0.0, when - time.perf_counter()))
        due.put_nowait((number, when))
    for _ in senders:
        due.put_nowait(None)
    await asyncio.gather(*senders)
    return took, time.perf_counter() - started


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    body = httpx.Response(status, content=await reader.readexactly(length)).json()
    return status, body


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    last = len(ordered) - 1
    at = {"median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
    return {name: round(1000 * ordered[min(last, int(part * len(ordered)))], 2) for name, part in at.items()}


def long_queue(folder: Path, queued: int, *, show: Callable[[int, int], None]) -> Findings:
    """Cost of submitting, listing and restarting beside so many waiting jobs."""
    findings, ledger = Findings(), Ledger()
    data = folder / "data"
    settings = {"engine_module": FAKE, "max_jobs": 2 * queued}
    # Or this process's own collections would be counted as the server's time.
    leave_out_of_collections()
    # A worker that loads for long: nothing leaves the queue.
    first = Served(data, model="fake:load_seconds=600", port=free_port(), **settings)
    wait_for(lambda: is_alive(first), seconds=60)
    with Client(first, ledger) as client:
        for number in range(queued):
            client.submit_script(f"waiting {number}")
            if number % 100 == 0:
                show(number, queued)
        submits = [
            _timed(lambda n=n: client.submit(numbered_wav(n, CLIP_SECONDS)), pause_seconds=0.02)
            for n in range(300)
        ]
        pages: dict[int, list[float]] = {20: [], 100: []}
        for size, seconds in pages.items():
            cursor = ""
            for _ in range(min(100, queued // size)):
                time.sleep(0.005)
                started = time.perf_counter()
                page = client.http.get(f"/jobs?limit={size}{cursor}").json()
                seconds.append(time.perf_counter() - started)
                cursor = f"&cursor={page['next_cursor']}"
        shows = [_timed(lambda: client.job(next(iter(ledger.jobs))), pause_seconds=0.005) for _ in range(100)]
    first.kill()
    starts = []
    for _ in range(3):
        started = time.monotonic()
        again = Served(data, **settings).__enter__()
        with httpx.Client(base_url=again.url) as asking:
            wait_for(lambda: asking.get("/health/ready").status_code == 200, pause_seconds=0.002)
        starts.append(time.monotonic() - started)
        left = counts_of(data)["queued"]
        again.kill()
    findings.measured = {
        "queued": queued,
        "submit_of_ten_seconds_ms": _quantiles(submits),
        "list_page_of_20_ms": _quantiles(pages[20]),
        "list_page_of_100_ms": _quantiles(pages[100]),
        "show_ms": _quantiles(shows),
        "start_to_ready": summary(starts, unit="s", target=READY_SECONDS),
        "queued_at_the_last_start": left,
    }
    late = {
        "submit": (_p99(submits), SUBMIT_P99_SECONDS),
        "list page of 20": (_p99(pages[20]), LIST_SECONDS),
        "list page of 100": (_p99(pages[100]), LIST_SECONDS),
        "start to ready": (max(starts), READY_SECONDS),
    }
    for name, (seconds, limit) in late.items():
        findings.expect(seconds <= limit, f"{name} within {limit} s: {seconds:.3f} s")
    return findings


def _timed(work: Callable[[], object], *, pause_seconds: float) -> float:
    time.sleep(pause_seconds)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * len(seconds)) - 1]
