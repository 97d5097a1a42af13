"""Jobs read from the tables of `migrations/`: statements that change nothing, and rows as values."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from collections import Counter
from typing import get_args

from scribewire.server.jobs.fairness import Fairness, OwnerQueue
from scribewire.server.jobs.job import (
    LONG_SECONDS,
    CallbackState,
    CallbackStatus,
    EventKind,
    Job,
    JobEvent,
    JobPage,
    JobStatus,
    StoreStats,
)
from scribewire.server.jobs.serialization import failure_from_json, transcript_from_json
from scribewire.server.jobs.sqlite.columns import (
    JOB_COLUMNS,
    RowDamaged,
    count,
    job_of,
    number,
    one_of,
    or_null,
    text,
)
from scribewire.server.jobs.sqlite.statements import NOT_LONG, WAITS_CLAIMED
from scribewire.server.jobs.store import CURSOR_PATTERN, MAX_PAGE, CursorInvalid

_JOB_COLUMNS_OF_JOBS = ", ".join(f"jobs.{name}" for name in JOB_COLUMNS.split(", "))
_LARGEST_SEQ = (1 << 63) - 1
_WITH_STATUS: dict[JobStatus, str] = {
    "queued": f"AND status IN ('queued', 'processing') AND (status = 'queued' OR {WAITS_CLAIMED})",
    "processing": "AND status = :status AND started_at IS NOT NULL",
}
_END_EVENTS: dict[JobStatus, EventKind] = {"completed": "done", "failed": "failed", "cancelled": "cancelled"}


def find(connection: sqlite3.Connection, job_id: str, owner: str) -> sqlite3.Row | None:
    """The row of an owner's job, None without one."""
    return _one(
        connection,
        f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ? AND owner = ?",
        (job_id, owner),
    )


def owners_queues(connection: sqlite3.Connection, *, takes_long: bool = True) -> list[OwnerQueue]:
    """The queued and unclaimed jobs of every owner that has any.

    takes_long: False to leave out those that were found to be long. The cost grows with such owners, and only without
    long ones with their jobs, of which an index alone is read.
    """
    if takes_long:
        statement = (
            "SELECT owner, jobs, (SELECT min(seq) FROM jobs WHERE status = 'queued' AND jobs.owner = queues.owner) "
            "AS oldest FROM queues WHERE oldest IS NOT NULL"
        )
    else:
        statement = (
            "SELECT owner, count(*), min(seq) FROM jobs INDEXED BY jobs_queued_not_long "
            f"WHERE status = 'queued' AND {NOT_LONG} GROUP BY owner"
        )
    return [OwnerQueue(*row) for row in connection.execute(statement).fetchall()]


class QueuePositions:
    """Positions of one owner's jobs, asked for from the newest on: what is counted for one is not counted again."""

    def __init__(self, connection: sqlite3.Connection, fairness: Fairness) -> None:
        self._connection = connection
        self._fairness = fairness
        self._queues: dict[bool, list[OwnerQueue]] = {}
        self._counted = {True: (_LARGEST_SEQ, 0), False: (_LARGEST_SEQ, 0)}
        """By whether long ones count: a job's seq, and the number of queued jobs from there on."""

    def job_of(self, row: sqlite3.Row) -> Job:
        """The job of a row of JOB_COLUMNS, without its texts, with its queue position; raises RowDamaged."""
        job = job_of(row)
        if job.status != "queued":
            return job
        return dataclasses.replace(job, queue_position=self._of(row))

    def _of(self, row: sqlite3.Row) -> int | None:
        """1 and the number of jobs that will be begun before a row's job; None where the counts are damaged.

        Those that are claimed come first, the oldest before; then those that fairness takes next.
        """
        if row["status"] == "processing":
            return self._claimed_before(row["seq"]) + 1
        # A long one waits for its turn among all, a short one only for those that may be taken now.
        counts_long = self._fairness.takes_long or (row["audio_seconds_total"] or 0.0) > LONG_SECONDS
        if counts_long not in self._queues:
            self._queues[counts_long] = owners_queues(self._connection, takes_long=counts_long)
        queues = self._queues[counts_long]
        mine = next((one for one in queues if one.owner == row["owner"]), None)
        if mine is None:
            return None
        rank = mine.count - self._newer(row, counts_long=counts_long)
        return self._claimed_before(_LARGEST_SEQ) + self._fairness.position(mine, rank, queues)

    def _claimed_before(self, seq: int) -> int:
        statement = f"SELECT count(*) FROM jobs INDEXED BY jobs_processing WHERE {WAITS_CLAIMED} AND seq < ?"
        return int(self._connection.execute(statement, (seq,)).fetchone()[0])

    def _newer(self, row: sqlite3.Row, *, counts_long: bool) -> int:
        until_seq, counted = self._counted[counts_long]
        (more,) = self._connection.execute(
            "SELECT count(*) FROM jobs WHERE status = 'queued' AND owner = ? AND seq > ? AND seq < ? "
            f"AND {'TRUE' if counts_long else NOT_LONG}",
            (row["owner"], row["seq"], until_seq),
        ).fetchone()
        self._counted[counts_long] = row["seq"], counted + more + 1
        return int(counted + more)


def unfinished(connection: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
    """Ids and owners of all unfinished jobs."""
    one = "SELECT job_id, owner FROM jobs WHERE status = "
    rows = connection.execute(f"{one} 'queued' UNION ALL {one} 'processing'").fetchall()
    return tuple((row["job_id"], row["owner"]) for row in rows if isinstance(row["owner"], str))


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
    job = QueuePositions(connection, fairness).job_of(row)
    try:
        transcript = transcript_from_json(row["transcript"]) if job.status == "completed" else None
    except Exception:
        raise RowDamaged(row["seq"], "transcript") from None
    partial_text = row["partial_text"] if isinstance(row["partial_text"], str) else ""
    return dataclasses.replace(
        job, partial_text=partial_text, transcript=transcript, callback=_callback_of(row)
    )


def _callback_of(row: sqlite3.Row) -> CallbackState | None:
    if row["callback_status"] is None:
        return None
    try:
        return CallbackState(
            one_of(CallbackStatus)(row["callback_status"]),
            count(row["callback_attempts"]),
            or_null(text)(row["last_error"]),
            or_null(number)(row["last_at"]),
        )
    except (TypeError, KeyError):
        return CallbackState("given_up", last_error="unreadable")


def page(
    connection: sqlite3.Connection,
    owner: str,
    status: JobStatus | None,
    cursor: str | None,
    limit: int,
    fairness: Fairness,
) -> JobPage:
    """A page of jobs, newest first, from the cursor on; raises CursorInvalid."""
    limit = max(1, min(limit, MAX_PAGE))
    before = _LARGEST_SEQ if cursor is None else _seq_of(cursor)
    wanted = _WITH_STATUS.get(status, "AND status = :status") if status is not None else ""
    rows = connection.execute(
        f"SELECT {JOB_COLUMNS} FROM jobs WHERE owner = :owner {wanted} AND seq < :before "
        "ORDER BY seq DESC LIMIT :limit",
        {"owner": owner, "status": status, "before": before, "limit": limit + 1},
    ).fetchall()
    jobs = tuple(map(QueuePositions(connection, fairness).job_of, rows[:limit]))
    return JobPage(jobs, f"{rows[limit - 1]['seq']:x}" if len(rows) > limit else None)


def _seq_of(cursor: str) -> int:
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise CursorInvalid("cursor is not one that a list of jobs gave; leave it out to begin anew")
    return int(cursor, 16)


def log(
    connection: sqlite3.Connection, job_id: str, owner: str, after_id: int, fairness: Fairness
) -> tuple[JobStatus, list[JobEvent]] | None:
    """A job's status, and its events after an id, in order; None when this owner has no such job.

    The status is read first, so that the last event of a finished job is always among the events. An event that cannot
    be read is shown without its content, the last one with what the job says of its end.
    """
    row = find(connection, job_id, owner)
    if row is None:
        return None
    job = QueuePositions(connection, fairness).job_of(row)
    events = connection.execute(
        "SELECT * FROM events WHERE seq = ? AND event_id > ? ORDER BY event_id", (row["seq"], after_id)
    )
    rows = [event for event in events.fetchall() if isinstance(event["event_id"], int)]
    found = [_event_of(event, job, is_last=event is rows[-1]) for event in rows]
    if found and found[-1].kind == "queued":
        found[-1] = dataclasses.replace(found[-1], queue_position=job.queue_position)
    return job.status, found


def _event_of(event: sqlite3.Row, job: Job, *, is_last: bool) -> JobEvent:
    try:
        return JobEvent(
            event_id=event["event_id"],
            kind=one_of(EventKind)(event["kind"]),
            at=number(event["at"]),
            attempt=count(event["attempt"]),
            audio_seconds_done=number(event["audio_seconds_done"]),
            audio_seconds_total=or_null(number)(event["audio_seconds_total"]),
            text=text(event["text"]),
            failure=failure_from_json(event["failure"]),
        )
    except Exception:
        kind = _END_EVENTS.get(job.status, "progress") if is_last else "progress"
        return JobEvent(event["event_id"], kind, job.finished_at or job.created_at, failure=job.failure)


def audio_ids(connection: sqlite3.Connection) -> set[str]:
    """Ids of all recordings that belong to jobs."""
    rows = connection.execute("SELECT audio_id FROM jobs WHERE audio_id IS NOT NULL").fetchall()
    return {row["audio_id"] for row in rows}


def stats(connection: sqlite3.Connection) -> StoreStats:
    """Counts of jobs by status, of recordings and of due webhooks."""
    counted = counts(connection)
    audio = connection.execute(
        "SELECT count(*), coalesce(sum(audio_bytes), 0) FROM jobs WHERE audio_id IS NOT NULL"
    ).fetchone()
    (due,) = connection.execute("SELECT count(*) FROM callbacks WHERE status = 'due'").fetchone()
    return StoreStats(counted, audio[0], audio[1], due)


def counts(connection: sqlite3.Connection) -> dict[JobStatus, int]:
    """Jobs by status, zeros included."""
    counted = Counter(dict(connection.execute("SELECT status, jobs FROM counts").fetchall()))
    (claimed,) = connection.execute(f"SELECT count(*) FROM jobs WHERE {WAITS_CLAIMED}").fetchone()
    counted.update({"queued": claimed, "processing": -claimed})
    return {status: counted[status] for status in get_args(JobStatus)}


def _one(connection: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(statement, values).fetchone()
    return row
