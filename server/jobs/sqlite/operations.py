"""Everything that changes the tables of `migrations/`, each as one operation inside a transaction of the writer.

An operation refuses before it changes anything. Effects outside the database (notifications, files) are only noted in
its Effects. Every report of a worker is fenced: it counts only while the row still holds the worker's own claim.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable

from scribewire.engine.protocol.transcript import Transcript
from scribewire.server.jobs.delivery import Delivery
from scribewire.server.jobs.fairness import Fairness
from scribewire.server.jobs.job import (
    FINISHED,
    Claim,
    EventKind,
    JobFailure,
    JobStatus,
    StoredAudio,
    Submission,
    Swept,
    WorkerDeath,
)
from scribewire.server.jobs.notifications import CALLBACKS, WORK, claim_topic, log_topic
from scribewire.server.jobs.serialization import (
    deaths_to_json,
    failure_to_json,
    fingerprint,
    parameters_to_json,
    transcript_to_json,
)
from scribewire.server.jobs.sqlite import callbacks as sqlite_callbacks
from scribewire.server.jobs.sqlite import statements
from scribewire.server.jobs.sqlite.columns import JOB_COLUMNS, RowDamaged, job_of, new_job_id, replacements
from scribewire.server.jobs.sqlite.retained import RetainedData
from scribewire.server.jobs.sqlite.rows import counts, find, owners_queues, queue_position
from scribewire.server.jobs.sqlite.writer import Effects
from scribewire.server.jobs.store import (
    LEASE_OVER,
    IdempotencyConflict,
    JobNotRetryable,
    JobStoreFull,
    StoreRules,
    Submitted,
    not_heard_of_again,
)
from scribewire.server.observability.logs import log_event

logger = logging.getLogger("scribewire.jobs")


class JobOperations:
    """The operations of one start of one server."""

    def __init__(
        self,
        rules: StoreRules,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._wall = wall
        self._monotonic = monotonic
        self.retained = RetainedData(rules, wall=wall, monotonic=monotonic)
        self._boot = secrets.token_hex(8)
        self.fairness = Fairness()
        self.is_draining = False

    def begin(self, connection: sqlite3.Connection, effects: Effects) -> int:
        """Resume after an earlier start; returns how many jobs were queued again."""
        for statement in statements.COUNT_ANEW:
            connection.execute(statement)
        self.retained.begin(connection)
        return self._requeue_all(connection, effects)

    # ---- submitting ------------------------------------------------------------------------------------------

    def insert(self, connection: sqlite3.Connection, effects: Effects, submission: Submission) -> Submitted:
        """See JobStore.submit."""
        digest = fingerprint(submission)
        if submission.idempotency_key is not None:
            known = connection.execute(
                f"SELECT {JOB_COLUMNS}, fingerprint FROM jobs WHERE owner = ? AND idempotency_key = ?",
                (submission.owner, submission.idempotency_key),
            ).fetchone()
            if known is not None:
                if known["fingerprint"] != digest:
                    raise IdempotencyConflict(
                        "This idempotency key was used for another recording, or with other options."
                    )
                effects.removed_audio.add(submission.audio.audio_id)
                return Submitted(job_of(known), is_new=False)
        self._check_room(connection)
        row = connection.execute(statements.INSERT, self._row_of(submission, digest)).fetchone()
        effects.new_audio.add(submission.audio.audio_id)
        self._log(connection, effects, row, "queued")
        effects.notified.add(WORK)
        return Submitted(
            job_of(row, queue_position=queue_position(connection, self.fairness, row)), is_new=True
        )

    def _row_of(self, submission: Submission, digest: str) -> tuple[object, ...]:
        return (
            new_job_id(),
            submission.owner,
            parameters_to_json(submission),
            submission.result_format,
            submission.callback_url,
            submission.idempotency_key,
            digest,
            self._wall(),
            submission.audio.audio_id,
            submission.audio.size_bytes,
        )

    def _check_room(self, connection: sqlite3.Connection) -> None:
        counted = counts(connection)
        unfinished = counted["queued"] + counted["processing"]
        if unfinished >= self._rules.max_unfinished:
            raise JobStoreFull(f"{unfinished} jobs are unfinished already")

    # ---- working ---------------------------------------------------------------------------------------------

    def claim(
        self, connection: sqlite3.Connection, effects: Effects, worker: str, limit: int
    ) -> tuple[Claim, ...]:
        """See JobStore.claim."""
        self.take_back_silent(connection, effects)
        if self.is_draining:
            return ()
        values = {
            "worker": worker,
            "boot": self._boot,
            "lease_until": self._monotonic() + self._rules.lease_seconds,
            "now": self._wall(),
        }
        claims: list[Claim] = []
        while len(claims) < limit and (queue := self.fairness.next_of(owners_queues(connection))) is not None:
            row = connection.execute(statements.CLAIM, {**values, "seq": queue.oldest_seq}).fetchone()
            job = job_of(row)
            if not job.has_audio:
                raise RowDamaged(row["seq"], "audio_id")
            self.fairness.note_served(queue.owner)
            self._log(connection, effects, row, "progress")
            claims.append(Claim(job, worker, row["claim_number"]))
        return tuple(claims)

    def is_held(self, connection: sqlite3.Connection, claim: Claim) -> bool:
        """True while the claim is held."""
        return self._held(connection, claim) is not None

    def heartbeat(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        claim: Claim,
        seconds: tuple[float | None, float | None],
        new_text: str,
    ) -> bool:
        """See JobStore.heartbeat; seconds: done and total."""
        lease_until = self._monotonic() + self._rules.lease_seconds
        values = {**self._fence(claim), "lease_until": lease_until, "done": seconds[0], "total": seconds[1]}
        renewed = connection.execute(statements.RENEW, values).fetchall()
        if not renewed:
            return False
        named = {"seq": renewed[0]["seq"], "job_id": claim.job.job_id}
        if seconds != (None, None):
            self._log(connection, effects, named, "progress")
        if new_text:
            connection.execute(statements.ADD_TEXT, (named["seq"], new_text))
            self._log(connection, effects, named, "partial", text=new_text)
        return True

    def complete(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        claim: Claim,
        transcript: Transcript,
        is_demo: bool,
    ) -> bool:
        """See JobStore.complete."""
        row = self._held(connection, claim)
        if row is None:
            return False
        connection.execute(statements.SET_RESULT, (row["seq"], transcript_to_json(transcript)))
        connection.execute(
            "UPDATE jobs SET is_demo = ?, audio_seconds_done = ?, audio_seconds_total = ? WHERE seq = ?",
            (is_demo, transcript.duration_seconds, transcript.duration_seconds, row["seq"]),
        )
        self._end(connection, effects, row, "completed", "done", keeps_audio=self._rules.keep_audio)
        return True

    def fail(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        claim: Claim,
        failure: JobFailure,
        retryable: bool,
    ) -> JobStatus | None:
        """See JobStore.fail."""
        row = self._held(connection, claim)
        if row is None:
            return None
        if retryable:
            return self._record_death(connection, effects, row, claim.worker, failure)
        self._end(connection, effects, row, "failed", "failed", keeps_audio=True, failure=failure)
        return "failed"

    def release(self, connection: sqlite3.Connection, effects: Effects, claim: Claim) -> bool:
        """See JobStore.release."""
        row = self._held(connection, claim)
        if row is None:
            return False
        self._requeue(connection, effects, row, uncharged=1, deaths=row["deaths"])
        return True

    def drain(self, connection: sqlite3.Connection, effects: Effects) -> int:
        """See JobStore.drain; `is_draining` was set before."""
        effects.notified.add(WORK)
        return self._requeue_all(connection, effects)

    def take_back_silent(self, connection: sqlite3.Connection, effects: Effects) -> int:
        """Revoke the claims whose lease expired; returns how many."""
        rows = connection.execute(
            f"SELECT {JOB_COLUMNS}, worker FROM jobs WHERE status = 'processing' "
            "AND (lease_until < ? OR boot IS NOT ? OR typeof(lease_until) <> 'real') ORDER BY seq",
            (self._monotonic(), self._boot),
        ).fetchall()
        for row in rows:
            failure = not_heard_of_again()
            self._record_death(connection, effects, row, row["worker"], failure, code=LEASE_OVER)
        return len(rows)

    def _record_death(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        row: sqlite3.Row,
        worker: str,
        failure: JobFailure,
        *,
        code: str | None = None,
    ) -> JobStatus:
        death = WorkerDeath(row["attempts"], str(worker), self._wall(), code or failure.code)
        deaths = (*job_of(row).deaths, death)
        if len(deaths) < self._rules.max_worker_deaths:
            self._requeue(connection, effects, row, uncharged=0, deaths=deaths_to_json(deaths))
            return "queued"
        connection.execute("UPDATE jobs SET deaths = ? WHERE seq = ?", (deaths_to_json(deaths), row["seq"]))
        self._end(connection, effects, row, "failed", "failed", keeps_audio=True, failure=failure)
        return "failed"

    def _requeue_all(self, connection: sqlite3.Connection, effects: Effects) -> int:
        rows = connection.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE status = 'processing'").fetchall()
        for row in rows:
            self._requeue(connection, effects, row, uncharged=1, deaths=row["deaths"])
        return len(rows)

    def _requeue(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        row: sqlite3.Row,
        *,
        uncharged: int,
        deaths: str,
    ) -> None:
        connection.execute(statements.REQUEUE, (uncharged, deaths, row["seq"]))
        connection.execute("DELETE FROM texts WHERE seq = ?", (row["seq"],))
        self._log(connection, effects, row, "queued")
        effects.notified |= {WORK, claim_topic(row["job_id"])}

    # ---- ending ----------------------------------------------------------------------------------------------

    def cancel(self, connection: sqlite3.Connection, effects: Effects, job_id: str, owner: str) -> bool:
        """See JobStore.cancel; True when there is such a job."""
        row = find(connection, job_id, owner)
        if row is not None and row["status"] not in FINISHED:
            self._end(connection, effects, row, "cancelled", "cancelled", keeps_audio=False)
        return row is not None

    def erase(self, connection: sqlite3.Connection, effects: Effects, job_id: str, owner: str) -> bool:
        """See JobStore.erase."""
        row = find(connection, job_id, owner)
        if row is not None:
            self._remove(connection, effects, row)
        return row is not None

    def retry(self, connection: sqlite3.Connection, effects: Effects, job_id: str, owner: str) -> bool:
        """See JobStore.retry; True when there is such a job."""
        row = find(connection, job_id, owner)
        if row is None:
            return False
        if row["status"] != "failed" or row["audio_id"] is None:
            raise JobNotRetryable("Only a failed job whose recording is still there can be retried.")
        self._check_room(connection)
        connection.execute(
            "UPDATE jobs SET finished_at = NULL, ended_on_clock = NULL, failure = NULL WHERE seq = ?",
            (row["seq"],),
        )
        self._requeue(connection, effects, row, uncharged=row["attempts"], deaths="[]")
        return True

    def end_damaged(self, connection: sqlite3.Connection, effects: Effects, damage: RowDamaged) -> None:
        """End a job whose row cannot be read as failed, and replace what cannot be read.

        Its recording is kept, so that it can be retried, unless its options are lost: then it is set aside.
        """
        if connection.execute("SELECT 1 FROM jobs WHERE seq = ?", (damage.seq,)).fetchone() is None:
            return  # erased in the meantime
        row = self._row(connection, damage.seq)
        lost = replacements(row)
        if "options" in lost and "audio_id" not in lost and row["audio_id"] is not None:
            effects.orphaned_audio.add(row["audio_id"])
            self.retained.note_orphans(connection, [row["audio_id"]])
            lost["audio_id"] = None
        for name, value in lost.items():
            connection.execute(f"UPDATE jobs SET {name} = ? WHERE seq = ?", (value, damage.seq))
        row = self._row(connection, damage.seq)
        log_event(logger, logging.ERROR, "job_unreadable", job_id=row["job_id"], columns=damage.columns)
        self._end(connection, effects, row, "failed", "failed", keeps_audio=True, failure=damage.failure())
        effects.unreadable.append(job_of(row))

    def sweep(self, connection: sqlite3.Connection, effects: Effects) -> Swept:
        """See JobStore.sweep."""
        requeued = self.take_back_silent(connection, effects)
        self.retained.save_clock(connection)
        old = self.retained.old_results(connection)
        for seq in old:
            self._remove(connection, effects, self._row(connection, seq))
        recordings = self.retained.remove_recordings(connection, effects)
        return Swept(len(old), recordings, requeued, waiting=self.retained.waiting(connection))

    def rehearse(self, connection: sqlite3.Connection, effects: Effects) -> None:
        """Insert a job as a submission does, and undo it."""
        connection.execute("SAVEPOINT rehearsal")
        trial = Submission("", StoredAudio("", 0, ""))
        try:
            connection.execute(statements.INSERT, self._row_of(trial, fingerprint(trial)))
        finally:
            connection.execute("ROLLBACK TO rehearsal")
            connection.execute("RELEASE rehearsal")
        self.retained.save_clock(connection)

    def _remove(self, connection: sqlite3.Connection, effects: Effects, row: sqlite3.Row) -> None:
        connection.execute("DELETE FROM jobs WHERE seq = ?", (row["seq"],))
        effects.notified |= {log_topic(row["job_id"]), claim_topic(row["job_id"])}
        if row["audio_id"] is not None:
            effects.removed_audio.add(row["audio_id"])

    def _end(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        row: sqlite3.Row,
        status: JobStatus,
        kind: EventKind,
        *,
        keeps_audio: bool,
        failure: JobFailure | None = None,
    ) -> None:
        connection.execute(
            "UPDATE jobs SET status = ?, finished_at = ?, ended_on_clock = coalesce(ended_on_clock, ?), "
            "worker = NULL, boot = NULL, lease_until = NULL, failure = ?, audio_id = ? WHERE seq = ?",
            (
                status,
                self._wall(),
                self.retained.clock.now(),
                failure_to_json(failure),
                row["audio_id"] if keeps_audio else None,
                row["seq"],
            ),
        )
        if row["audio_id"] is not None and not keeps_audio:
            effects.removed_audio.add(row["audio_id"])
        self._log(connection, effects, row, kind, failure=failure)
        effects.notified.add(claim_topic(row["job_id"]))
        if row["callback_url"] is not None:
            now, finished_at = self.retained.clock.now(), self._wall()
            sqlite_callbacks.add(
                connection, row, status=status, failure=failure, now=now, finished_at=finished_at
            )
            effects.notified.add(CALLBACKS)

    # ---- webhooks --------------------------------------------------------------------------------------------

    def take_callbacks(
        self, connection: sqlite3.Connection, effects: Effects, limit: int
    ) -> tuple[tuple[Delivery, ...], float | None]:
        """See JobStore.take_callbacks; also returns the seconds until the next one is due."""
        now = self.retained.clock.now()
        taken = sqlite_callbacks.take(connection, now, limit)
        due = sqlite_callbacks.next_due(connection)
        return taken, None if due is None else max(0.0, due - now)

    def note_callback(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        delivery: Delivery,
        error: str | None,
        retry_seconds: float | None,
    ) -> None:
        """See JobStore.note_callback."""
        due = None if retry_seconds is None else self.retained.clock.now() + retry_seconds
        sqlite_callbacks.note(connection, delivery, error=error, due_on_clock=due, at=self._wall())
        effects.notified.add(CALLBACKS)

    # ---- the fence and the log -------------------------------------------------------------------------------

    def _fence(self, claim: Claim) -> dict[str, str | int]:
        return {
            "job_id": claim.job.job_id,
            "boot": self._boot,
            "worker": claim.worker,
            "claim_number": claim.claim_number,
        }

    def _held(self, connection: sqlite3.Connection, claim: Claim) -> sqlite3.Row | None:
        row: sqlite3.Row | None = connection.execute(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE {statements.HELD}", self._fence(claim)
        ).fetchone()
        return row

    def _row(self, connection: sqlite3.Connection, seq: int) -> sqlite3.Row:
        row: sqlite3.Row
        (row,) = connection.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE seq = ?", (seq,))
        return row

    def _log(
        self,
        connection: sqlite3.Connection,
        effects: Effects,
        row: sqlite3.Row | dict[str, object],
        kind: EventKind,
        *,
        text: str = "",
        failure: JobFailure | None = None,
    ) -> None:
        values = (kind, self._wall(), text, failure_to_json(failure), row["seq"])
        connection.execute(statements.LOG, values)
        effects.notified.add(log_topic(str(row["job_id"])))
