"""Jobs in memory: a JobStore for one process that keeps nothing (`--no-store`), and the plainest one to read.

Jobs are gone with the process. Recordings lie on the disk while they are needed, because that is where decoders read
them, and the next start removes what a killed process left. Finished jobs are bounded in number: the oldest give way.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.protocol.transcript import Transcript
from server.jobs.audio_folder import AudioFolder, FolderLock, store_error
from server.jobs.bells import CALLBACKS, WORK, claim_of, log_of
from server.jobs.callback import Delivery, callback_body, new_delivery_id
from server.jobs.job import (
    CallbackState,
    Claim,
    EventKind,
    Job,
    JobFailure,
    JobStatus,
    StoredAudio,
    Submission,
    Swept,
    WorkerDeath,
)
from server.jobs.keeping_clock import KeepingClock
from server.jobs.memory_callbacks import MemoryCallback, due
from server.jobs.memory_record import JobRecord, as_queues, queued_by_owner
from server.jobs.memory_shelf import MemoryShelf
from server.jobs.serialization import fingerprint
from server.jobs.store import (
    LEASE_OVER,
    IdempotencyConflict,
    JobNotRetryable,
    JobStoreFull,
    JobStoreUnavailable,
    StoreRules,
    Submitted,
    not_heard_of_again,
)
from server.keys import make_private_folder

MAX_FINISHED = 1000


class MemoryJobStore(MemoryShelf):
    """A JobStore for one process; lives on one event loop."""

    def __init__(
        self,
        data_folder: Path,
        rules: StoreRules | None = None,
        *,
        max_finished: int = MAX_FINISHED,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """wall, monotonic: clocks, for tests."""
        self._rules = rules or StoreRules()
        self._max_finished = max_finished
        self._wall = wall
        self._monotonic = monotonic
        self._clock = KeepingClock(wall=wall, monotonic=monotonic)
        self._folder = data_folder / "jobs"
        self._lock = FolderLock(self._folder / "lock")
        # Not where a store on disk keeps its recordings, which are still needed when that one is used again.
        super().__init__(AudioFolder(self._folder / "passing-audio"))
        self._keys: dict[tuple[str, str], str] = {}
        self._last_seq = 0
        self._is_draining = False

    # ---- life ------------------------------------------------------------------------------------------------

    async def open(self) -> Swept:
        """See JobStore."""
        try:
            make_private_folder(self._folder.parent)
            make_private_folder(self._folder)
            self._lock.take()
            self._audio.make()
            orphans = self._audio.remove_all_but(())
        except OSError as error:
            self._lock.release()
            raise store_error(error) from None
        self._is_open = True
        return Swept(orphans=orphans)

    async def close(self) -> None:
        """See JobStore; every job is gone."""
        if self._is_open:
            self._is_open = False
            self._audio.remove_all_but(())
            self._bells.ring_all()
            self._lock.release()

    # ---- submitting ------------------------------------------------------------------------------------------

    async def put_audio(self, source: Path, *, sha256: str) -> StoredAudio:
        """See JobStore."""
        self._check_open()
        return self._audio.move(source, sha256)

    async def discard_audio(self, audio: StoredAudio) -> None:
        """See JobStore."""
        self._audio.remove([audio.audio_id])

    async def submit(self, submission: Submission) -> Submitted:
        """See JobStore."""
        try:
            return self._submit(submission)
        except BaseException:
            self._audio.remove([submission.audio.audio_id])
            raise

    def _submit(self, submission: Submission) -> Submitted:
        self._check_open()
        marks = fingerprint(submission)
        key = submission.idempotency_key
        if key is not None and (known := self._keys.get((submission.owner, key))) is not None:
            entry = self._entries[known]
            if entry.fingerprint != marks:
                raise IdempotencyConflict(
                    "This idempotency key was used for another recording, or with other options."
                )
            self._audio.remove([submission.audio.audio_id])
            return Submitted(entry.bare(), is_new=False)
        self._check_room()
        self._last_seq += 1
        job = Job(
            job_id="job_" + secrets.token_hex(16),
            owner=submission.owner,
            created_at=self._wall(),
            options=submission.options,
            result_format=submission.result_format,
            callback_url=submission.callback_url,
        )
        entry = JobRecord(self._last_seq, job, submission.audio, marks, key)
        self._entries[job.job_id] = entry
        if key is not None:
            self._keys[submission.owner, key] = job.job_id
        entry.log("queued", self._wall())
        self._bells.ring(WORK)
        return Submitted(replace(job, queue_position=self._queue_position(entry)), is_new=True)

    def _check_room(self) -> None:
        unfinished = sum(1 for entry in self._entries.values() if not entry.job.is_finished)
        if unfinished >= self._rules.max_unfinished:
            raise JobStoreFull(f"{unfinished} jobs are unfinished already")

    # ---- working ---------------------------------------------------------------------------------------------

    async def claim(self, worker: str, *, wait_seconds: float = 0.0, limit: int = 1) -> tuple[Claim, ...]:
        """See JobStore."""
        deadline = time.monotonic() + wait_seconds
        with self._bells.listening(WORK) as arrived:
            while True:
                self._check_open()
                arrived.clear()
                claims = self._claim_now(worker, limit)
                remaining = deadline - time.monotonic()
                if claims or remaining <= 0 or self._is_draining:
                    return claims
                # Looked at in between, because a lease that ends rings no bell.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(remaining, self._rules.lease_seconds / 2)):
                        await arrived.wait()

    def _claim_now(self, worker: str, limit: int) -> tuple[Claim, ...]:
        self._take_back_silent()
        if self._is_draining:
            return ()
        lease_until = self._monotonic() + self._rules.lease_seconds
        queued = queued_by_owner(self._entries.values())
        claims: list[Claim] = []
        while len(claims) < limit and (queue := self._turns.next_of(as_queues(queued))) is not None:
            entry = queued[queue.owner].pop(0)
            self._turns.note_served(queue.owner)
            claims.append(entry.begin(worker, self._wall(), lease_until))
            self._bells.ring(log_of(entry.job.job_id))
        return tuple(claims)

    async def claimed_audio(self, claim: Claim) -> Path:
        """See JobStore."""
        path = await self.audio(claim.job.job_id, claim.job.owner)
        if path is None:
            raise JobStoreUnavailable("The recording of this job is gone.")
        return path

    async def heartbeat(
        self,
        claim: Claim,
        *,
        audio_seconds_done: float | None = None,
        audio_seconds_total: float | None = None,
        new_text: str = "",
    ) -> bool:
        """See JobStore."""
        entry = self._held(claim)
        if entry is None:
            return False
        entry.lease_until = self._monotonic() + self._rules.lease_seconds
        entry.report(self._wall(), audio_seconds_done, audio_seconds_total, new_text)
        self._bells.ring(log_of(claim.job.job_id))
        return True

    async def wait_until_lost(self, claim: Claim) -> None:
        """See JobStore."""
        with self._bells.listening(claim_of(claim.job.job_id)) as rung:
            while self._is_open and self._held(claim) is not None:
                await rung.wait()
                rung.clear()

    async def complete(self, claim: Claim, transcript: Transcript, *, is_demo: bool) -> bool:
        """See JobStore."""
        entry = self._held(claim)
        if entry is None:
            return False
        seconds = transcript.duration_seconds
        entry.job = replace(
            entry.job, audio_seconds_done=seconds, audio_seconds_total=seconds, partial_text="",
            transcript=transcript, is_demo=is_demo,
        )  # fmt: skip
        self._end(entry, "completed", "done", keeps_audio=self._rules.keep_audio)
        return True

    async def fail(self, claim: Claim, failure: JobFailure, *, retryable: bool) -> JobStatus | None:
        """See JobStore."""
        entry = self._held(claim)
        if entry is None:
            return None
        if retryable:
            self._record_death(entry, failure, failure.code)
        else:
            self._end(entry, "failed", "failed", keeps_audio=True, failure=failure)
        return entry.job.status

    async def release(self, claim: Claim) -> bool:
        """See JobStore."""
        entry = self._held(claim)
        if entry is not None:
            self._requeue(entry, uncharged=1)
        return entry is not None

    async def drain(self) -> int:
        """See JobStore."""
        self._is_draining = True
        held = [entry for entry in self._entries.values() if entry.job.status == "processing"]
        for entry in held:
            self._requeue(entry, uncharged=1)
        self._bells.ring(WORK)
        return len(held)

    def _held(self, claim: Claim) -> JobRecord | None:
        self._check_open()
        entry = self._entries.get(claim.job.job_id)
        return entry if entry is not None and entry.is_held_by(claim) else None

    def _take_back_silent(self) -> int:
        now = self._monotonic()
        silent = [
            entry
            for entry in self._entries.values()
            if entry.job.status == "processing" and entry.lease_until < now
        ]
        for entry in silent:
            self._record_death(entry, not_heard_of_again(), LEASE_OVER)
        return len(silent)

    def _record_death(self, entry: JobRecord, failure: JobFailure, code: str) -> None:
        death = WorkerDeath(entry.job.attempts, entry.worker or "", self._wall(), code)
        entry.job = replace(entry.job, deaths=(*entry.job.deaths, death))
        if len(entry.job.deaths) < self._rules.max_worker_deaths:
            self._requeue(entry, uncharged=0)
        else:
            self._end(entry, "failed", "failed", keeps_audio=True, failure=failure)

    def _requeue(self, entry: JobRecord, *, uncharged: int, **changes: Any) -> None:
        entry.back_to_queue(self._wall(), uncharged=uncharged, **changes)
        for name in (WORK, claim_of(entry.job.job_id), log_of(entry.job.job_id)):
            self._bells.ring(name)

    # ---- ending ----------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str, owner: str) -> Job | None:
        """See JobStore."""
        entry = self._find(job_id, owner)
        if entry is not None and not entry.job.is_finished:
            self._end(entry, "cancelled", "cancelled", keeps_audio=False)
        return await self.get(job_id, owner)

    async def erase(self, job_id: str, owner: str) -> bool:
        """See JobStore."""
        entry = self._find(job_id, owner)
        if entry is not None:
            self._remove(entry)
        return entry is not None

    async def retry(self, job_id: str, owner: str) -> Job | None:
        """See JobStore."""
        entry = self._find(job_id, owner)
        if entry is None:
            return None
        if entry.job.status != "failed" or not entry.job.has_audio:
            raise JobNotRetryable("Only a failed job whose recording is still there can be retried.")
        self._check_room()
        self._requeue(entry, uncharged=entry.job.attempts, deaths=(), failure=None, finished_at=None)
        return await self.get(job_id, owner)

    async def sweep(self) -> Swept:
        """See JobStore."""
        self._check_open()
        requeued = self._take_back_silent()
        now = self._clock.now()
        finished = [entry for entry in self._entries.values() if entry.job.is_finished]
        old = [e for e in finished if e.ended_on_clock < now - self._rules.keep_results_seconds]
        for entry in old:
            self._remove(entry)
        unneeded = [
            entry
            for entry in finished
            if entry.job.status == "failed"
            and entry.job.has_audio
            and entry.job.job_id in self._entries
            and entry.ended_on_clock < now - self._rules.keep_failed_audio_seconds
        ]
        for entry in unneeded:
            self._remove_audio(entry)
        return Swept(results=len(old), recordings=len(unneeded), requeued=requeued)

    def _end(
        self,
        entry: JobRecord,
        status: JobStatus,
        kind: EventKind,
        *,
        keeps_audio: bool,
        failure: JobFailure | None = None,
    ) -> None:
        entry.job = replace(entry.job, status=status, finished_at=self._wall(), failure=failure)
        entry.worker = None
        entry.ended_on_clock = self._clock.now()
        if not keeps_audio:
            self._remove_audio(entry)
        entry.log(kind, self._wall(), failure=failure)
        self._bells.ring(log_of(entry.job.job_id))
        self._bells.ring(claim_of(entry.job.job_id))
        if (url := entry.job.callback_url) is not None:
            body = callback_body(entry.job, status, self._wall(), failure)
            delivery = Delivery(entry.job.job_id, entry.job.owner, new_delivery_id(), url, body, 0)
            entry.callback = MemoryCallback(delivery, self._clock.now(), CallbackState())
            self._bells.ring(CALLBACKS)
        finished = [one for one in self._entries.values() if one.job.is_finished]
        if len(finished) > self._max_finished:
            self._remove(min(finished, key=lambda one: one.ended_on_clock))

    # ---- telling ---------------------------------------------------------------------------------------------

    async def take_callbacks(self, *, wait_seconds: float = 0.0, limit: int = 1) -> tuple[Delivery, ...]:
        """See JobStore."""
        deadline = time.monotonic() + wait_seconds
        with self._bells.listening(CALLBACKS) as rung:
            while True:
                self._check_open()
                rung.clear()
                now = self._clock.now()
                waiting = due(entry.callback for entry in self._entries.values())
                taken = tuple(one.take(now) for one in waiting[:limit] if one.due_on_clock <= now)
                remaining = deadline - time.monotonic()
                if taken or remaining <= 0:
                    return taken
                next_seconds = max(0.0, waiting[0].due_on_clock - now) if waiting else remaining
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(remaining, next_seconds)):
                        await rung.wait()

    async def note_callback(
        self, delivery: Delivery, *, error: str | None, retry_seconds: float | None = None
    ) -> None:
        """See JobStore."""
        self._check_open()
        entry = self._entries.get(delivery.job_id)
        if entry is not None and entry.callback is not None and entry.callback.delivery == delivery:
            due_on_clock = None if retry_seconds is None else self._clock.now() + retry_seconds
            entry.callback.note(error=error, due_on_clock=due_on_clock, at=self._wall())
            self._bells.ring(CALLBACKS)

    def _remove(self, entry: JobRecord) -> None:
        self._remove_audio(entry)
        del self._entries[entry.job.job_id]
        if entry.idempotency_key is not None:
            del self._keys[entry.job.owner, entry.idempotency_key]
        self._bells.ring(log_of(entry.job.job_id))
        self._bells.ring(claim_of(entry.job.job_id))

    def _remove_audio(self, entry: JobRecord) -> None:
        self._audio.remove([entry.audio.audio_id])
        entry.job = replace(entry.job, has_audio=False)
