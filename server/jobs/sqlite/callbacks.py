"""Changes of the table `callbacks`, as operations of the writer. `now` is on the retention clock."""

from __future__ import annotations

import json
import sqlite3

from scribewire.server.jobs.delivery import (
    LEASE_SECONDS,
    Busy,
    Delivery,
    host_of,
    new_delivery_id,
    webhook_body,
)
from scribewire.server.jobs.fairness import Fairness, OwnerQueue
from scribewire.server.jobs.job import JobFailure, JobStatus
from scribewire.server.jobs.sqlite.columns import job_of
from scribewire.server.jobs.sqlite.writer import Transaction

_FREE = (
    "status = 'due' AND for_owner NOT IN (SELECT value FROM json_each(:owners)) "
    "AND to_host NOT IN (SELECT value FROM json_each(:hosts))"
)
_QUEUES = (
    "SELECT for_owner, count(*), min(seq) FROM callbacks "
    f"WHERE {_FREE} AND due_on_clock <= :now GROUP BY for_owner"
)
_TAKE = (
    "UPDATE callbacks SET attempts = attempts + 1, due_on_clock = :until WHERE seq = (SELECT seq FROM callbacks "
    f"WHERE {_FREE} AND for_owner = :owner AND due_on_clock <= :now ORDER BY due_on_clock, seq LIMIT 1) "
    "RETURNING seq, delivery_id, body, attempts"
)
_DELIVERY = "SELECT job_id, owner, ?2, callback_url, ?3, ?4 FROM jobs WHERE seq = ?1"
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
        "INSERT OR REPLACE INTO callbacks (seq, delivery_id, body, due_on_clock, for_owner, to_host) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (row["seq"], new_delivery_id(), body, now, row["owner"], host_of(str(row["callback_url"]))),
    )


def take(tx: Transaction, now: float, limit: int, busy: Busy, fairness: Fairness) -> tuple[Delivery, ...]:
    """Take the deliveries that are due; without a recorded outcome they are due again when their lease is over."""
    taken: list[Delivery] = []
    values = {**_json(busy), "now": now, "until": now + LEASE_SECONDS}
    while len(taken) < limit:
        queues = [OwnerQueue(*row) for row in tx.execute(_QUEUES, values)]
        if (queue := fairness.next_of(queues)) is None:
            break
        fairness.note_served(queue.owner)
        row = tx.execute(_TAKE, {**values, "owner": queue.owner}).fetchone()
        found = tuple(tx.execute(_DELIVERY, tuple(row)).fetchone())
        if [type(one) for one in found] == [str] * 5 + [int]:
            taken.append(Delivery(*found))
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


def next_due(tx: Transaction, busy: Busy) -> float | None:
    """Time at which the next delivery is due that is not busy, None without one."""
    (due,) = tx.execute(f"SELECT min(due_on_clock) FROM callbacks WHERE {_FREE}", _json(busy)).fetchone()
    return float(due) if isinstance(due, (int, float)) else None


def _json(busy: Busy) -> dict[str, str | float]:
    return {"owners": json.dumps([*busy.owners]), "hosts": json.dumps([*busy.hosts])}
