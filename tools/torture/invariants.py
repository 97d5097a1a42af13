"""Checks of the store and the disk, beside the server, against the answers that the clients received.

    every 202 reaches exactly one terminal state        nothing is completed twice
    a job fails of the engine only with three deaths     no recording outlives its time by 60 s
    nothing is orphaned: files, folders of uploads, processes

It reads the database itself, because the server must not be asked whether the server is right.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil

from tools.hostile.connections import Findings
from tools.torture.ledger import Ledger

LAST_KINDS = ("done", "failed", "cancelled")
END_OF = {"completed": "done", "failed": "failed", "cancelled": "cancelled"}
AUDIO_GRACE_SECONDS = 60.0
ENGINE_CODES = ("engine_crashed", "engine_fault")
MAX_DEATHS = 3


def rows_of(data: Path) -> list[dict[str, Any]]:
    """Every job as the database has it, with its log's kinds and its transcript's text."""
    address = f"file:{data / 'jobs' / 'jobs.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as database:
        database.row_factory = sqlite3.Row
        jobs = [dict(row) for row in database.execute("SELECT * FROM jobs ORDER BY seq")]
        kinds: dict[int, list[str]] = {}
        for row in database.execute("SELECT seq, kind FROM events ORDER BY seq, event_id"):
            kinds.setdefault(row["seq"], []).append(row["kind"])
        texts = dict(database.execute("SELECT seq, transcript FROM texts").fetchall())
    for job in jobs:
        job["kinds"] = kinds.get(job["seq"], [])
        job["deaths"] = json.loads(job["deaths"])
        job["failure"] = json.loads(job["failure"]) if job["failure"] else None
        transcript = texts.get(job["seq"])
        job["text"] = json.loads(transcript)["text"] if transcript else None
    return jobs


def counts_of(data: Path) -> dict[str, int]:
    """Number of jobs in each status; cheap enough to ask all the time."""
    address = f"file:{data / 'jobs' / 'jobs.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as database:
        return dict(database.execute("SELECT status, jobs FROM counts").fetchall())


def check_store(findings: Findings, data: Path, ledger: Ledger, *, max_extra: int = 0) -> dict[str, Any]:
    """Hold the store against the ledger; returns the figures. Waits up to 60 s for recordings to go.

    max_extra: jobs that no client holds a 202 for, because a connection or the server ended before it was sent.
    """
    rows = rows_of(data)
    by_id = {row["job_id"]: row for row in rows}
    expected = [job for job in ledger.jobs.values() if not job.is_erased]
    lost = [job.job_id for job in expected if job.job_id not in by_id]
    endless = [
        job.job_id for job in expected if job.job_id in by_id and by_id[job.job_id]["status"] not in END_OF
    ]
    findings.expect(not lost, f"every accepted job is in the store: {len(lost)} are not, {lost[:3]}")
    findings.expect(not endless, f"every accepted job has an end: {len(endless)} have none, {endless[:3]}")
    twice = [row["job_id"] for row in rows if row["kinds"].count("done") > 1]
    findings.expect(not twice, f"no job is completed twice: {twice[:3]}")
    findings.expect(not ledger.troubles, f"no client saw what must not be: {ledger.troubles[:3]}")
    for row in rows:
        _check_row(findings, row)
    for job in expected:
        row = by_id.get(job.job_id)
        if row is None:
            continue
        if job.expected_text is not None and row["status"] == "completed":
            findings.expect(
                row["text"] == job.expected_text, f"{job.job_id} has its own text, not {row['text']!r}"
            )
        findings.expect(
            set(job.ends) <= {row["status"]},
            f"{job.job_id}: clients were told {job.ends}, the store has {row['status']}",
        )
    extra = len(rows) - sum(1 for row in rows if row["job_id"] in ledger.jobs)
    findings.expect(extra <= max_extra, f"{extra} jobs nobody was told of; at most {max_extra} can be")
    outliving = _audio_that_outlives(data)
    findings.expect(not outliving, f"no recording outlives its time by 60 s: {len(outliving)} do")
    return {
        "accepted": len(ledger.jobs),
        "erased_by_clients": sum(job.is_erased for job in ledger.jobs.values()),
        "lost": len(lost),
        "without_an_end": len(endless),
        "completed_twice": len(twice),
        "completed": sum(row["status"] == "completed" for row in rows),
        "failed": sum(row["status"] == "failed" for row in rows),
        "cancelled": sum(row["status"] == "cancelled" for row in rows),
        "failed_of_the_engine": sum(_failed_of_the_engine(row) for row in rows),
        "worker_deaths_on_records": sum(len(row["deaths"]) for row in rows),
        "jobs_nobody_was_told_of": extra,
        "recordings_beyond_their_time": len(outliving),
    }


def _check_row(findings: Findings, row: dict[str, Any]) -> None:
    job_id, status, kinds = row["job_id"], row["status"], row["kinds"]
    ends = [kind for kind in kinds if kind in LAST_KINDS]
    if status in END_OF:
        findings.expect(ends == [END_OF[status]], f"{job_id} is {status} and ended once: {ends}")
        findings.expect(kinds[-1] == END_OF[status], f"{job_id}: nothing follows its end: {kinds[-3:]}")
    else:
        findings.expect(not ends, f"{job_id} is {status} and has no end: {ends}")
    findings.expect(len(row["deaths"]) <= MAX_DEATHS, f"{job_id} has {len(row['deaths'])} deaths")
    if _failed_of_the_engine(row):
        findings.expect(
            len(row["deaths"]) == MAX_DEATHS,
            f"{job_id} failed of the engine with three deaths on its record, not {len(row['deaths'])}",
        )


def _failed_of_the_engine(row: dict[str, Any]) -> bool:
    return row["status"] == "failed" and row["failure"]["code"] in ENGINE_CODES


def _audio_that_outlives(data: Path) -> list[str]:
    """Recordings on disk that no job may have any more, a minute after the last of these jobs ended."""
    deadline = time.monotonic() + AUDIO_GRACE_SECONDS
    while True:
        allowed = {
            row["audio_id"] for row in rows_of(data) if row["status"] not in ("completed", "cancelled")
        }
        beyond = [path.name for path in (data / "jobs" / "audio").iterdir() if path.name not in allowed]
        if not beyond or time.monotonic() > deadline:
            return beyond
        time.sleep(0.2)


def check_leftovers(findings: Findings, data: Path, children: list[psutil.Process]) -> dict[str, int]:
    """After a server is gone or replaced: no folder of an upload, no samples, and none of its children are left."""
    deadline = time.monotonic() + 10
    while True:
        uploads = [path for path in (data / "uploads").glob("server-*/*") if path.name != "lock"]
        alive = [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        if not (uploads or alive) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    findings.expect(not uploads, f"no upload is left on disk: {len(uploads)} are")
    findings.expect(not alive, f"no child outlives its front: {len(alive)} do")
    return {"uploads_left": len(uploads), "orphaned_processes": len(alive)}
