"""A wall clock set two hours forward and two back under a working server: nothing is lost, requeued or expired.

The clock is libfaketime's, set while everything runs; the monotonic clock goes on as it must. Results are kept for an
hour here, so that a jump of two would take them all if ages went by the wall clock.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.fakes.served import Served
from tools.hostile.connections import Findings
from tools.torture.clients import Client, wait_for, wait_until_all_ended
from tools.torture.engine_kills import FAKE
from tools.torture.invariants import check_store, rows_of
from tools.torture.ledger import Ledger

HOURS = 2
KEPT_SECONDS = 3600.0
SWEEPS_SECONDS = 25.0
"""The server sweeps every 20 s."""

_PLACES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)


def faketime_library() -> Path | None:
    """libfaketime for programs with threads, where it is installed."""
    return next((Path(place) for place in _PLACES if Path(place).exists()), None)


def clock_jumps(folder: Path, *, sweeps_seconds: float = SWEEPS_SECONDS) -> Findings:
    """Finished, failed, running and waiting jobs, through both jumps."""
    findings, ledger = Findings(), Ledger()
    library = faketime_library()
    assert library is not None, "libfaketime is not installed"
    folder.mkdir(exist_ok=True)
    offset = folder / "offset"
    offset.write_text("+0s")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    days = KEPT_SECONDS / 86_400
    with (
        Served(
            folder / "data",
            engine_module=FAKE,
            environment=environment,
            max_running_jobs=2,
            # The running jobs wait at a gate, and would pass for stuck after a minute.
            stall_seconds=3600.0,
            keep_results_days=days,
            keep_failed_audio_days=days,
        ) as served,
        Client(served, ledger) as client,
    ):
        for number in range(5):
            client.wait(client.submit_script(f"done before {number}"))
        failed = client.submit_script("fails", fail="audio_undecodable")
        client.wait(failed)
        gate = folder / "gate"
        running = [client.submit_script(f"running {n}", gate=str(gate)) for n in range(2)]
        wait_for(lambda: all(client.job(one)["status"] == "processing" for one in running))
        waiting = [client.submit_script(f"waiting {n}") for n in range(5)]
        shown: list[float] = []
        for jump in (f"+{HOURS}h", f"-{HOURS}h", "+0s"):
            offset.write_text(jump)
            job_id = client.submit_script(f"after {jump}")
            waiting.append(job_id)
            shown.append(client.job(job_id)["created_at"] - time.time())
            time.sleep(sweeps_seconds)
            for one in running:
                job = client.job(one)
                findings.expect(
                    job["status"] == "processing", f"{jump}: a running job goes on, not {job['status']}"
                )
                findings.expect(job["attempts"] == 1, f"{jump}: it is not handed out again")
            audio = client.job(failed)
            findings.expect(audio["has_audio"], f"{jump}: the failed job's recording is kept")
        gate.touch()
        wait_until_all_ended(served)
        requeued = [row["job_id"] for row in rows_of(served.data) if row["kinds"].count("queued") != 1]
        findings.expect(not requeued, f"no job was queued twice: {requeued}")
        findings.measured = {
            "jumps_seconds_as_the_server_saw_them": [round(one) for one in shown],
            "results_kept_for_seconds": KEPT_SECONDS,
            "seconds_after_each_jump": sweeps_seconds,
            "requeued": len(requeued),
            "store": check_store(findings, served.data, ledger),
        }
        findings.expect(
            abs(shown[0] - 7200) < 60 and abs(shown[1] + 7200) < 60, f"the clock really jumped: {shown}"
        )
    return findings
