"""Engines that stand still: stopped by SIGSTOP, hanging in the middle of a job, deaf to SIGTERM.

With the default settings: /health/ready says 503 and the worker is killed within 65 s, its job is done by
the next one, and a server that gets SIGTERM meanwhile is gone within 30 s.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from tests.fakes.running_server import script
from tests.fakes.served import Served, demo_server
from tools.hostile.connections import Findings
from tools.torture.clients import Client, wait_for
from tools.torture.engine_kills import FAKE
from tools.torture.invariants import check_leftovers, check_store, counts_of
from tools.torture.ledger import Ledger
from tools.torture.recordings import as_wav

KILLED_SECONDS = 65.0
STOPPED_SECONDS = 30.0
Story = Callable[[Path, Findings], dict[str, object]]


def hangs(folder: Path, *, stall_seconds: float | None = None) -> Findings:
    """All of them at once, each with a server of its own. stall_seconds: None for the default."""
    findings = Findings()
    settings = {} if stall_seconds is None else {"stall_seconds": stall_seconds}
    limit = KILLED_SECONDS if stall_seconds is None else stall_seconds + 5
    stories: dict[str, Callable[[Path], dict[str, object]]] = {
        "the real worker, stopped by SIGSTOP": lambda at: _stopped(at, findings, limit, settings),
        "a worker that hangs in a job": lambda at: _stuck(at, findings, limit, settings, hang=True),
        "a worker that freezes in a job": lambda at: _stuck(at, findings, limit, settings, freeze=True),
        "SIGTERM to the front while its worker hangs": lambda at: _terminated(at, findings, settings),
        "SIGTERM to the front while its worker is stopped": lambda at: _terminated(
            at, findings, settings, is_stopped=True
        ),
    }
    threads = []
    for number, (name, story) in enumerate(stories.items()):

        def run(
            name: str = name, story: Callable[[Path], dict[str, object]] = story, number: int = number
        ) -> None:
            try:
                findings.measured[name] = story(folder / str(number))
            except Exception as error:
                findings.expect(False, f"{name}: {type(error).__name__}: {error}")

        threads.append(threading.Thread(target=run, name=name))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return findings


def _stopped(folder: Path, findings: Findings, limit: float, settings: dict[str, float]) -> dict[str, object]:
    ledger = Ledger()
    with demo_server(folder / "data", **settings) as served, Client(served, ledger) as client:
        # Long enough for the worker to be stopped in its midst.
        job_id = client.submit(as_wav(bytes(2 * 16_000 * 60)))
        wait_for(lambda: counts_of(served.data)["processing"] == 1)
        worker = served.worker_process_id
        os.kill(worker, signal.SIGSTOP)
        measured = _until_replaced(served, client, findings, worker, limit)
        job = client.wait(job_id)
        children = psutil.Process(served.process.pid).children()
    findings.expect(job["status"] == "completed", f"its job is done by the next worker, not {job['status']}")
    findings.expect(len(job["worker_deaths"]) == 1, "one death is on its record")
    check_store(findings, served.data, ledger)
    return {**measured, **check_leftovers(findings, served.data, children)}


def _stuck(
    folder: Path, findings: Findings, limit: float, settings: dict[str, float], **how: bool
) -> dict[str, object]:
    ledger = Ledger()
    with Served(folder / "data", engine_module=FAKE, **settings) as served, Client(served, ledger) as client:
        worker = served.worker_process_id
        counter = str(folder / "broken")
        job_id = client.submit_script("in the end", break_times=1, break_counter=counter, **how)
        wait_for(lambda: Path(counter).exists())
        measured = _until_replaced(served, client, findings, worker, limit)
        job = client.wait(job_id)
        children = psutil.Process(served.process.pid).children()
    findings.expect(job["status"] == "completed", f"its job is done by the next worker, not {job['status']}")
    check_store(findings, served.data, ledger)
    return {**measured, **check_leftovers(findings, served.data, children)}


def _until_replaced(
    served: Served, client: Client, findings: Findings, worker: int, limit: float
) -> dict[str, object]:
    """Watch /health/ready, /health/live and the process from the moment that it stands still."""
    started = time.monotonic()
    slowest_live = 0.0
    refused_after = killed_after = None
    while killed_after is None and time.monotonic() - started < 2 * limit:
        asked = time.monotonic()
        client.http.get("/health/live").raise_for_status()
        slowest_live = max(slowest_live, time.monotonic() - asked)
        if refused_after is None and client.http.get("/health/ready").status_code == 503:
            refused_after = time.monotonic() - started
        if not psutil.pid_exists(worker):
            killed_after = time.monotonic() - started
        time.sleep(0.002)
    findings.expect(
        killed_after is not None and killed_after <= limit, f"killed within {limit} s: {killed_after}"
    )
    findings.expect(refused_after is not None, "/health/ready says 503 meanwhile")
    wait_for(lambda: client.http.get("/health/ready").status_code == 200, seconds=60)
    return {
        "ready_says_503_after_seconds": refused_after and round(refused_after, 2),
        "killed_after_seconds": killed_after and round(killed_after, 2),
        "ready_again_after_seconds": round(time.monotonic() - started, 2),
        "slowest_live_ms": round(1000 * slowest_live, 1),
    }


def _terminated(
    folder: Path, findings: Findings, settings: dict[str, float], *, is_stopped: bool = False
) -> dict[str, object]:
    """drain_seconds has its default; the worker does not even react to SIGTERM."""
    ledger = Ledger()
    with Served(
        folder / "data", engine_module=FAKE, model="fake:deaf=1", drain_seconds=20.0, **settings
    ) as served:
        with Client(served, ledger) as client:
            job_id = client.submit_script("never", hang=True)
            wait_for(lambda: client.job(job_id)["status"] == "processing")
        waiting = threading.Thread(target=_ask_in_vain, args=(served,))
        waiting.start()
        children = psutil.Process(served.process.pid).children()
        if is_stopped:
            os.kill(served.worker_process_id, signal.SIGSTOP)
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        code = served.process.wait(120)
        seconds = time.monotonic() - started
        waiting.join(30)
    findings.expect(seconds <= STOPPED_SECONDS, f"gone within 30 s of SIGTERM: {seconds:.1f} s")
    findings.expect(code == 0, f"SIGTERM is an ordinary end: exit code {code}")
    counts = counts_of(served.data)
    findings.expect(counts["queued"] == 1, f"its job was handed back: {counts}")
    return {"gone_after_seconds": round(seconds, 2), **check_leftovers(findings, served.data, children)}


def _ask_in_vain(served: Served) -> None:
    """A client that waits for a transcript when the end comes."""
    try:
        httpx.post(
            f"{served.url}/v1/audio/transcriptions",
            files={"file": script(text="x", hang=True)},
            data={"model": "whisper-1"},
            timeout=60,
        )
    except httpx.TransportError:
        return
