"""Changes of the table `callbacks`, as operations of the writer. `now` is on the clock that ages are counted by."""

from __future__ import annotations

import sqlite3

from scribewire.server.jobs.callback import LEASE_SECONDS, Delivery, callback_body, new_delivery_id
from scribewire.server.jobs.job import JobFailure, JobStatus
from scribewire.server.jobs.sqlite.rows import job_of

_TAKE = (
    "UPDATE callbacks SET attempts = attempts + 1, due_on_clock = :until WHERE seq IN (SELECT seq FROM callbacks "
    "WHERE status = 'due' AND due_on_clock <= :now ORDER BY due_on_clock LIMIT :limit) "
    "RETURNING seq, delivery_id, body, attempts"
)


def add(
    connection: sqlite3.Connection,
    row: sqlite3.Row,
    *,
    status: JobStatus,
    failure: JobFailure | None,
    now: float,
    finished_at: float,
) -> None:
    """A job has ended that somebody wants to be told of; what was to be told of an earlier end gives way."""
    body = callback_body(job_of(row), status, finished_at, failure)
    connection.execute(
        "INSERT OR REPLACE INTO callbacks (seq, delivery_id, body, due_on_clock) VALUES (?, ?, ?, ?)",
        (row["seq"], new_delivery_id(), body, now),
    )


def take(connection: sqlite3.Connection, now: float, limit: int) -> tuple[Delivery, ...]:
    """Hand out what is due; unless it is heard of, it is due again when its lease is over."""
    rows = connection.execute(_TAKE, {"now": now, "until": now + LEASE_SECONDS, "limit": limit}).fetchall()
    taken = []
    for row in rows:
        job = connection.execute(
            "SELECT job_id, owner, callback_url FROM jobs WHERE seq = ?", (row["seq"],)
        ).fetchone()
        taken.append(
            Delivery(
                job["job_id"],
                job["owner"],
                row["delivery_id"],
                job["callback_url"],
                row["body"],
                row["attempts"],
            )
        )
    return tuple(taken)


def note(
    connection: sqlite3.Connection,
    delivery: Delivery,
    *,
    error: str | None,
    due_on_clock: float | None,
    at: float,
) -> None:
    """How an attempt went; due_on_clock: when to try again, None for never."""
    status = "delivered" if error is None else "given_up" if due_on_clock is None else "due"
    connection.execute(
        "UPDATE callbacks SET status = ?, last_error = ?, last_at = ?, due_on_clock = coalesce(?, due_on_clock) "
        "WHERE delivery_id = ? AND attempts = ?",
        (status, error, at, due_on_clock, delivery.delivery_id, delivery.attempt),
    )


def next_due(connection: sqlite3.Connection) -> float | None:
    """When the next one is due."""
    (due,) = connection.execute("SELECT min(due_on_clock) FROM callbacks WHERE status = 'due'").fetchone()
    return None if due is None else float(due)
