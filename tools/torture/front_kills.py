"""SIGKILL to the front with a thousand jobs queued: the next one has them all, and nothing is left of the first."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.fakes.served import Served
from tools.hostile.connections import Findings
from tools.torture.clients import Client, free_port, is_alive, wait_for, wait_until_all_ended
from tools.torture.engine_kills import FAKE
from tools.torture.invariants import check_leftovers, check_store, counts_of
from tools.torture.ledger import Ledger

READY_SECONDS = 2.0
SUBMITTERS = 4


def kill_front(folder: Path, jobs: int) -> Findings:
    """Twice: while all wait and more are being submitted, and while they are worked on."""
    findings, ledger = Findings(), Ledger()
    data = folder / "data"
    # A worker that loads for long: everything queues.
    first = Served(data, engine_module=FAKE, model="fake:load_seconds=600", port=free_port())
    wait_for(lambda: is_alive(first), seconds=60)
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        numbers = itertools.count()
        ends = [pool.submit(_submit_until_killed, first, ledger, numbers) for _ in range(SUBMITTERS)]
        wait_for(lambda: counts_of(data)["queued"] >= jobs, pause_seconds=0.05)
        children = first.kill()
        cut = sum(end.result() for end in ends)
    queued = counts_of(data)["queued"]
    seconds_to_ready, second = _start(data)
    with second:
        wait_for(lambda: counts_of(data)["completed"] > jobs / 5, pause_seconds=0.002)
        children += second.kill()
    counts_then = counts_of(data)
    started = time.monotonic()
    seconds_to_ready_again, third = _start(data)
    with third:
        wait_until_all_ended(third)
        seconds_to_all = time.monotonic() - started
    findings.measured = {
        "queued_at_the_first_kill": queued,
        "submissions_cut_by_it": cut,
        "completed_at_the_second_kill": counts_then["completed"],
        "processing_at_the_second_kill": counts_then["processing"],
        "seconds_to_ready": [round(seconds_to_ready, 3), round(seconds_to_ready_again, 3)],
        "seconds_until_the_third_front_had_done_the_rest": round(seconds_to_all, 1),
        "store": check_store(findings, data, ledger, max_extra=cut),
        "left": check_leftovers(findings, data, children),
    }
    findings.expect(queued >= jobs, f"{jobs} were queued: {queued}")
    slowest = max(seconds_to_ready, seconds_to_ready_again)
    findings.expect(slowest < READY_SECONDS, f"ready within 2 s beside the model's load: {slowest:.2f} s")
    deaths = findings.measured["store"]["worker_deaths_on_records"]
    findings.expect(deaths == 0, f"a killed front is no worker's death: {deaths} are on record")
    return findings


def _submit_until_killed(served: Served, ledger: Ledger, numbers: itertools.count[int]) -> int:
    """Submit on and on; returns 1, because the last one may have been taken without a 202."""
    with Client(served, ledger) as client:
        try:
            while True:
                client.submit_script(f"job {next(numbers)}", delay_seconds=0.01)
        except httpx.TransportError:
            return 1


def _start(data: Path) -> tuple[float, Served]:
    """Start a front on this folder; returns after how long it was ready, Python's own start included."""
    started = time.monotonic()
    served = Served(data, engine_module=FAKE).__enter__()
    with httpx.Client(base_url=served.url) as client:
        wait_for(lambda: client.get("/health/ready").status_code == 200, pause_seconds=0.002)
    return time.monotonic() - started, served
