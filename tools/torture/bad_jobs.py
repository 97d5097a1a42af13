"""A job that kills each worker that takes it, and a worker whose memory grows without end."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path

import psutil

from tests.fakes.served import Served
from tools.hostile.connections import Findings, HealthProbe
from tools.torture.clients import Client, wait_for, wait_until_all_ended
from tools.torture.engine_kills import FAKE, RESTARTS
from tools.torture.invariants import check_leftovers, check_store
from tools.torture.ledger import Ledger

DEATHS = ("abort", "exit", "half_message")
LEAK_BYTES = 40 << 20
ROOM_BYTES = 256 << 20


def poison(folder: Path, neighbours: int = 20) -> Findings:
    """Three poisonous jobs among good ones: three attempts, then failed; the good ones are all done."""
    findings, ledger = Findings(), Ledger()
    with Served(folder / "data", engine_module=FAKE, **RESTARTS) as served, Client(served, ledger) as client:
        poisons, good = [], []
        places = [neighbours * (one + 1) // 4 for one in range(len(DEATHS))]
        for number in range(neighbours):
            if number in places:
                how = DEATHS[places.index(number)]
                poisons.append(
                    client.submit_script("poison", delay_seconds=0.2, **{how: 3 if how == "exit" else True})
                )
            good.append(client.submit_script(f"neighbour {number}", delay_seconds=0.3))
        ends = [client.wait(job_id) for job_id in [*poisons, *good]]
        children = psutil.Process(served.process.pid).children()
    poisoned, unharmed = ends[: len(poisons)], ends[len(poisons) :]
    for job in poisoned:
        findings.expect(job["status"] == "failed", f"a poisonous job fails: {job['status']}")
        findings.expect(job["attempts"] == 3, f"after three attempts: {job['attempts']}")
        findings.expect(len(job["worker_deaths"]) == 3, "with three deaths on its record")
    for job in unharmed:
        findings.expect(job["status"] == "completed", f"a neighbour is done: {job['status']}")
    findings.measured = {
        "poisonous": len(poisoned),
        "neighbours": len(unharmed),
        "most_deaths_of_a_neighbour": max(len(job["worker_deaths"]) for job in unharmed),
        "worker_deaths": len(served.events("engine_died")),
        "store": check_store(findings, served.data, ledger),
        "left": check_leftovers(findings, served.data, children),
    }
    return findings


def leak(folder: Path, jobs: int = 40) -> Findings:
    """Each job leaves 40 MB behind in the worker, whose address space has a limit, as a machine's memory has.

    What happens then: the allocation fails, the worker is gone, and the next one has its jobs. Nothing watches the
    worker's memory before that; the engine bounds its own by `--memory-limit-bytes`.
    """
    findings, ledger = Findings(), Ledger()
    most_bytes = 0
    with Served(folder / "data", engine_module=FAKE, max_running_jobs=4, **RESTARTS) as served:
        with Client(served, ledger) as client, HealthProbe(served.port, pause_seconds=0.05) as probe:
            limited: set[int] = set()
            submitted = 0
            while submitted < jobs or client.http.get("/jobs?status=queued&limit=1").json()["data"]:
                worker = served.worker_process_id
                if worker not in limited and psutil.pid_exists(worker):
                    process = psutil.Process(worker)
                    room = process.memory_info().vms + ROOM_BYTES
                    process.rlimit(resource.RLIMIT_AS, (room, room))
                    limited.add(worker)
                with contextlib.suppress(psutil.NoSuchProcess):
                    most_bytes = max(most_bytes, psutil.Process(worker).memory_info().rss)
                if submitted < jobs:
                    client.submit_script(f"leaking {submitted}", delay_seconds=0.05, leak_bytes=LEAK_BYTES)
                    submitted += 1
                time.sleep(0.02)
            wait_until_all_ended(served)
            wait_for(lambda: client.http.get("/health/ready").status_code == 200)
            front_bytes = served.resident_bytes()
        children = psutil.Process(served.process.pid).children()
        deaths = served.events("engine_died")
    findings.measured = {
        "jobs": jobs,
        "bytes_left_behind_by_each": LEAK_BYTES,
        "worker_deaths": len(deaths),
        "most_bytes_of_a_worker": most_bytes,
        "front_bytes": front_bytes,
        "health_failures": probe.failures[:5],
        "store": check_store(findings, served.data, ledger),
        "left": check_leftovers(findings, served.data, children),
    }
    findings.expect(len(deaths) > 0, "the leak really kills workers")
    findings.expect(not probe.failures, f"HTTP stays up: {probe.failures[:5]}")
    return findings
