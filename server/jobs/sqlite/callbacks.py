"""Changes of the table `callbacks`, as operations of the writer. `now` is on the retention clock."""

from __future__ import annotations

import sqlite3

from scribewire.server.jobs.delivery import LEASE_SECONDS, Delivery, new_delivery_id, webhook_body
from scribewire.server.jobs.job import JobFailure, JobStatus
from scribewire.server.jobs.sqlite.columns import job_of
from scribewire.server.jobs.sqlite.writer import Transaction

_TAKE = (
    "UPDATE callbacks SET attempts = attempts + 1, due_on_clock = :until WHERE seq IN (SELECT seq FROM callbacks "
    "WHERE status = 'due' AND due_on_clock <= :now ORDER BY due_on_clock LIMIT :limit) "
    "RETURNING seq, delivery_id, body, attempts"
)

_GIVE_UP = "UPDATE callbacks SET status = 'given_up', attempts = 0, last_error = 'unreadable' WHERE seq = ?"


def add(
    tx: Transaction,
    row: sqlite3.Row,
    *,
    status: JobStatus,
    failure: JobFailure | None,
    now: float,
    finished_at: float,
) -> None:
    """Add the webhook of a job that has ended; it replaces that of an earlier end."""
    body = webhook_body(job_of(row), status, finished_at, failure)
    tx.execute(
        "INSERT OR REPLACE INTO callbacks (seq, delivery_id, body, due_on_clock) VALUES (?, ?, ?, ?)",
        (row["seq"], new_delivery_id(), body, now),
    )


def take(tx: Transaction, now: float, limit: int) -> tuple[Delivery, ...]:
    """Take the deliveries that are due; without a recorded outcome they are due again when their lease is over."""
    rows = tx.execute(_TAKE, {"now": now, "until": now + LEASE_SECONDS, "limit": limit}).fetchall()
    taken = []
    for row in rows:
        job = tx.execute(
            "SELECT job_id, owner, callback_url FROM jobs WHERE seq = ?", (row["seq"],)
        ).fetchone()
        texts = (job["job_id"], job["owner"], row["delivery_id"], job["callback_url"], row["body"])
        if all(isinstance(one, str) for one in texts) and isinstance(row["attempts"], int):
            taken.append(Delivery(*texts, row["attempts"]))
        else:
            tx.execute(_GIVE_UP, (row["seq"],))
    return tuple(taken)


def note(
    tx: Transaction,
    delivery: Delivery,
    *,
    error: str | None,
    due_on_clock: float | None,
    at: float,
) -> None:
    """Record an attempt's outcome; due_on_clock: time of the next attempt, None for never."""
    status = "delivered" if error is None else "given_up" if due_on_clock is None else "due"
    tx.execute(
        "UPDATE callbacks SET status = ?, last_error = ?, last_at = ?, due_on_clock = coalesce(?, due_on_clock) "
        "WHERE delivery_id = ? AND attempts = ?",
        (status, error, at, due_on_clock, delivery.delivery_id, delivery.attempt),
    )


def next_due(tx: Transaction) -> float | None:
    """Time at which the next delivery is due, None without one."""
    (due,) = tx.execute("SELECT min(due_on_clock) FROM callbacks WHERE status = 'due'").fetchone()
    return float(due) if isinstance(due, (int, float)) else None
