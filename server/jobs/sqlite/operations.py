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
from scribewire.server.jobs.delivery import Busy, Delivery
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
from scribewire.server.jobs.sqlite.rows import QueuePositions, counts, find, owners_queues
from scribewire.server.jobs.sqlite.writer import Transaction
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
        self._callback_turns = Fairness()
        self.is_draining = False

    def begin(self, tx: Transaction) -> int:
        """Resume after an earlier start; returns how many jobs were queued again."""
        for statement in statements.COUNT_ANEW:
            tx.execute(statement)
        self.retained.begin(tx)
        return self._requeue_all(tx)

    # ---- submitting ------------------------------------------------------------------------------------------

    def insert(self, tx: Transaction, submission: Submission) -> Submitted:
        """See JobStore.submit."""
        digest = fingerprint(submission)
        if submission.idempotency_key is not None:
            known = tx.execute(
                f"SELECT {JOB_COLUMNS}, fingerprint FROM jobs WHERE owner = ? AND idempotency_key = ?",
                (submission.owner, submission.idempotency_key),
            ).fetchone()
            if known is not None:
                if known["fingerprint"] != digest:
                    raise IdempotencyConflict(
                        "This idempotency key was used for another recording, or with other options."
                    )
                tx.effects.removed_audio.add(submission.audio.audio_id)
                return Submitted(QueuePositions(tx.connection, self.fairness).job_of(known), is_new=False)
        self._check_room(tx)
        row = tx.execute(statements.INSERT, self._row_of(submission, digest)).fetchone()
        tx.effects.new_audio.add(submission.audio.audio_id)
        self._log(tx, row, "queued")
        tx.effects.notified.add(WORK)
        return Submitted(QueuePositions(tx.connection, self.fairness).job_of(row), is_new=True)

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

    def _check_room(self, tx: Transaction) -> None:
        counted = counts(tx.connection)
        unfinished = counted["queued"] + counted["processing"]
        if unfinished >= self._rules.max_unfinished:
            raise JobStoreFull(f"{unfinished} jobs are unfinished already")

    # ---- working ---------------------------------------------------------------------------------------------

    def claim(self, tx: Transaction, worker: str, limit: int, takes_long: bool = True) -> tuple[Claim, ...]:
        """See JobStore.claim."""
        self.fairness.takes_long = takes_long
        self.take_back_silent(tx)
        if self.is_draining:
            return ()
        values = {
            "worker": worker,
            "boot": self._boot,
            "lease_until": self._monotonic() + self._rules.lease_seconds,
        }
        claims: list[Claim] = []
        while len(claims) < limit:
            queues = owners_queues(tx.connection, takes_long=takes_long)
            if (queue := self.fairness.next_of(queues)) is None:
                break
            row = tx.execute(statements.CLAIM, {**values, "seq": queue.oldest_seq}).fetchone()
            job = job_of(row)
            if not job.has_audio:
                raise RowDamaged(row["seq"], "audio_id")
            self.fairness.note_served(queue.owner)
            claims.append(Claim(job, worker, row["claim_number"]))
        return tuple(claims)

    def is_held(self, tx: Transaction, claim: Claim) -> bool:
        """True while the claim is held."""
        return self._held(tx, claim) is not None

    def heartbeat(
        self,
        tx: Transaction,
        claim: Claim,
        seconds: tuple[float | None, float | None],
        new_text: str,
        has_begun: bool = False,
    ) -> bool:
        """See JobStore.heartbeat; seconds: done and total."""
        values = {
            **self._fence(claim),
            "lease_until": self._monotonic() + self._rules.lease_seconds,
            "begun_at": self._wall() if has_begun else None,
            "done": seconds[0],
            "total": seconds[1],
        }
        renewed = tx.execute(statements.RENEW, values).fetchall()
        if not renewed:
            return False
        named = {"seq": renewed[0]["seq"], "job_id": claim.job.job_id}
        if has_begun or (seconds != (None, None) and renewed[0]["started_at"] is not None):
            self._log(tx, named, "progress")
        if new_text:
            tx.execute(statements.ADD_TEXT, (named["seq"], new_text))
            self._log(tx, named, "partial", text=new_text)
        return True

    def complete(
        self,
        tx: Transaction,
        claim: Claim,
        transcript: Transcript,
        is_demo: bool,
    ) -> bool:
        """See JobStore.complete."""
        row = self._held(tx, claim)
        if row is None:
            return False
        tx.execute(statements.SET_RESULT, (row["seq"], transcript_to_json(transcript)))
        tx.execute(
            "UPDATE jobs SET is_demo = ?, started_at = coalesce(started_at, ?), audio_seconds_done = ?, "
            "audio_seconds_total = ? WHERE seq = ?",
            (is_demo, self._wall(), *[transcript.duration_seconds] * 2, row["seq"]),
        )
        self._end(tx, row, "completed", "done", keeps_audio=self._rules.keep_audio)
        return True

    def fail(
        self,
        tx: Transaction,
        claim: Claim,
        failure: JobFailure,
        retryable: bool,
    ) -> JobStatus | None:
        """See JobStore.fail."""
        row = self._held(tx, claim)
        if row is None:
            return None
        if retryable:
            return self._record_death(tx, row, claim.worker, failure)
        self._end(tx, row, "failed", "failed", keeps_audio=True, failure=failure)
        return "failed"

    def release(self, tx: Transaction, claim: Claim) -> bool:
        """See JobStore.release."""
        row = self._held(tx, claim)
        if row is None:
            return False
        self._requeue(tx, row, uncharged=1, deaths=row["deaths"])
        return True

    def drain(self, tx: Transaction) -> int:
        """See JobStore.drain; `is_draining` was set before."""
        tx.effects.notified.add(WORK)
        return self._requeue_all(tx)

    def take_back_silent(self, tx: Transaction) -> int:
        """Revoke the claims whose lease expired; returns how many."""
        rows = tx.execute(
            f"SELECT {JOB_COLUMNS}, worker FROM jobs INDEXED BY jobs_processing WHERE status = 'processing' "
            "AND (lease_until < ? OR boot IS NOT ? OR typeof(lease_until) <> 'real') ORDER BY seq",
            (self._monotonic(), self._boot),
        ).fetchall()
        for row in rows:
            failure = not_heard_of_again()
            self._record_death(tx, row, row["worker"], failure, code=LEASE_OVER)
        return len(rows)

    def _record_death(
        self,
        tx: Transaction,
        row: sqlite3.Row,
        worker: str,
        failure: JobFailure,
        *,
        code: str | None = None,
    ) -> JobStatus:
        death = WorkerDeath(row["attempts"], str(worker), self._wall(), code or failure.code)
        deaths = (*job_of(row).deaths, death)
        if len(deaths) < self._rules.max_worker_deaths:
            self._requeue(tx, row, uncharged=0, deaths=deaths_to_json(deaths))
            return "queued"
        tx.execute("UPDATE jobs SET deaths = ? WHERE seq = ?", (deaths_to_json(deaths), row["seq"]))
        self._end(tx, row, "failed", "failed", keeps_audio=True, failure=failure)
        return "failed"

    def _requeue_all(self, tx: Transaction) -> int:
        rows = tx.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE status = 'processing'").fetchall()
        for row in rows:
            self._requeue(tx, row, uncharged=1, deaths=row["deaths"])
        return len(rows)

    def _requeue(
        self,
        tx: Transaction,
        row: sqlite3.Row,
        *,
        uncharged: int,
        deaths: str,
    ) -> None:
        tx.execute(statements.REQUEUE, (uncharged, deaths, row["seq"]))
        tx.execute("DELETE FROM texts WHERE seq = ?", (row["seq"],))
        self._log(tx, row, "queued")
        tx.effects.notified |= {WORK, claim_topic(row["job_id"])}

    # ---- ending ----------------------------------------------------------------------------------------------

    def cancel(self, tx: Transaction, job_id: str, owner: str) -> bool:
        """See JobStore.cancel; True when there is such a job."""
        row = find(tx.connection, job_id, owner)
        if row is not None and row["status"] not in FINISHED:
            self._end(tx, row, "cancelled", "cancelled", keeps_audio=False)
        return row is not None

    def erase(self, tx: Transaction, job_id: str, owner: str) -> bool:
        """See JobStore.erase."""
        row = find(tx.connection, job_id, owner)
        if row is not None:
            self._remove(tx, row)
        return row is not None

    def retry(self, tx: Transaction, job_id: str, owner: str) -> bool:
        """See JobStore.retry; True when there is such a job."""
        row = find(tx.connection, job_id, owner)
        if row is None:
            return False
        if row["status"] != "failed" or row["audio_id"] is None:
            raise JobNotRetryable("Only a failed job whose recording is still there can be retried.")
        self._check_room(tx)
        tx.execute(
            "UPDATE jobs SET finished_at = NULL, ended_on_clock = NULL, failure = NULL WHERE seq = ?",
            (row["seq"],),
        )
        self._requeue(tx, row, uncharged=row["attempts"], deaths="[]")
        return True

    def end_damaged(self, damage: RowDamaged, tx: Transaction) -> None:
        """End a job whose row cannot be read as failed, and replace what cannot be read.

        Its recording is kept, so that it can be retried, unless its options are lost: then it is set aside.
        """
        if tx.execute("SELECT 1 FROM jobs WHERE seq = ?", (damage.seq,)).fetchone() is None:
            return  # erased in the meantime
        row = self._row(tx, damage.seq)
        lost = replacements(row)
        if "options" in lost and "audio_id" not in lost and row["audio_id"] is not None:
            tx.effects.orphaned_audio.add(row["audio_id"])
            self.retained.note_orphans(tx, [row["audio_id"]])
            lost["audio_id"] = None
        for name, value in lost.items():
            tx.execute(f"UPDATE jobs SET {name} = ? WHERE seq = ?", (value, damage.seq))
        row = self._row(tx, damage.seq)
        log_event(logger, logging.ERROR, "job_unreadable", job_id=row["job_id"], columns=damage.columns)
        self._end(tx, row, "failed", "failed", keeps_audio=True, failure=damage.failure())
        tx.effects.unreadable.append(job_of(row))

    def sweep(self, tx: Transaction) -> Swept:
        """See JobStore.sweep."""
        requeued = self.take_back_silent(tx)
        self.retained.save_clock(tx)
        old = self.retained.old_results(tx)
        for seq in old:
            self._remove(tx, self._row(tx, seq))
        recordings = self.retained.remove_recordings(tx)
        return Swept(len(old), recordings, requeued, waiting=self.retained.waiting(tx))

    def rehearse(self, tx: Transaction) -> None:
        """Insert a job as a submission does, and undo it."""
        tx.execute("SAVEPOINT rehearsal")
        trial = Submission("", StoredAudio("", 0, ""))
        try:
            tx.execute(statements.INSERT, self._row_of(trial, fingerprint(trial)))
        finally:
            tx.execute("ROLLBACK TO rehearsal")
            tx.execute("RELEASE rehearsal")
        self.retained.save_clock(tx)

    def _remove(self, tx: Transaction, row: sqlite3.Row) -> None:
        tx.execute("DELETE FROM jobs WHERE seq = ?", (row["seq"],))
        tx.effects.notified |= {log_topic(row["job_id"]), claim_topic(row["job_id"])}
        if row["audio_id"] is not None:
            tx.effects.removed_audio.add(row["audio_id"])

    def _end(
        self,
        tx: Transaction,
        row: sqlite3.Row,
        status: JobStatus,
        kind: EventKind,
        *,
        keeps_audio: bool,
        failure: JobFailure | None = None,
    ) -> None:
        tx.execute(
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
            tx.effects.removed_audio.add(row["audio_id"])
        self._log(tx, row, kind, failure=failure)
        tx.effects.notified.add(claim_topic(row["job_id"]))
        if row["callback_url"] is not None:
            now, finished_at = self.retained.clock.now(), self._wall()
            sqlite_callbacks.add(tx, row, status=status, failure=failure, now=now, finished_at=finished_at)
            tx.effects.notified.add(CALLBACKS)

    # ---- webhooks --------------------------------------------------------------------------------------------

    def take_callbacks(
        self, tx: Transaction, limit: int, busy: Busy
    ) -> tuple[tuple[Delivery, ...], float | None]:
        """See JobStore.take_callbacks; also returns the seconds until the next one is due."""
        now = self.retained.clock.now()
        taken = sqlite_callbacks.take(tx, now, limit, busy, self._callback_turns)
        due = sqlite_callbacks.next_due(tx, busy)
        return taken, None if due is None else max(0.0, due - now)

    def note_callback(
        self,
        tx: Transaction,
        delivery: Delivery,
        error: str | None,
        retry_seconds: float | None,
    ) -> None:
        """See JobStore.note_callback."""
        due = None if retry_seconds is None else self.retained.clock.now() + retry_seconds
        sqlite_callbacks.note(tx, delivery, error=error, due_on_clock=due, at=self._wall())
        tx.effects.notified.add(CALLBACKS)

    # ---- the fence and the log -------------------------------------------------------------------------------

    def _fence(self, claim: Claim) -> dict[str, str | int]:
        return {
            "job_id": claim.job.job_id,
            "boot": self._boot,
            "worker": claim.worker,
            "claim_number": claim.claim_number,
        }

    def _held(self, tx: Transaction, claim: Claim) -> sqlite3.Row | None:
        row: sqlite3.Row | None = tx.execute(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE {statements.HELD}", self._fence(claim)
        ).fetchone()
        return row

    def _row(self, tx: Transaction, seq: int) -> sqlite3.Row:
        row: sqlite3.Row
        (row,) = tx.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE seq = ?", (seq,))
        return row

    def _log(
        self,
        tx: Transaction,
        row: sqlite3.Row | dict[str, object],
        kind: EventKind,
        *,
        text: str = "",
        failure: JobFailure | None = None,
    ) -> None:
        values = (kind, self._wall(), text, failure_to_json(failure), row["seq"])
        tx.execute(statements.LOG, values)
        tx.effects.notified.add(log_topic(str(row["job_id"])))
