"""Jobs read from the tables of `migrations/`: statements that change nothing, and rows as values."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from typing import get_args

from scribewire.server.jobs.fairness import Fairness, OwnerQueue
from scribewire.server.jobs.job import CallbackState, Job, JobEvent, JobPage, JobStatus, StoreStats
from scribewire.server.jobs.serialization import (
    deaths_from_json,
    failure_from_json,
    parameters_from_json,
    transcript_from_json,
)
from scribewire.server.jobs.store import CURSOR_PATTERN, MAX_PAGE, CursorInvalid

JOB_COLUMNS = (
    "seq, job_id, owner, status, options, result_format, callback_url, created_at, started_at, finished_at, "
    "audio_id, audio_seconds_done, audio_seconds_total, attempts, deaths, claim_number, is_demo, failure"
)
_JOB_COLUMNS_OF_JOBS = ", ".join(f"jobs.{name}" for name in JOB_COLUMNS.split(", "))
_LARGEST_SEQ = (1 << 63) - 1


def job_of(row: sqlite3.Row, *, queue_position: int | None = None) -> Job:
    """The job of a row of JOB_COLUMNS, without its texts."""
    return Job(
        job_id=row["job_id"],
        owner=row["owner"],
        created_at=row["created_at"],
        status=row["status"],
        result_format=row["result_format"],
        callback_url=row["callback_url"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        audio_seconds_done=row["audio_seconds_done"],
        audio_seconds_total=row["audio_seconds_total"],
        attempts=row["attempts"],
        deaths=deaths_from_json(row["deaths"]),
        queue_position=queue_position,
        has_audio=row["audio_id"] is not None,
        is_demo=bool(row["is_demo"]),
        failure=failure_from_json(row["failure"]),
        **parameters_from_json(row["options"]),
    )


def find(connection: sqlite3.Connection, job_id: str, owner: str) -> sqlite3.Row | None:
    """The row of an owner's job, None without one."""
    return _one(
        connection,
        f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ? AND owner = ?",
        (job_id, owner),
    )


def owners_queues(connection: sqlite3.Connection) -> list[OwnerQueue]:
    """The queued jobs of every owner that has any; its cost grows with such owners, not with their jobs."""
    rows = connection.execute(
        "SELECT owner, jobs, (SELECT min(seq) FROM jobs WHERE status = 'queued' AND jobs.owner = queues.owner) "
        "AS oldest FROM queues"
    )
    return [OwnerQueue(row["owner"], row["jobs"], row["oldest"]) for row in rows.fetchall()]


def queue_position(connection: sqlite3.Connection, fairness: Fairness, row: sqlite3.Row) -> int:
    """Position of a row's queued job, 1 for next."""
    queues = owners_queues(connection)
    (mine,) = [one for one in queues if one.owner == row["owner"]]
    (newer,) = connection.execute(
        "SELECT count(*) FROM jobs WHERE status = 'queued' AND owner = ? AND seq > ?",
        (row["owner"], row["seq"]),
    ).fetchone()
    return fairness.position(mine, mine.count - newer, queues)


def unfinished(connection: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
    """Ids and owners of all unfinished jobs."""
    one = "SELECT job_id, owner FROM jobs WHERE status = "
    rows = connection.execute(f"{one} 'queued' UNION ALL {one} 'processing'").fetchall()
    return tuple((row["job_id"], row["owner"]) for row in rows)


def whole_job(connection: sqlite3.Connection, job_id: str, owner: str, fairness: Fairness) -> Job | None:
    """An owner's job with its texts and its queue position."""
    row = _one(
        connection,
        f"SELECT {_JOB_COLUMNS_OF_JOBS}, texts.partial_text, texts.transcript, callbacks.status AS callback_status, "
        "callbacks.attempts AS callback_attempts, callbacks.last_error, callbacks.last_at "
        "FROM jobs LEFT JOIN texts USING (seq) LEFT JOIN callbacks USING (seq) WHERE job_id = ? AND owner = ?",
        (job_id, owner),
    )
    if row is None:
        return None
    position = queue_position(connection, fairness, row) if row["status"] == "queued" else None
    return dataclasses.replace(
        job_of(row, queue_position=position),
        partial_text=row["partial_text"] or "",
        transcript=None if row["transcript"] is None else transcript_from_json(row["transcript"]),
        callback=None
        if row["callback_status"] is None
        else CallbackState(
            row["callback_status"], row["callback_attempts"], row["last_error"], row["last_at"]
        ),
    )


def page(
    connection: sqlite3.Connection, owner: str, status: JobStatus | None, cursor: str | None, limit: int
) -> JobPage:
    """A page of jobs, newest first, from the cursor on; raises CursorInvalid."""
    limit = max(1, min(limit, MAX_PAGE))
    before = _LARGEST_SEQ if cursor is None else _seq_of(cursor)
    wanted = "" if status is None else "AND status = :status "
    rows = connection.execute(
        f"SELECT {JOB_COLUMNS} FROM jobs WHERE owner = :owner {wanted}AND seq < :before "
        "ORDER BY seq DESC LIMIT :limit",
        {"owner": owner, "status": status, "before": before, "limit": limit + 1},
    ).fetchall()
    jobs = tuple(job_of(row) for row in rows[:limit])
    return JobPage(jobs, f"{rows[limit - 1]['seq']:x}" if len(rows) > limit else None)


def _seq_of(cursor: str) -> int:
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise CursorInvalid("cursor is not one that a list of jobs gave; leave it out to begin anew")
    return int(cursor, 16)


def log(
    connection: sqlite3.Connection, job_id: str, owner: str, after_id: int
) -> tuple[JobStatus, list[JobEvent]] | None:
    """A job's status, and its events after an id, in order; None when this owner has no such job.

    The status is read first, so that the last event of a finished job is always among the events.
    """
    row = find(connection, job_id, owner)
    if row is None:
        return None
    events = connection.execute(
        "SELECT * FROM events WHERE seq = ? AND event_id > ? ORDER BY event_id", (row["seq"], after_id)
    )
    return row["status"], [
        JobEvent(
            event_id=event["event_id"],
            kind=event["kind"],
            at=event["at"],
            attempt=event["attempt"],
            audio_seconds_done=event["audio_seconds_done"],
            audio_seconds_total=event["audio_seconds_total"],
            text=event["text"],
            failure=failure_from_json(event["failure"]),
        )
        for event in events.fetchall()
    ]


def audio_ids(connection: sqlite3.Connection) -> set[str]:
    """Ids of all recordings that belong to jobs."""
    rows = connection.execute("SELECT audio_id FROM jobs WHERE audio_id IS NOT NULL").fetchall()
    return {row["audio_id"] for row in rows}


def stats(connection: sqlite3.Connection) -> StoreStats:
    """Counts of jobs by status, of recordings and of due webhooks."""
    counted = dict(connection.execute("SELECT status, jobs FROM counts").fetchall())
    audio = connection.execute(
        "SELECT count(*), coalesce(sum(audio_bytes), 0) FROM jobs WHERE audio_id IS NOT NULL"
    ).fetchone()
    (due,) = connection.execute("SELECT count(*) FROM callbacks WHERE status = 'due'").fetchone()
    return StoreStats({status: counted[status] for status in get_args(JobStatus)}, audio[0], audio[1], due)


def _one(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(statement, values).fetchone()
    return row
